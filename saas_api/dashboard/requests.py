"""Pages of the log of requests: list with search, filters and CSV, and one request."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, g, url_for
from marshmallow import fields, validate
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import usage_costs
from saas_api.core import access, clock, ids, time_zones
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import Text, Timestamp
from saas_api.core.web import forms, pages
from saas_api.core.web.forms import Form
from saas_api.core.web.pages import MAX_EXPORT_ROWS, PAGE_SIZE
from saas_api.dashboard import context
from saas_api.usage import request_counts, request_log
from saas_api.usage.models import LoggedRequest
from saas_api.usage.ranges import DateRange, HourRange
from saas_api.usage.request_log import DAYS_KEPT, RequestFilter
from saas_api.usage.schemas import LoggedRequestOut, RequestsQuery

bp = Blueprint("requests", __name__)

STATUS_TABS = (
    ("All", ""),
    ("Errors", request_log.ERROR),
    ("Succeeded", "2xx"),
    ("Rejected", request_log.REJECTED),
    ("Rate limited", "429"),
    ("Server errors", "5xx"),
)
REQUEST_CSV_COLUMNS = tuple(LoggedRequestOut().fields)
_schema = LoggedRequestOut()


class RequestFilters(RequestsQuery):
    """Filters of the log.

    route: with its method, such as "POST /api/v1/messages/send"
    since, until: instants, the second exclusive, from the bars of charts; dates take precedence
    after: time of the newest request on the open page, for the number of newer ones
    """

    route = Text(load_default=None, maximum=320)
    since = Timestamp(load_default=None)
    until = Timestamp(load_default=None)
    after = Timestamp(load_default=None)
    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))


def log_url(**filters: Any) -> str:
    """URL of the log with filters, of which None leaves one out; empty for a caller who may not open it."""
    may_open = access.has_permission(g.principal, "usage:read")
    return url_for("dashboard.requests.index", **filters) if may_open else ""


def range_filters(days: DateRange) -> dict[str, str]:
    """The filters for the requests of a range of usage."""
    if isinstance(days, HourRange):
        return {"since": days.starts_at.isoformat(), "until": days.ends_at.isoformat()}
    return {"start_date": str(days.first), "end_date": str(days.last)}


@bp.get("/logs")
@require_permission("usage:read")
def index() -> Any:
    """List requests of one mode, newest first, or download them as CSV. An ID that is found opens its request."""
    query, form = forms.parse_filters(RequestFilters(exclude=("limit", "method")))
    mode, zone = g.principal.mode, context.current_zone()
    page = None
    if not form.errors:
        try:
            filters = _filter(query, mode, zone)
        except ValidationFailed as error:
            form.errors.update({str(problem["field"]): str(problem["reason"]) for problem in error.details["fields"]})
        else:
            if (response := _other_response(query, filters, zone)) is not None:
                return response
            page_request = PageRequest(PAGE_SIZE, query["cursor"])
            page = request_log.list_requests(engine.session(), context.current_organization_id(), filters, page_request)
    names = usage_costs.get_key_names(engine.session(), context.current_organization_id())
    return pages.render_page(
        "dashboard/requests/index.html",
        status=200 if page else 422,
        form=form,
        requests=page.items if page else (),
        names=names,
        key_choices=[("", "Any"), *((ids.format_id("key", key_id), name) for key_id, name in names.items())],
        route_choices=_route_choices(form.value("route")),
        tabs=_tabs(form),
        is_filtered=bool(set(form.values) - {"mode", "cursor"}),
        mode=mode,
        zone=zone,
        table=pages.filter_url(format="csv"),
        poll=pages.newer_url(page, lambda one: one.at),
        **pages.pagination_links(page.next_cursor if page else None),
    )


def _other_response(query: Mapping[str, Any], filters: RequestFilter, zone: str) -> Any:
    """What is asked for instead of the page: a CSV, the number of newer requests, the one request with an ID."""
    if query["format"]:
        return _export(filters, zone)
    if query["after"] and pages.is_htmx_fragment():
        return _newer(filters, query["after"])
    if query["request_id"] and len(_list_by_id(query["request_id"])) == 1:
        return pages.redirect_to(".show", request_id=query["request_id"])
    return None


@bp.get("/logs/<request_id>")
@require_permission("usage:read")
def show(request_id: str) -> Response:
    """Show a request of the log, of either mode."""
    found = request_log.get_request(engine.session(), context.current_organization_id(), request_id)
    context.follow_mode(found.mode)
    return pages.render_page(
        "dashboard/requests/show.html",
        one=found,
        reason=_reason_phrase(found.status),
        caller_name=get_caller_name(engine.session(), found),
        is_repeated=len(_list_by_id(request_id)) > 1,
        zone=context.current_zone(),
    )


_CALLER = text("""
SELECT name FROM api_keys WHERE organization_id = :organization_id AND id = :api_key_id
UNION ALL SELECT coalesce(nullif(full_name, ''), email) FROM users WHERE id = :user_id""")


def get_caller_name(session: Session, logged: LoggedRequest) -> str | None:
    """Returns the name of the API key or user of a request; None for a user who left the organization."""
    values = {name: getattr(logged, name) for name in ("organization_id", "api_key_id", "user_id")}
    name: str | None = session.scalar(_CALLER, values)
    return name


def _list_by_id(request_id: str) -> Sequence[LoggedRequest]:
    """Up to two requests with an ID, of either mode."""
    filters = RequestFilter(request_id=request_id)
    return request_log.list_latest(engine.session(), context.current_organization_id(), filters, limit=2)


def _filter(query: Mapping[str, Any], mode: str, zone: str) -> RequestFilter:
    method, _, route = (query["route"] or "").rpartition(" ")
    wanted = {**query, "mode": mode, "method": method or None, "route": route or None}
    filters = request_log.parse_filter(wanted, zone)
    return filters if filters.since else replace(filters, since=query["since"], until=query["until"])


def _tabs(form: Form) -> list[tuple[str, str, bool, None]]:
    return [
        (label, pages.filter_url(status=status), form.value("status") == status, None) for label, status in STATUS_TABS
    ]


def _route_choices(chosen: str) -> list[tuple[str, str]]:
    """The endpoints that were called while the log goes back, and the chosen one."""
    since = clock.now() - timedelta(days=DAYS_KEPT)
    called = request_counts.list_endpoints(engine.session(), context.current_organization_id(), since)
    names = dict.fromkeys(f"{method} {route}".strip() for method, route in called)
    return [("", "Any"), *((name, name) for name in (names | dict.fromkeys([chosen] if chosen else [])))]


def _newer(filters: RequestFilter, after: datetime) -> Response:
    count = request_log.count_newer(engine.session(), context.current_organization_id(), filters, after)
    return pages.newer_rows(count, request_log.MAX_COUNTED, "request")


def _export(filters: RequestFilter, zone: str) -> Response:
    rows = request_log.list_latest(
        engine.session(), context.current_organization_id(), filters, limit=MAX_EXPORT_ROWS + 1
    )
    if len(rows) > MAX_EXPORT_ROWS:
        raise ValidationFailed.at_field("start_date", f"More than {MAX_EXPORT_ROWS:,} requests. Choose fewer days.")
    name = f"requests-{filters.mode}-{clock.now().astimezone(time_zones.get_zone(zone)):%Y-%m-%d}.csv"
    return pages.csv_response(name, REQUEST_CSV_COLUMNS, (_csv_row(one, zone) for one in rows))


def _csv_row(one: LoggedRequest, zone: str) -> list[Any]:
    data = pages.dump_csv_fields(_schema, one, zone)
    return [data[column] for column in REQUEST_CSV_COLUMNS]


def _reason_phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in {*HTTPStatus} else ""
