"""The audit log: reads for an organization, and the writes of every domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts.models import AuditEvent, Membership, Organization
from saas_api.core import clock, request_context, time_zones
from saas_api.core.access import Principal
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed

MAX_RANGE_DAYS = 366
AuditData = Mapping[str, Any]


@dataclass(frozen=True)
class Actor:
    """The actor of an action.

    kind: "user", "api_key", "operator", "portal" or "system"
    id: of the user, key, operator or portal session
    on_behalf_of: the user for whom an operator views the organization
    """

    kind: str
    id: str | None = None
    on_behalf_of: UUID | None = None


SYSTEM_ACTOR = Actor("system")


@dataclass(frozen=True)
class OperatorContext:
    """The actor of a change to an organization's billing, and the reason, which must not be empty.

    raises: ValidationFailed for an empty reason
    """

    actor: Actor
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValidationFailed.at_field("reason", "Say why.")

    def record(
        self, session: SystemSession, organization_id: UUID, action: str, target: tuple[str, object], data: AuditData
    ) -> None:
        """Record an action with the reason, in the transaction of the action."""
        record_event(session, organization_id, self.actor, action, target, {**data, "reason": self.reason.strip()})


def list_events(
    session: Session,
    organization: Organization,
    request: PageRequest,
    *,
    action: str | None = None,
    actor: UUID | str | None = None,
    start_date: date | None = None,
    end_date: date | None = None,
) -> Page:
    """The audit events of an organization, newest first.

    action: the whole name, or the part before the dot
    actor: an id, or a kind of `Actor`
    start_date, end_date: days in the time zone of the organization, inclusive
    raises: ValidationFailed for an invalid range or cursor
    """
    statement = sa.select(AuditEvent).where(AuditEvent.organization_id == organization.id)
    if action:
        is_in_group = AuditEvent.action.startswith(f"{action}.", autoescape=True)
        statement = statement.where(sa.or_(AuditEvent.action == action, is_in_group))
    if isinstance(actor, UUID):
        statement = statement.where(AuditEvent.actor_id == str(actor))
    elif actor:
        statement = statement.where(AuditEvent.actor_type == actor)
    starts_at, ends_at = date_range_bounds(start_date, end_date, time_zones.get_zone(organization.timezone))
    if starts_at:
        statement = statement.where(AuditEvent.at >= starts_at)
    if ends_at:
        statement = statement.where(AuditEvent.at < ends_at)
    return pagination.paginate(session, statement, AuditEvent.id.desc(), request=request)


def date_range_bounds(first: date | None, last: date | None, zone: ZoneInfo) -> tuple[datetime | None, datetime | None]:
    """The start of the first local day and the end of the last one; None for an open end.

    raises: ValidationFailed for a reversed range, more than 366 days, or a year outside 2 to 9998
    """
    for field, day in (("start_date", first), ("end_date", last)):
        if day and not 2 <= day.year <= 9998:  # time zones shift the first and last year out of the calendar
            raise ValidationFailed.at_field(field, "Outside the calendar.")
    if first and last and first > last:
        raise ValidationFailed.at_field("end_date", "Must not be before start_date.")
    if first and last and (last - first).days >= MAX_RANGE_DAYS:
        raise ValidationFailed.at_field("end_date", f"At most {MAX_RANGE_DAYS} days.")
    starts_at = _start_of_day(first, zone) if first else None
    return starts_at, _start_of_day(last + timedelta(days=1), zone) if last else None


def _start_of_day(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def actor_for(principal: Principal) -> Actor:
    """The actor of a caller; an operator without a role in the organization acts as an operator there."""
    if principal.kind != "user":
        return Actor("api_key" if principal.kind == "key" else principal.kind, str(principal.id))
    kind = "operator" if principal.operator_role and principal.role is None else "user"
    return Actor(kind, str(principal.id))


def values(**by_name: Any) -> dict[str, Any]:
    """Values of an event by name, such as those before a change."""
    return by_name


def record_event(
    session: Session,
    organization_id: UUID | None,
    actor: Actor,
    action: str,
    target: tuple[str, object],
    data: AuditData | None = None,
) -> None:
    """Record an action, with address and id of the running request.

    An operator's action on an organization is recorded twice: for the organization, and in the log of the platform.

    session: of the action, so that both are stored or neither; a system session for an operator
    organization_id: None for an action on the platform
    action: "noun.verb", such as "api_key.revoked"
    target: type and id
    data: JSON-ready, such as the values before and after; no secrets and no bodies of messages
    """
    session.add(_event(organization_id, actor, action, target, data or {}))
    if actor.kind == "operator" and organization_id is not None:
        platform_data = {**(data or {}), "organization": str(organization_id)}
        session.add(_event(None, actor, action, target, platform_data))


def record_events(
    session: SystemSession, actor: Actor, action: str, events: Sequence[tuple[UUID, tuple[str, object], AuditData]]
) -> None:
    """Record an action of the platform on several organizations in one statement, in the order of `events`.

    actor: no operator, whose actions are recorded twice
    events: organization, target and data, as of `record_event`
    """
    rows = [_values(organization_id, actor, action, target, data) for organization_id, target, data in events]
    if rows:
        session.execute(sa.insert(AuditEvent), rows)


def record_user_event(
    session: SystemSession, organization_id: UUID | None, user_id: UUID, action: str, data: AuditData | None = None
) -> None:
    """Record an action of a user on their own account.

    organization_id: None for an operator who is not a member of any organization
    """
    record_event(session, organization_id, Actor("user", str(user_id)), action, ("user", user_id), data)


def record_user_event_in_all_organizations(
    session: SystemSession, user_id: UUID, action: str, data: AuditData | None = None
) -> None:
    """Record an action of a user on their own account in each of their organizations."""
    for organization_id in list_organizations_of_user(session, user_id):
        record_user_event(session, organization_id, user_id, action, data)


def list_organizations_of_user(session: SystemSession, user_id: UUID) -> list[UUID | None]:
    """The organizations whose logs show what concerns a user; [None], the platform's log, without any."""
    statement = sa.select(Membership.organization_id).where(Membership.user_id == user_id)
    return [*session.scalars(statement)] or [None]


def _event(
    organization_id: UUID | None, actor: Actor, action: str, target: tuple[str, object], data: AuditData
) -> AuditEvent:
    return AuditEvent(**_values(organization_id, actor, action, target, data))


def _values(
    organization_id: UUID | None, actor: Actor, action: str, target: tuple[str, object], data: AuditData
) -> dict[str, Any]:
    origin = request_context.current_origin()
    return {
        "organization_id": organization_id,
        "actor_type": actor.kind,
        "actor_id": actor.id,
        "on_behalf_of": actor.on_behalf_of,
        "action": action,
        "target_type": target[0],
        "target_id": str(target[1]),
        "data": dict(data),
        "request_id": origin.request_id,
        "ip": origin.ip,
        "at": clock.now(),
    }
