"""The page of the log of acts: who did what, when, from where."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from flask import Response, g, request, url_for

from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.ids import wire_id
from saas_api.core.render import csv_response, page
from saas_api.core.render.lists import read_filters
from saas_api.dashboard.queries import people as reads
from saas_api.dashboard.routes.people.team import bp
from saas_api.dashboard.schemas.people import ACTOR_KINDS, AuditFilter
from saas_api.organizations import queries
from saas_api.organizations import service as organizations
from saas_api.organizations.models import AuditEvent, Organization

ROWS, MOST_ROWS = 25, 50_000
_COLUMNS = (
    "id",
    "at",
    "actor_type",
    "actor_id",
    "on_behalf_of",
    "action",
    "target_type",
    "target_id",
    "data",
    "reason",
    "request_id",
    "ip",
)


@bp.get("/audit-log")
@require("audit:read")
def audit() -> Response:
    """Show who did what, newest first."""
    organization = organizations.get(session(), g.principal.organization_id)
    query, form = read_filters(AuditFilter())
    if request.args.get("format") == "csv" and not form.errors:
        return _csv(organization, query)
    found = None
    try:
        found = None if form.errors else queries.list_audit(session(), organization, {**query, "limit": ROWS})
    except Invalid as error:
        form.errors.update({str(one["field"]): str(one["reason"]) for one in error.details["fields"]})
    entries = found.items if found else ()
    kept: dict[str, Any] = dict(form.values) if found else {}
    kept.pop("cursor", None)
    return page(
        "dashboard/people/audit.html",
        status=200 if found else 422,
        entries=entries,
        names=reads.names(session(), organization.id, entries),
        wire=reads.wire,
        pretty=_pretty,
        form=form,
        kinds=ACTOR_KINDS,
        members=queries.team(session(), organization.id).members,
        zone=organization.timezone,
        older=url_for(".audit", **kept, cursor=found.next_cursor) if found and found.next_cursor else "",
        newer=url_for(".audit", **kept) if request.args.get("cursor") else "",
        csv=url_for(".audit", **kept, format="csv"),
    )


def _csv(organization: Organization, query: dict[str, Any]) -> Response:
    found = queries.list_audit(session(), organization, {**query, "cursor": None, "limit": MOST_ROWS})
    if found.next_cursor:
        raise Invalid.at("start_date", f"More than {MOST_ROWS:,} entries; choose fewer days.")
    return csv_response("audit-log.csv", _COLUMNS, list(_rows(found.items)))


def _rows(entries: Iterable[AuditEvent]) -> Iterator[tuple[Any, ...]]:
    for entry in entries:
        yield (
            entry.id,
            clock.rfc3339(entry.at),
            entry.actor_type,
            reads.wire(entry.actor_type, entry.actor_id),
            wire_id("usr", entry.on_behalf_of) if entry.on_behalf_of else "",
            entry.action,
            entry.target_type,
            reads.wire(entry.target_type, entry.target_id),
            orjson.dumps(entry.data).decode(),
            entry.reason or "",
            entry.request_id or "",
            entry.ip or "",
        )


def _pretty(data: dict[str, Any]) -> str:
    return orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
