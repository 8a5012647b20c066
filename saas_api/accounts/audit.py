"""AuditEvent writes and reads, Actor, OperatorContext, date range of a query."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts.models import AuditEvent, Membership, Organization, User
from saas_api.core import clock, crypto, ids, request_context
from saas_api.core.access import Principal
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import ValidationFailed

MAX_RANGE_DAYS = 366


class InvalidAuditRange(Exception):
    """A pair of dates that names no range.

    field: the date that is wrong
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(reason)


def date_range_bounds(first: date | None, last: date | None, zone: ZoneInfo) -> tuple[datetime | None, datetime | None]:
    """The first instant of the first local day, and the first one after the last; None where there is no bound.

    raises: BadRange for a reversed pair, more than 366 days, or days outside the calendar
    """
    for field, day in (("start_date", first), ("end_date", last)):
        if day and not 2 <= day.year <= 9998:  # zones shift the first and last year out of the calendar
            raise InvalidAuditRange(field, "Outside the calendar.")
    if first and last and first > last:
        raise InvalidAuditRange("end_date", "Must not be before start_date.")
    if first and last and (last - first).days >= MAX_RANGE_DAYS:
        raise InvalidAuditRange("end_date", f"At most {MAX_RANGE_DAYS} days.")
    starts_at = _first_instant(first, zone) if first else None
    return starts_at, _first_instant(last + timedelta(days=1), zone) if last else None


def _first_instant(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


MAX_UUID = 2**63 - 1


def list_audit(session: Session, organization: Organization, query: dict[str, Any]) -> Page:
    """A page of the log of acts, newest first.

    query: `action` (whole, or the part before the dot), `actor` (a kind, or an id), `start_date`, `end_date`,
        `limit`, `cursor`
    raises: Invalid on dates that name no range, and on a cursor that is none
    """
    statement = sa.select(AuditEvent).where(AuditEvent.organization_id == organization.id, *_audit_filters(query))
    starts_at, ends_at = _instants(query, organization.timezone)
    if starts_at:
        statement = statement.where(AuditEvent.at >= starts_at)
    if ends_at:
        statement = statement.where(AuditEvent.at < ends_at)
    if query["cursor"]:
        statement = statement.where(AuditEvent.id < _position(query["cursor"]))
    rows = session.scalars(statement.order_by(AuditEvent.id.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    return Page(kept, pagination.encode_cursor(str(kept[-1].id)) if len(rows) > len(kept) else None, query["limit"])


def _audit_filters(query: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if action := query["action"]:
        is_of_room = AuditEvent.action.startswith(f"{action}.", autoescape=True)
        conditions.append(sa.or_(AuditEvent.action == action, is_of_room))
    if isinstance(query["actor"], UUID):
        conditions.append(AuditEvent.actor_id == str(query["actor"]))
    elif query["actor"]:
        conditions.append(AuditEvent.actor_type == query["actor"])
    return conditions


def _instants(query: dict[str, Any], zone: str) -> tuple[datetime | None, datetime | None]:
    try:
        return date_range_bounds(query["start_date"], query["end_date"], clock.get_zone(zone))
    except InvalidAuditRange as problem:
        raise ValidationFailed.at_field(problem.field, problem.reason) from problem


def _position(cursor: str) -> int:
    try:
        position = int(pagination.decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause
    return min(max(position, 0), MAX_UUID)


AuditData = Mapping[str, Any]


def record_user_event(
    session: Session, organization_id: UUID | None, user_id: UUID, action: str, data: AuditData | None = None
) -> None:
    """Write what a person did to themselves in one organization, or as an operator in none."""
    record_event(session, organization_id, Actor("user", str(user_id)), action, ("user", user_id), data)


def record_user_event_in_all_organizations(
    session: Session, user_id: UUID, action: str, data: AuditData | None = None
) -> None:
    """Write what a person did to themselves, wherever they belong."""
    for organization_id in _organizations(session, user_id):
        actor = Actor("user", str(user_id))
        record_event(session, organization_id, actor, action, ("user", user_id), data)


def record_failed_login(user: User | None, email: str, action: str) -> None:
    """Write that somebody gave a wrong password, in a transaction of its own: the refusal rolls back every other.

    user: None when nobody has the address, of which a digest is kept; the same is asked of the database then
    """
    target = ("user", str(user.id)) if user else ("address", crypto.hmac_hex("throttle", email.lower())[:32])
    with tenancy.system_session("auth.failure") as session:
        for organization_id in _organizations(session, user.id if user else ids.new_id()):
            record_event(session, organization_id, SYSTEM_ACTOR, action, target)


def _organizations(session: Session, user_id: UUID) -> list[UUID | None]:
    found = session.scalars(sa.select(Membership.organization_id).where(Membership.user_id == user_id)).all()
    return [*found] or [None]


@dataclass(frozen=True)
class Actor:
    """Who acts.

    kind: "user", "api_key", "operator" or "system"
    on_behalf_of: the person an operator looks at the organization for
    """

    kind: str
    id: str | None = None
    on_behalf_of: UUID | None = None


@dataclass(frozen=True)
class OperatorContext:
    """Who changes an organization's bills, and the reason, without which nobody may.

    raises: Invalid for an empty reason
    """

    actor: Actor
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValidationFailed.at_field("reason", "Say why.")

    def record(
        self, session: Session, organization_id: UUID, action: str, target: tuple[str, object], data: Mapping[str, Any]
    ) -> None:
        """Write the act, in the session of the act."""
        record_event(session, organization_id, self.actor, action, target, {**data, "reason": self.reason.strip()})


SYSTEM_ACTOR = Actor("system")


def actor_for(principal: Principal) -> Actor:
    """A caller as the log names them; an operator without a role in an organization acts as operator there."""
    kind = "operator" if principal.operator_role and principal.role is None else "user"
    return Actor("api_key" if principal.kind == "key" else kind, str(principal.id))


def record_event(
    session: Session,
    organization_id: UUID | None,
    actor: Actor,
    action: str,
    target: tuple[str, object],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write one act; address and request id are those of the request that runs.

    An operator's act on an organization is written twice: for that organization, and in the operators' own log.

    session: the one of the act, so that neither stays without the other; of the system where an operator acts
    organization_id: None for an act on the platform
    action: "room.verb", such as "api_key.revoked"
    target: its type and id
    data: JSON-ready, before and after; no secrets, no bodies
    """
    session.add(_event(organization_id, actor, action, target, data or {}))
    if actor.kind == "operator" and organization_id is not None:
        told = {**(data or {}), "organization": str(organization_id)}
        session.add(_event(None, actor, action, target, told))


def _event(
    organization_id: UUID | None, actor: Actor, action: str, target: tuple[str, object], data: Mapping[str, Any]
) -> AuditEvent:
    origin = request_context.current_origin()
    return AuditEvent(
        organization_id=organization_id,
        actor_type=actor.kind,
        actor_id=actor.id,
        on_behalf_of=actor.on_behalf_of,
        action=action,
        target_type=target[0],
        target_id=str(target[1]),
        data=dict(data),
        request_id=origin.request_id,
        ip=origin.ip,
        at=clock.now(),
    )
