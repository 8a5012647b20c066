"""Users and their sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, g, request, url_for
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations, passwords, sessions, users
from saas_api.accounts.models import Membership, Operator, Organization, User, UserSession
from saas_api.admin import context, lists
from saas_api.admin.audit import ActorKind
from saas_api.admin.context import ReasonForm
from saas_api.admin.lists import ListQuery
from saas_api.core import clock, ids
from saas_api.core.access import Principal, require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound
from saas_api.core.fields import Text
from saas_api.core.web import forms, pages, templating
from saas_api.core.web.forms import Form, form_view

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


def end_user_sessions(principal: Principal, user_id: UUID, reason: str) -> int:
    """End every session of somebody: their tokens are refused from the next request on.

    returns: how many ended
    raises: NotFound
    """
    with context.write_session() as session:
        user = _lock_user(session, user_id)
        ended = sessions.end_sessions(session, user.id, "ended by an operator")
        _record_audit(session, principal, user, "user.sessions_ended", {"sessions": len(ended)}, reason)
    return len(ended)


def send_password_reset(principal: Principal, user_id: UUID, reason: str) -> None:
    """Mail somebody a link that sets their password, as if they had asked for it.

    raises: NotFound
    """
    with context.write_session() as session:
        user = _lock_user(session, user_id)
        _record_audit(session, principal, user, "user.reset_requested", {}, reason)
    passwords.request_password_reset(user.email)


def _lock_user(session: Session, user_id: UUID) -> User:
    user = users.find_user(session, user_id)
    if user is None:
        raise NotFound
    return user


def _record_audit(
    session: Session, principal: Principal, user: User, action: str, data: dict[str, object], reason: str
) -> None:
    told = {**data, "reason": organizations.validate_reason(reason)}
    places: list[UUID | None] = [organization.id for organization, _ in members.list_memberships(session, user.id)]
    for place in places or [None]:
        audit.record_event(session, place, context.current_operator(principal), action, ("user", user.id), told)


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


@bp.get('/admin/users/<id("usr"):user_id>/end-sessions')
@require_operator("admin")
def end_sessions_form(user_id: UUID, form: Form | None = None) -> Response:
    """Ask why somebody's sessions end."""
    return _action_page(user_id, "end-sessions", form)


@bp.post('/admin/users/<id("usr"):user_id>/end-sessions')
@require_operator("admin")
@form_view(ReasonForm(), form=end_sessions_form, requires_fresh_login=True)
def end_sessions(user_id: UUID, body: dict[str, Any]) -> Any:
    """End every session of somebody."""
    ended = end_user_sessions(g.principal, user_id, body["reason"])
    return pages.redirect_to(".show", _notice=f"{templating.pluralize(ended, 'session')} ended.", user_id=user_id)


@bp.get('/admin/users/<id("usr"):user_id>/reset-mail')
@require_operator("support")
def send_reset_form(user_id: UUID, form: Form | None = None) -> Response:
    """Ask why somebody gets a reset mail."""
    return _action_page(user_id, "reset-mail", form)


@bp.post('/admin/users/<id("usr"):user_id>/reset-mail')
@require_operator("support")
@form_view(ReasonForm(), form=send_reset_form, is_idempotent=True, requires_fresh_login=True)
def send_reset(user_id: UUID, body: dict[str, Any]) -> Any:
    """Mail somebody a link that sets their password."""
    send_password_reset(g.principal, user_id, body["reason"])
    return pages.redirect_to(".show", _notice="The mail is on its way. Its link works for an hour.", user_id=user_id)


def _action_page(user_id: UUID, act: str, form: Form | None) -> Response:
    with context.read_session() as session:
        found = get_user_detail(session, user_id)
    return pages.render_page("admin/users/act.html", found=found, act=act, form=form or Form())


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
