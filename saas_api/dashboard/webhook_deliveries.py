"""Pages of webhook deliveries, events and event types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from flask import Blueprint, Response, g
from marshmallow import fields, validate
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, aliased

from saas_api.core import clock
from saas_api.core.access import require_permission
from saas_api.core.db import engine, pagination, types
from saas_api.core.db.pagination import Keyset, Page, PageRequest
from saas_api.core.fields import PrefixedId, StrictSchema, Timestamp
from saas_api.core.web import forms, pages, templating
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.core.web.pages import HTMX_STOP_POLLING, PAGE_SIZE
from saas_api.dashboard import context
from saas_api.webhooks import deliveries, event_types, events, labels, models, payload, schemas
from saas_api.webhooks.deliveries import EventNotFound
from saas_api.webhooks.models import Attempt, Delivery, DeliveryState, Endpoint, Event
from saas_api.webhooks.schemas import DeliveriesQuery, EventsQuery

bp = Blueprint("webhook_deliveries", __name__)
_COLUMNS = """d.id, d.event_id, e.type, d.endpoint_id, w.url, w.deleted_at IS NOT NULL AS is_deleted, d.cause,
  d.status, d.attempts, d.last_status, d.error_code, d.next_at, d.finished_at, d.created_at"""
_CARRIED = "JOIN events e ON e.organization_id = d.organization_id AND e.id = d.event_id"
_NEWEST_FIRST = Keyset(Delivery.created_at.desc(), Delivery.id.desc())
# The newest rows of each endpoint by its own index, then the newest of all.
_DELIVERIES = f"""
SELECT d.* FROM webhook_endpoints w CROSS JOIN LATERAL (
  SELECT {_COLUMNS} FROM webhook_deliveries d {_CARRIED}
   WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id {{conditions}}
   ORDER BY d.created_at DESC, d.id DESC LIMIT :limit) d
 WHERE w.organization_id = :organization_id AND w.mode = :mode {{endpoint}}
 ORDER BY d.created_at DESC, d.id DESC LIMIT :limit"""
_NEWER = f"""
SELECT count(*) FROM (SELECT FROM webhook_endpoints w CROSS JOIN LATERAL (
  SELECT FROM webhook_deliveries d {_CARRIED}
   WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id {{conditions}} LIMIT :limit) d
 WHERE w.organization_id = :organization_id AND w.mode = :mode {{endpoint}} LIMIT :limit) newer"""
_OF_EVENT = sa.text(f"""
SELECT {_COLUMNS} FROM webhook_deliveries d {_CARRIED}
  JOIN webhook_endpoints w ON w.organization_id = d.organization_id AND w.id = d.endpoint_id
 WHERE d.organization_id = :organization_id AND d.event_id = :event_id
 ORDER BY d.created_at DESC, d.id DESC LIMIT 50""")


_CONDITIONS = {
    state: str(
        models.is_in_state(state, aliased(Delivery, name="d")).compile(
            dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}
        )
    )
    for state in DeliveryState
}
_OF_OBJECT = """d.event_id IN (SELECT id FROM events WHERE organization_id = :organization_id
  AND type = ANY (:types) AND subject_id = :found)"""
_SEARCHES = {"whd": "d.id = :found", "evt": "d.event_id = :found"}
"""Conditions by the prefix of the id that is searched; any other is the id of the event's object."""
_COUNTS = sa.text(
    " UNION ALL ".join(
        f"""SELECT '{state}' AS state, count(*) AS number FROM (SELECT FROM webhook_deliveries d
          WHERE d.organization_id = :organization_id AND d.endpoint_id = ANY (CAST(:endpoints AS uuid[]))
            AND {condition} LIMIT 1001) counted"""
        for state, condition in _CONDITIONS.items()
    )
)

POLL_SECONDS = timedelta(minutes=15)


@dataclass(frozen=True)
class DeliveryRow:
    """A delivery in a list."""

    id: UUID
    event_id: UUID
    event_type: str
    endpoint_id: UUID
    url: str
    is_deleted: bool
    cause: str
    status: str
    attempts: int
    last_status: int | None
    error_code: str | None
    next_at: datetime | None
    finished_at: datetime | None
    created_at: datetime

    @property
    def state(self) -> DeliveryState:
        """The status as customers see it."""
        return models.delivery_state(self.status, self.attempts)

    @property
    def is_due(self) -> bool:
        """Whether the next attempt is due."""
        return self.next_at is not None and self.next_at <= clock.now()

    @property
    def response(self) -> str:
        """What came of the last attempt."""
        return labels.response_label(self.last_status, self.error_code)


@dataclass(frozen=True)
class DeliveryFilter:
    """Filters of deliveries.

    status: a `DeliveryState`
    found: id of a delivery, an event or the object of an event
    found_prefix: of that id
    """

    mode: str
    endpoint_id: UUID | None = None
    status: str | None = None
    event_type: str | None = None
    found: UUID | None = None
    found_prefix: str = ""


def list_all_deliveries(session: Session, organization_id: UUID, filters: DeliveryFilter, request: PageRequest) -> Page:
    """Returns a page of deliveries to all endpoints of a mode as `DeliveryRow`, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    conditions, endpoint, values = _filter_sql(organization_id, filters)
    values["limit"] = request.limit + 1
    if request.cursor:
        conditions = f"{conditions} AND (d.created_at, d.id) < (:created_at, :id)"
        values["created_at"], values["id"] = _NEWEST_FIRST.decode(request.cursor)
    statement = sa.text(_DELIVERIES.format(conditions=conditions, endpoint=endpoint))
    rows = [DeliveryRow(*row) for row in session.execute(statement, values)]
    return _NEWEST_FIRST.page(rows, request, lambda row: (row.created_at, row.id))


def count_newer(session: Session, organization_id: UUID, filters: DeliveryFilter, after: datetime) -> int:
    """Returns how many deliveries of a list were created after an instant, up to MAX_COUNTED + 1."""
    conditions, endpoint, values = _filter_sql(organization_id, filters)
    values |= {"after": after, "limit": pagination.MAX_COUNTED + 1}
    statement = _NEWER.format(conditions=f"{conditions} AND d.created_at > :after", endpoint=endpoint)
    return session.scalars(sa.text(statement), values).one()


def _filter_sql(organization_id: UUID, filters: DeliveryFilter) -> tuple[str, str, dict[str, Any]]:
    """Conditions of the matching deliveries, of their endpoint, and the values of both."""
    values: dict[str, Any] = {**vars(filters), "organization_id": organization_id}
    conditions, endpoint = "", "AND w.id = :endpoint_id" if filters.endpoint_id else ""
    if filters.status:
        conditions = f"{conditions} AND {_CONDITIONS[DeliveryState(filters.status)]}"
    if filters.event_type:
        conditions = f"{conditions} AND e.type = :event_type"
    if filters.found:
        conditions = f"{conditions} AND {_SEARCHES.get(filters.found_prefix, _OF_OBJECT)}"
        values["types"] = list(event_types.names())
    return conditions, endpoint, values


def count_by_state(session: Session, organization_id: UUID, endpoint_ids: Sequence[UUID]) -> dict[str, int]:
    """Returns the number of deliveries to some endpoints in each state, at most 1001."""
    values = {"organization_id": organization_id, "endpoints": types.uuid_array(endpoint_ids)}
    return {row.state: row.number for row in session.execute(_COUNTS, values)}


def list_event_deliveries(session: Session, organization_id: UUID, event_id: UUID) -> list[DeliveryRow]:
    """Returns the newest fifty deliveries of an event, newest first."""
    values = {"organization_id": organization_id, "event_id": event_id}
    return [DeliveryRow(*row) for row in session.execute(_OF_EVENT, values)]


def get_event(session: Session, organization_id: UUID, event_id: UUID) -> Event:
    """Returns an event.

    raises: EventNotFound
    """
    event = session.get(Event, (organization_id, event_id))
    if event is None:
        raise EventNotFound
    return event


def list_all_endpoints(session: Session, organization_id: UUID, mode: str) -> Sequence[Endpoint]:
    """Returns the newest fifty endpoints of a mode, deleted ones last."""
    statement = sa.select(Endpoint).where(Endpoint.organization_id == organization_id, Endpoint.mode == mode)
    return session.scalars(statement.order_by(Endpoint.deleted_at.is_not(None), Endpoint.id.desc()).limit(50)).all()


def get_delivery_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """Returns the endpoint of a delivery, even if it is deleted."""
    return session.get_one(Endpoint, (organization_id, endpoint_id))


class DeliveryFilters(DeliveriesQuery):
    """Filters of the delivery list.

    q: id of a delivery, an event or the object of an event
    """

    class Meta(DeliveriesQuery.Meta):
        """The search finds the deliveries of an event."""

        exclude = ("event_id",)

    endpoint_id = PrefixedId("whe", load_default=None)
    after = Timestamp(load_default=None)
    q = schemas.AnyId(load_default=None)


class EventFilters(EventsQuery):
    """Filters of the event list; the mode is that of the session."""

    class Meta(EventsQuery.Meta):
        """The session has the mode."""

        exclude = ("limit", "mode")


class ResendForm(StrictSchema):
    """Picked deliveries."""

    delivery_ids = fields.List(PrefixedId("whd"), data_key="ids", validate=validate.Length(max=100))


class AttemptQuery(StrictSchema):
    """The attempt to show in full; the latest one by default."""

    attempt = fields.Integer(load_default=None)


class EventTypeQuery(StrictSchema):
    """The event type to show in full."""

    type = schemas.event_type_field(load_default=None)


@bp.get("/webhooks/deliveries")
@require_permission("webhooks:read")
def index(form: Form | None = None) -> Response:
    """List the deliveries of the current mode, newest first."""
    picks = form
    query, form = forms.parse_filters(DeliveryFilters(exclude=("limit",)))
    session, organization_id, page = engine.session(), context.current_organization_id(), None
    if not form.errors:
        filters = DeliveryFilter(
            g.principal.mode,
            query["endpoint_id"],
            query["status"],
            query["event_type"],
            query["q"],
            str(form.value("q")).partition("_")[0],
        )
        if query["after"] and pages.is_htmx_fragment():
            count = count_newer(session, organization_id, filters, query["after"])
            return pages.newer_rows(count, pagination.MAX_COUNTED, "delivery", "deliveries")
        page = list_all_deliveries(session, organization_id, filters, PageRequest(PAGE_SIZE, query["cursor"]))
    endpoints = list_all_endpoints(session, organization_id, g.principal.mode)
    return pages.render_page(
        "dashboard/webhooks/deliveries.html",
        status=422 if page is None or picks else 200,
        form=form,
        picks=picks,
        deliveries=page.items if page else (),
        endpoints=endpoints,
        tabs=_state_tabs(form, query, endpoints),
        types=sorted(event_types.names()),
        zone=context.current_zone(),
        poll=pages.newer_url(page, lambda row: row.created_at),
        **pages.pagination_links(page.next_cursor if page else None),
    )


def _state_tabs(
    form: Form, query: Mapping[str, Any], endpoints: Sequence[Endpoint]
) -> list[tuple[str, str, bool, int | None]]:
    """Returns the tabs of the list: text, address, whether it is the current one, and the number of deliveries."""
    counts: dict[str, int] = {}
    if not (form.errors or query["q"] or query["event_type"]):  # no index counts those
        chosen = [query["endpoint_id"]] if query["endpoint_id"] else [endpoint.id for endpoint in endpoints]
        counts = count_by_state(engine.session(), context.current_organization_id(), chosen)
    current = form.value("status")
    tabs = [(state.capitalize(), pages.filter_url(status=state), state == current) for state in DeliveryState]
    return [
        ("All", pages.filter_url(status=None), not current, None),
        *((text, href, is_current, counts.get(text.lower())) for text, href, is_current in tabs),
    ]


@bp.post("/webhooks/deliveries/resend")
@require_permission("webhooks:write")
@form_view(ResendForm(), form=index, is_idempotent=True)
def resend_all(body: dict[str, Any]) -> Any:
    """Resend the picked deliveries."""
    resent = deliveries.resend_deliveries(engine.session(), g.principal, body.get("delivery_ids", ()))
    reason = "the endpoint is disabled or deleted"
    notice = templating.bulk_notice(resent.count, len(resent.skipped), "resent", reason, "delivery", "deliveries")
    _, filters = forms.parse_filters(DeliveryFilters(exclude=("limit", "after")))
    return pages.redirect_to("dashboard.webhook_deliveries.index", _notice=notice, **filters.values)


@bp.get('/webhooks/deliveries/<id("whd"):delivery_id>')
@require_permission("webhooks:read")
def show(delivery_id: UUID, form: Form | None = None) -> Response:
    """Show a delivery with its payload and attempts."""
    delivery = deliveries.get_delivery(engine.session(), context.current_organization_id(), delivery_id)
    endpoint = get_delivery_endpoint(engine.session(), context.current_organization_id(), delivery.endpoint_id)
    context.follow_mode(endpoint.mode)
    view = deliveries.get_delivery_view(engine.session(), delivery)
    chosen = forms.parse_filters(AttemptQuery())[0].get("attempt")
    attempt = _find_attempt(view.attempts, chosen)
    body = payload.format_payload(view.event.payload, (attempt and attempt.payload_format) or endpoint.payload)
    is_watched = _is_watched(delivery)
    return pages.render_page(
        "dashboard/webhooks/delivery.html",
        status=HTMX_STOP_POLLING if pages.is_htmx_fragment() and not is_watched else 200,
        block="live",
        delivery=delivery,
        event=view.event,
        attempts=view.attempts[::-1],
        attempt=attempt,
        chosen=chosen,
        endpoint=endpoint,
        body=body,
        pretty=_pretty(orjson.loads(body)),
        response_label=labels.response_label,
        is_watched=is_watched,
        is_due=delivery.next_at is not None and delivery.next_at <= clock.now(),
        form=form,
        zone=context.current_zone(),
    )


@bp.post('/webhooks/deliveries/<id("whd"):delivery_id>/resend')
@require_permission("webhooks:write")
@form_view(EmptyForm(), form=show, is_idempotent=True)
def resend(delivery_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Resend a delivery."""
    delivery = deliveries.resend_delivery(engine.session(), g.principal, delivery_id)
    notice = "Event resent as a new delivery."
    return pages.redirect_to("dashboard.webhook_deliveries.show", delivery_id=delivery.id, _notice=notice)


def _find_attempt(attempts: Sequence[Attempt], number: int | None) -> Attempt | None:
    """Returns the attempt with a number, otherwise the latest; None before the first."""
    latest = attempts[-1] if attempts else None
    return next((attempt for attempt in attempts if attempt.n == number), latest)


def _is_watched(delivery: Delivery) -> bool:
    """Whether the page polls: not after the delivery ended, nor while its next attempt is far away."""
    return delivery.next_at is not None and delivery.next_at - clock.now() < POLL_SECONDS


@bp.get("/webhooks/events")
@require_permission("webhooks:read")
def list_events() -> Response:
    """List the events of the current mode, newest first."""
    query, form = forms.parse_filters(EventFilters())
    page_request, filters = PageRequest.from_query(
        {"limit": PAGE_SIZE, "cursor": None, "mode": g.principal.mode, **query}
    )
    organization_id = context.current_organization_id()
    page = None if form.errors else events.list_events(engine.session(), organization_id, page_request, **filters)
    return pages.render_page(
        "dashboard/webhooks/events.html",
        status=422 if page is None else 200,
        form=form,
        events=[(event, orjson.loads(event.payload)) for event in page.items] if page else [],
        types=sorted(event_types.names()),
        zone=context.current_zone(),
        **pages.pagination_links(page.next_cursor if page else None),
    )


@bp.get('/webhooks/events/<id("evt"):event_id>')
@require_permission("webhooks:read")
def show_event(event_id: UUID, form: Form | None = None) -> Response:
    """Show an event with its payload and deliveries."""
    event: Event = get_event(engine.session(), context.current_organization_id(), event_id)
    context.follow_mode(event.mode)
    payload, event_type = orjson.loads(event.payload), event_types.find_type(event.type)
    return pages.render_page(
        "dashboard/webhooks/event.html",
        event=event,
        payload=payload,
        pretty=_pretty(payload),
        description=event_type.description if event_type else "",
        deliveries=list_event_deliveries(engine.session(), context.current_organization_id(), event_id),
        form=form,
        zone=context.current_zone(),
    )


@bp.post('/webhooks/events/<id("evt"):event_id>/replay')
@require_permission("webhooks:write")
@form_view(EmptyForm(), form=show_event, is_idempotent=True)
def replay_event(event_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Replay an event to every subscribed endpoint."""
    count = len(deliveries.replay_event(engine.session(), g.principal, event_id))
    endpoints = templating.pluralize(count, "endpoint")
    notice = f"Event sent again to {endpoints}." if count else "No enabled endpoint is subscribed to this event type."
    return pages.redirect_to("dashboard.webhook_deliveries.show_event", event_id=event_id, _notice=notice)


@bp.get("/webhooks/event-types")
@require_permission("webhooks:read")
def list_event_types() -> Response:
    """List the event types, and show one in full."""
    query, form = forms.parse_filters(EventTypeQuery())
    event_type = event_types.find_type(query.get("type") or "")
    return pages.render_page(
        "dashboard/webhooks/event_types.html",
        status=422 if form.errors else 200,
        form=form,
        types=event_types.list_types(),
        chosen=event_type,
        example=_pretty(event_type.example) if event_type else "",
        schema=_pretty(event_type.schema) if event_type else "",
    )


def _pretty(value: dict[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
