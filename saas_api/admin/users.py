"""Users and their sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, request, url_for
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations, passwords, sessions, users
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Membership, Operator, Organization, User, UserSession
from saas_api.admin import context, lists
from saas_api.admin.audit import ActorKind
from saas_api.admin.lists import ListQuery
from saas_api.core import clock, ids
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound
from saas_api.core.fields import Text
from saas_api.core.web import forms, pages

bp = Blueprint("users", __name__)

MAX_SESSIONS = 50


@dataclass(frozen=True)
class UserDetail:
    """Somebody, where they belong and from where they are signed in.

    office: "support" or "admin" of an operator
    """

    user: User
    office: str | None
    belongings: Sequence[tuple[Organization, str]]
    sessions: Sequence[UserSession]


def search_users(session: Session, query: dict[str, Any]) -> Page:
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
    found = lists.paginate_or_export(session, wanted, query, (User.created_at, User.id))
    return Page([tuple(row)[:4] for row in found.items], found.next_cursor, found.limit)


def get_user_detail(session: Session, user_id: UUID) -> UserDetail:
    """Somebody, with their live sessions, newest first.

    raises: NotFound
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound
    operator = session.get(Operator, user_id)
    live = (
        sa.select(UserSession).where(*sessions.active_session_clause(user_id)).order_by(UserSession.last_seen_at.desc())
    )
    return UserDetail(
        user,
        operator.role if operator else None,
        members.list_memberships(session, user_id),
        session.scalars(live.limit(MAX_SESSIONS)).all(),
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
        return User.id == ids.parse_id("usr", words)
    except ValueError:
        found = User.email.icontains(words, autoescape=True)
        return sa.or_(found, User.full_name.icontains(words, autoescape=True))


class UserListQuery(ListQuery):
    """Filters of people."""

    q = Text(maximum=254, load_default=None)
    kind = fields.String(load_default=None, validate=validate.OneOf(ActorKind))


def end_user_sessions(operator: OperatorContext, user_id: UUID) -> int:
    """Ends every session of a user: their tokens are rejected from the next request on.

    returns: the number of sessions
    raises: NotFound
    """
    with context.write_session() as session:
        user = _lock_user(session, user_id)
        ended = sessions.end_sessions(session, user.id, "ended by an operator")
        _record_audit(session, operator, user, "user.sessions_ended", {"sessions": len(ended)})
    return len(ended)


def send_password_reset(operator: OperatorContext, user_id: UUID) -> None:
    """E-mails a user the link that sets a new password, as if they had requested it.

    raises: NotFound
    """
    with context.write_session() as session:
        user = _lock_user(session, user_id)
        _record_audit(session, operator, user, "user.reset_requested", {})
    passwords.request_password_reset(user.email)


def _lock_user(session: Session, user_id: UUID) -> User:
    user = users.find_user(session, user_id)
    if user is None:
        raise NotFound
    return user


def _record_audit(
    session: Session, operator: OperatorContext, user: User, action: str, data: dict[str, object]
) -> None:
    """Records the action in the log of each organization of the user, or in the platform's when there is none."""
    data = {**data, "reason": organizations.validate_reason(operator.reason)}
    organization_ids: list[UUID | None] = [
        organization.id for organization, _ in members.list_memberships(session, user.id)
    ]
    for organization_id in organization_ids or [None]:
        audit.record_event(session, organization_id, operator.actor, action, ("user", user.id), data)


_COLUMNS = ("id", "email", "full_name", "operator", "organizations", "email_verified_at", "created_at", "last_seen_at")


@bp.get("/admin/users")
@require_operator("support")
def index() -> Response:
    """Find people, newest first."""
    query, form = forms.parse_filters(UserListQuery())
    if form.errors:
        return pages.render_page(
            "admin/users/index.html", status=422, form=form, kinds=ActorKind, rows=(), older="", newer="", csv=""
        )
    with context.read_session() as session:
        found = search_users(session, query)
    if query["format"] == "csv":
        return pages.csv_response("users.csv", _COLUMNS, [_cells(*row) for row in found.items])
    kept = {name: value for name, value in form.values.items() if name != "cursor"}
    return pages.render_page(
        "admin/users/index.html",
        form=form,
        kinds=ActorKind,
        rows=found.items,
        older=url_for(".index", **kept, cursor=found.next_cursor) if found.next_cursor else "",
        newer=url_for(".index", **kept) if request.args.get("cursor") else "",
        csv=url_for(".index", **kept, format="csv"),
    )


@bp.get('/admin/users/<id("usr"):user_id>')
@require_operator("support")
def show(user_id: UUID) -> Response:
    """Show somebody."""
    with context.read_session() as session:
        found = get_user_detail(session, user_id)
    return pages.render_page("admin/users/show.html", found=found)


def _cells(user: Any, office: str | None, organizations: int, seen: Any) -> tuple[Any, ...]:
    return (
        ids.format_id("usr", user.id),
        user.email,
        user.full_name,
        office or "",
        organizations,
        clock.format_rfc3339(user.email_verified_at) if user.email_verified_at else "",
        clock.format_rfc3339(user.created_at),
        clock.format_rfc3339(seen) if seen else "",
    )
