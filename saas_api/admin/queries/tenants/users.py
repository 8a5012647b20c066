"""People of the whole platform, where they belong, and the sessions they have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.auth.models import UserSession
from saas_api.auth.queries import belongings, is_live
from saas_api.core.errors import NotFound
from saas_api.core.fields import Page
from saas_api.core.ids import read_id
from saas_api.organizations.models import Membership, Organization
from saas_api.users.models import Operator, User

MOST_SESSIONS = 50


@dataclass(frozen=True)
class Person:
    """Somebody, where they belong and from where they are signed in.

    office: "support" or "admin" of an operator
    """

    user: User
    office: str | None
    belongings: Sequence[tuple[Organization, str]]
    sessions: Sequence[UserSession]


def search(session: Session, query: dict[str, Any]) -> Page:
    """A page of (`User`, office, how many organizations, when last seen), newest first.

    query: limit, cursor, format; q: a part of the address or of the name, or an id; kind: "operator", "unverified",
        "disabled"
    raises: Invalid
    """
    organizations = sa.select(sa.func.count()).where(Membership.user_id == User.id).scalar_subquery()
    seen = sa.select(sa.func.max(UserSession.last_seen_at)).where(UserSession.user_id == User.id).scalar_subquery()
    wanted = (
        sa.select(User, Operator.role, organizations, seen)
        .outerjoin(Operator, Operator.user_id == User.id)
        .where(*_conditions(query))
    )
    found = page_of(session, wanted, query, (User.created_at, User.id))
    return Page([tuple(row)[:4] for row in found.items], found.next_cursor, found.limit)


def person(session: Session, user_id: UUID) -> Person:
    """Somebody, with their live sessions, newest first.

    raises: NotFound
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound
    operator = session.get(Operator, user_id)
    live = sa.select(UserSession).where(*is_live(user_id)).order_by(UserSession.last_seen_at.desc())
    return Person(
        user,
        operator.role if operator else None,
        belongings(session, user_id),
        session.scalars(live.limit(MOST_SESSIONS)).all(),
    )


def _conditions(query: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query["q"]:
        conditions.append(_is_meant(query["q"].strip()))
    match query["kind"]:
        case "operator":
            conditions.append(Operator.role.is_not(None))
        case "unverified":
            conditions.append(User.email_verified_at.is_(None))
        case "disabled":
            conditions.append(User.disabled_at.is_not(None))
    return conditions


def _is_meant(words: str) -> sa.ColumnElement[bool]:
    try:
        return User.id == read_id("usr", words)
    except ValueError:
        found = User.email.icontains(words, autoescape=True)
        return sa.or_(found, User.full_name.icontains(words, autoescape=True))
