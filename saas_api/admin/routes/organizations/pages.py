"""Organizations found by what somebody knows of them, and everything about one."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, request, url_for

from saas_api.admin.queries.reading import reading
from saas_api.admin.queries.tenants import detail as details
from saas_api.admin.queries.tenants import organizations as reads
from saas_api.admin.schemas.organizations import STANDINGS, STATUSES, OrganizationsQuery
from saas_api.billing.queries import catalogue
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.core.render import csv_response, page
from saas_api.core.render.lists import read_filters

bp = Blueprint("organizations", __name__)
_COLUMNS = ("id", "name", "status", "standing", "plan", "members", "requests_30d", "unpaid", "currency", "created_at")


@bp.get("/admin/organizations")
@operator("support")
def index() -> Response:
    """Find organizations, newest first."""
    query, form = read_filters(OrganizationsQuery())
    with reading() as session:
        plans = catalogue.choices(session)
        found = None if form.errors else reads.search(session, query, clock.now())
    rows = found.items if found else ()
    if query.get("format") == "csv":
        return csv_response("organizations.csv", _COLUMNS, [_cells(row) for row in rows])
    kept: dict[str, Any] = {name: value for name, value in form.values.items() if name != "cursor"} if found else {}
    return page(
        "admin/organizations/index.html",
        status=200 if found else 422,
        form=form,
        rows=rows,
        statuses=STATUSES,
        standings=STANDINGS,
        plans=[("", "Any"), *((code, choice.version.name) for code, choice in plans.items())],
        older=url_for(".index", **kept, cursor=found.next_cursor) if found and found.next_cursor else "",
        newer=url_for(".index", **kept) if request.args.get("cursor") else "",
        csv=url_for(".index", **kept, format="csv"),
    )


@bp.get('/admin/organizations/<id("org"):organization_id>')
@operator("support")
def show(organization_id: UUID) -> Response:
    """Show everything about one."""
    with reading() as session:
        found = details.detail(session, organization_id, clock.now())
    account = found.account
    rate = catalogue.rate_limit(account.rate_limit) if account and account.rate_limit is not None else None
    return page("admin/organizations/show.html", found=found, rate=rate, now=clock.now())


def _cells(row: reads.Row) -> tuple[Any, ...]:
    return (
        wire_id("org", row.id),
        row.name,
        row.status,
        row.standing or "",
        row.plan_version or "",
        row.members,
        row.requests,
        minor_to_text(row.unpaid_minor, row.currency) if row.currency else "",
        row.currency or "",
        clock.rfc3339(row.created_at),
    )
