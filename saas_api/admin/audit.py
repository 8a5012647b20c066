"""Operator audit log."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import marshmallow as ma
import orjson
import sqlalchemy as sa
from flask import Blueprint, Response, request, url_for
from sqlalchemy.orm import Session

from saas_api.accounts.models import AuditEvent, Organization, User
from saas_api.admin import context, lists
from saas_api.admin.lists import ListQuery
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.fields import DateField, Email, Text
from saas_api.core.web import forms, pages

bp = Blueprint("audit", __name__)


def list_audit(session: Session, query: dict[str, Any]) -> Page:
    """A page of `AuditEvent` that belong to no organization alone, newest first.

    query: limit, cursor, format; action: whole, or the part before the dot; email: of the operator; since, until:
        instants, the second excluded
    raises: Invalid
    """
    wanted = sa.select(AuditEvent).where(AuditEvent.organization_id.is_(None))
    if action := query["action"]:
        of_room = AuditEvent.action.startswith(f"{action}.", autoescape=True)
        wanted = wanted.where(sa.or_(AuditEvent.action == action, of_room))
    if query["email"]:
        acting = sa.select(sa.cast(User.id, sa.Text)).where(sa.func.lower(User.email) == query["email"].lower())
        wanted = wanted.where(AuditEvent.actor_id.in_(acting))
    if query["since"]:
        wanted = wanted.where(AuditEvent.at >= query["since"])
    if query["until"]:
        wanted = wanted.where(AuditEvent.at < query["until"])
    found = lists.paginate_or_export(session, wanted, query, (AuditEvent.id,))
    return Page([row[0] for row in found.items], found.next_cursor, found.limit)


def get_names(session: Session, events: Collection[AuditEvent]) -> dict[str, str]:
    """What operators and organizations of these entries are called, by id."""
    ids = [*(event.actor_id for event in events), *(event.target_id for event in events)]
    people = [UUID(found) for found in ids if found and _is_uuid(found)]
    places = [UUID(event.data["organization"]) for event in events if _is_uuid(event.data.get("organization"))]
    found = sa.union_all(
        sa.select(sa.cast(User.id, sa.Text), User.email).where(User.id.in_(people)),
        sa.select(sa.cast(Organization.id, sa.Text), Organization.name).where(Organization.id.in_(places)),
    )
    return dict(session.execute(found).all())


def _is_uuid(value: Any) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True


ActorKind = ("operator", "unverified", "disabled")


class OperatorAuditQuery(ListQuery):
    """Filters of the operators' log."""

    action = Text(maximum=100, load_default=None)
    email = Email(load_default=None)
    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)

    @ma.validates_schema
    def _is_range(self, values: dict[str, Any], **_: Any) -> None:
        if values["start_date"] and values["end_date"] and values["end_date"] < values["start_date"]:
            raise ma.ValidationError("Must not be before the first day.", "end_date")


_COLUMNS = ("id", "at", "operator", "organization", "action", "target_type", "target_id", "reason", "data", "ip")


@bp.get("/admin/audit")
@require_operator("support")
def index() -> Response:
    """Show the log, newest first."""
    query, form = forms.parse_filters(OperatorAuditQuery())
    if form.errors:
        return pages.render_page(
            "admin/audit.html", status=422, form=form, entries=(), names={}, older="", newer="", csv=""
        )
    first, last = query.pop("start_date"), query.pop("end_date")
    query["since"] = datetime.combine(first, time(), UTC) if first else None
    query["until"] = datetime.combine(last, time(), UTC) + timedelta(days=1) if last else None
    with context.read_session() as session:
        found = list_audit(session, query)
        names = get_names(session, found.items)
    if query["format"] == "csv":
        return pages.csv_response("operator-log.csv", _COLUMNS, list(_rows(found.items, names)))
    kept = {name: value for name, value in form.values.items() if name != "cursor"}
    return pages.render_page(
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
            clock.format_rfc3339(entry.at),
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
