"""Reads of people's sessions and of where they belong."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.auth.models import UserSession
from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor
from saas_api.organizations.models import Membership, Organization


def belongings(session: Session, user_id: UUID) -> list[tuple[Organization, str]]:
    """Every organization of a person with their role there, in the order they joined."""
    statement = (
        sa.select(Organization, Membership.role)
        .join(Membership, Membership.organization_id == Organization.id)
        .where(Membership.user_id == user_id)
        .order_by(Membership.created_at, Organization.id)
    )
    return [(organization, role) for organization, role in session.execute(statement)]


def list_sessions(session: Session, user_id: UUID, query: dict[str, Any]) -> Page:
    """A page of a person's live sessions, newest first.

    query: `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = sa.select(UserSession).where(*is_live(user_id))
    if query["cursor"]:
        statement = statement.where(UserSession.id < _position(query["cursor"]))
    rows = session.scalars(statement.order_by(UserSession.id.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    return Page(kept, encode_cursor(kept[-1].id.hex) if len(rows) > len(kept) else None, query["limit"])


def is_live(user_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions of a person's session that has not ended."""
    return UserSession.user_id == user_id, UserSession.revoked_at.is_(None), UserSession.expires_at > sa.func.now()


def has_been_at(session: Session, user_id: UUID, ip: str | None) -> bool:
    """Whether a person ever had a session from an address."""
    seen = sa.select(UserSession.id).where(UserSession.user_id == user_id, UserSession.ip.is_not_distinct_from(ip))
    return session.execute(seen.limit(1)).first() is not None


def _position(cursor: str) -> UUID:
    try:
        return UUID(hex=decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
