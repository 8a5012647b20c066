"""The operators' log: who changed what on the platform, and why."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

import orjson
from flask import Blueprint, Response, request, url_for

from saas_api.admin.queries import audit as reads
from saas_api.admin.queries.reading import reading
from saas_api.admin.schemas.organizations import AuditQuery
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.render import csv_response, page
from saas_api.core.render.lists import read_filters
from saas_api.organizations.models import AuditEvent

bp = Blueprint("audit", __name__)
_COLUMNS = ("id", "at", "operator", "organization", "action", "target_type", "target_id", "reason", "data", "ip")


@bp.get("/admin/audit")
@operator("support")
def index() -> Response:
    """Show the log, newest first."""
    query, form = read_filters(AuditQuery())
    if form.errors:
        return page("admin/audit.html", status=422, form=form, entries=(), names={}, older="", newer="", csv="")
    first, last = query.pop("start_date"), query.pop("end_date")
    query["since"] = datetime.combine(first, time(), UTC) if first else None
    query["until"] = datetime.combine(last, time(), UTC) + timedelta(days=1) if last else None
    with reading() as session:
        found = reads.entries(session, query)
        names = reads.names(session, found.items)
    if query["format"] == "csv":
        return csv_response("operator-log.csv", _COLUMNS, list(_rows(found.items, names)))
    kept = {name: value for name, value in form.values.items() if name != "cursor"}
    return page(
        "admin/audit.html",
        form=form,
        entries=found.items,
        names=names,
        pretty=_pretty,
        older=url_for(".index", **kept, cursor=found.next_cursor) if found.next_cursor else "",
        newer=url_for(".index", **kept) if request.args.get("cursor") else "",
        csv=url_for(".index", **kept, format="csv"),
    )


def _rows(entries: Sequence[AuditEvent], names: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    for entry in entries:
        yield (
            entry.id,
            clock.rfc3339(entry.at),
            names.get(entry.actor_id or "", entry.actor_id or entry.actor_type),
            names.get(entry.data.get("organization", ""), ""),
            entry.action,
            entry.target_type,
            entry.target_id,
            entry.data.get("reason", ""),
            _pretty(entry.data),
            entry.ip or "",
        )


def _pretty(data: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in data.items() if name not in ("reason", "organization")}
    return orjson.dumps(shown).decode() if shown else ""
