"""Reads of an organization: its members, who is asked to join, and the log of acts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor
from saas_api.organizations import rules
from saas_api.organizations.models import AuditEvent, Invitation, Membership, Organization
from saas_api.users.models import User

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Member:
    """A person as the others of the organization see them."""

    user_id: UUID
    email: str
    full_name: str
    role: str
    email_verified: bool
    joined_at: datetime

    @property
    def called(self) -> str:
        """The name they go by."""
        return self.full_name or self.email


@dataclass(frozen=True)
class Team:
    """Who belongs to an organization, and who was asked to."""

    members: Sequence[Member]
    pending_invitations: Sequence[Invitation]

    @property
    def total_members(self) -> int:
        """How many belong."""
        return len(self.members)

    @property
    def total_pending(self) -> int:
        """How many were asked and have not answered."""
        return len(self.pending_invitations)


@dataclass(frozen=True)
class Recipient:
    """Somebody who gets a mail of the organization's."""

    email: str
    name: str


def recipients(
    session: Session, organization_id: UUID, roles: Sequence[str], *, is_bill: bool = False
) -> list[Recipient]:
    """Who of an organization is written to, each address once.

    roles: of the members who are
    is_bill: the organization's address for bills is written to as well
    """
    found = {
        member.email.lower(): Recipient(member.email, member.full_name)
        for member in session.execute(_members(organization_id).where(Membership.role.in_(roles)).order_by(User.id))
    }
    own = session.get_one(Organization, organization_id).billing_email if is_bill else None
    if own:
        found.setdefault(own.lower(), Recipient(own, ""))
    return list(found.values())


def team(session: Session, organization_id: UUID) -> Team:
    """Everybody, in the order they joined, and every invitation that still may be accepted, newest first."""
    rows = session.execute(_members(organization_id).order_by(Membership.created_at, User.id)).all()
    waiting = (
        sa.select(Invitation)
        .where(Invitation.organization_id == organization_id, is_pending(), Invitation.expires_at > clock.now())
        .order_by(Invitation.id.desc())
    )
    return Team([Member(*row) for row in rows], session.scalars(waiting).all())


def find_member(session: Session, organization_id: UUID, user_id: UUID) -> Member | None:
    """A member."""
    row = session.execute(_members(organization_id).where(User.id == user_id)).first()
    return Member(*row) if row else None


def is_member(session: Session, organization_id: UUID, email: str) -> bool:
    """Whether somebody with that address, however its letters are cased, belongs to the organization."""
    found = _members(organization_id).where(sa.func.lower(User.email) == email.lower())
    return session.execute(found).first() is not None


def is_pending() -> sa.ColumnElement[bool]:
    """The condition of an invitation nobody has answered or withdrawn."""
    return sa.and_(Invitation.accepted_at.is_(None), Invitation.revoked_at.is_(None))


def list_audit(session: Session, organization: Organization, query: dict[str, Any]) -> Page:
    """A page of the log of acts, newest first.

    query: `action` (whole, or the part before the dot), `actor` (a kind, or an id), `start_date`, `end_date`,
        `limit`, `cursor`
    raises: Invalid on dates that name no range, and on a cursor that is none
    """
    statement = sa.select(AuditEvent).where(AuditEvent.organization_id == organization.id, *_wanted(query))
    starts_at, ends_at = _instants(query, organization.timezone)
    if starts_at:
        statement = statement.where(AuditEvent.at >= starts_at)
    if ends_at:
        statement = statement.where(AuditEvent.at < ends_at)
    if query["cursor"]:
        statement = statement.where(AuditEvent.id < _position(query["cursor"]))
    rows = session.scalars(statement.order_by(AuditEvent.id.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    return Page(kept, encode_cursor(str(kept[-1].id)) if len(rows) > len(kept) else None, query["limit"])


def _members(organization_id: UUID) -> sa.Select[UUID, str, str, str, bool, datetime]:
    is_verified = User.email_verified_at.is_not(None)
    return (
        sa.select(User.id, User.email, User.full_name, Membership.role, is_verified, Membership.created_at)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.organization_id == organization_id)
    )


def _wanted(query: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
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
        return rules.instants(query["start_date"], query["end_date"], clock.zone(zone))
    except rules.BadRange as problem:
        raise Invalid.at(problem.field, problem.reason) from problem


def _position(cursor: str) -> int:
    try:
        position = int(decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
    return min(max(position, 0), LARGEST_ID)
