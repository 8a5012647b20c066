"""Users, their memberships and sessions: search, page, and what actions do to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate

from saas_api.accounts import (
    audit,
    authenticators,
    members,
    operators,
    organizations,
    passwords,
    sessions,
    two_factor,
    users,
)
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Membership, Operator, Organization, User, UserSession
from saas_api.admin import context, lists
from saas_api.admin.context import Preview, ReasonForm
from saas_api.admin.lists import Columns, ListQuery
from saas_api.api_keys import keys
from saas_api.api_keys.models import KeyView
from saas_api.core import ids
from saas_api.core.access import require_operator
from saas_api.core.db import cells
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.fields import Text
from saas_api.core.web import forms, pages
from saas_api.core.web.forms import Form

bp = Blueprint("users", __name__)

MAX_SESSIONS = 50


USER_COLUMNS: Columns = {
    "id": lambda row: ids.format_id("usr", row.user.id),
    User.email.key: lambda row: row.user.email,
    "full_name": lambda row: row.user.full_name,
    "operator": lambda row: row.operator_role,
    "organizations": lambda row: row.organizations,
    "email_verified_at": lambda row: lists.csv_time(row.user.email_verified_at),
    "created_at": lambda row: lists.csv_time(row.user.created_at),
    "last_seen_at": lambda row: lists.csv_time(row.last_seen_at),
}


_KINDS: Mapping[str, sa.ColumnElement[bool]] = {
    "operator": Operator.role.is_not(None),
    "unverified": User.email_verified_at.is_(None),
    "disabled": User.disabled_at.is_not(None),
}


class UserListQuery(ListQuery):
    """Filters of users; `q` is a part of the email address or the name, or an id."""

    q = Text(maximum=254, load_default=None)
    kind = fields.String(load_default=None, validate=validate.OneOf(list(_KINDS)))


class DisableUserForm(ReasonForm):
    """The reason, and whether keys that the user created keep working."""

    keep_keys = fields.Boolean(load_default=False, metadata={"help": "Keep the API keys that the user created."})


class CannotDisableSelf(Conflict):
    """An operator cannot disable their own account."""

    message = "You can't disable your own account. Ask another operator."


class CannotResetSelf(Conflict):
    """An operator turns their own two-factor sign-in off in their account, with a code."""

    message = "Turn off your own two-factor sign-in in your account, or ask another operator."


@dataclass(frozen=True)
class UserRow:
    """A user in the list; `operator_role` is None unless the user is an operator."""

    user: User
    operator_role: str | None
    organizations: int
    last_seen_at: datetime | None


@dataclass(frozen=True)
class UserDetail:
    """A user with their memberships (organization, role) and active sessions."""

    user: User
    operator_role: str | None
    memberships: Sequence[tuple[Organization, str]]
    sessions: Sequence[UserSession]
    two_factor_enabled_at: datetime | None


def search_users(session: SystemSession, query: dict[str, Any]) -> Page:
    """A page of UserRow, newest first.

    query: as of UserListQuery
    raises: ValidationFailed
    """
    count = sa.select(sa.func.count()).where(Membership.user_id == User.id).scalar_subquery()
    last_seen_at = (
        sa.select(sa.func.max(UserSession.last_seen_at)).where(UserSession.user_id == User.id).scalar_subquery()
    )
    statement = (
        sa.select(User, Operator.role, count, last_seen_at)
        .outerjoin(Operator, Operator.user_id == User.id)
        .where(*_conditions(query))
    )
    if query["kind"]:
        statement = statement.where(_KINDS[query["kind"]])
    keys = (User.created_at.desc(), User.id.desc())
    return lists.paginate_or_export(session, statement, *keys, query=query, convert=lambda row: UserRow(*row))


def get_user_detail(session: SystemSession, user_id: UUID) -> UserDetail:
    """A user with at most MAX_SESSIONS active sessions, those last seen first.

    raises: NotFound
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound
    operator = session.get(Operator, user_id)
    is_active = sessions.active_session_clause(user_id)
    active = sa.select(UserSession).where(*is_active).order_by(UserSession.last_seen_at.desc()).limit(MAX_SESSIONS)
    return UserDetail(
        user,
        operator.role if operator else None,
        members.list_memberships(session, user_id),
        session.scalars(active).all(),
        authenticators.find_enabled_at(session, user_id),
    )


def _conditions(query: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query["q"]:
        conditions.append(_matches(query["q"].strip()))
    return conditions


def count_users(session: SystemSession, query: dict[str, Any]) -> dict[str, int]:
    """Number of users of each kind that match the search, as of `lists.count_each`."""
    statement = sa.select(User.id).outerjoin(Operator, Operator.user_id == User.id)
    return lists.count_each(session, statement.where(*_conditions(query)), _KINDS)


def _matches(text: str) -> sa.ColumnElement[bool]:
    try:
        return User.id == ids.parse_id("usr", text)
    except ValueError:
        return sa.or_(User.email.icontains(text, autoescape=True), User.full_name.icontains(text, autoescape=True))


@bp.get("/admin/users")
@require_operator("support")
def index() -> Response:
    """Search users, newest first."""
    query, form = forms.parse_filters(UserListQuery())
    page, counts = None, {}
    if not form.errors:
        with context.read_session() as session:
            page, counts = search_users(session, query), count_users(session, query)
    if page and query["format"] == "csv":
        return lists.csv_export("users", USER_COLUMNS, page)
    status = 200 if page else 422
    return pages.render_page(
        "admin/users/index.html",
        status=status,
        form=form,
        page=page,
        counts=counts,
        **pages.pagination_links(page.next_cursor if page else None),
    )


@bp.get('/admin/users/<id("usr"):user_id>')
@require_operator("support")
def show(user_id: UUID) -> Response:
    """Show a user with memberships and sessions."""
    with context.read_session() as session:
        detail = get_user_detail(session, user_id)
    return pages.render_page("admin/users/show.html", detail=detail)


def end_user_sessions(operator: OperatorContext, user_id: UUID) -> int:
    """Ends every session of a user: their tokens are rejected from the next request on.

    returns: the number of sessions
    raises: NotFound
    """
    with context.write_session() as session:
        user = _get_user(session, user_id)
        ended = sessions.end_sessions(session, user.id, "ended by an operator")
        _record_audit(session, operator, user, "user.sessions_ended", {"sessions": len(ended)})
    return len(ended)


def send_password_reset(operator: OperatorContext, user_id: UUID) -> None:
    """Emails a user the link that sets a new password, as if they had requested it.

    raises: NotFound
    """
    with context.write_session() as session:
        user = _get_user(session, user_id)
        _record_audit(session, operator, user, "user.reset_requested", {})
    passwords.request_password_reset(user.email)


def reset_two_factor(operator: OperatorContext, user_id: UUID) -> bool:
    """Turns two-factor sign-in off for a user who lost their phone and recovery codes, and ends their sessions.

    returns: whether it was on
    raises: NotFound, CannotResetSelf
    """
    with context.write_session() as session:
        user = _get_user(session, user_id)
        if operator.actor.id == str(user_id):
            raise CannotResetSelf
        was_enabled = authenticators.remove(session, user.id)
        if was_enabled:
            ended = sessions.end_sessions(session, user.id, "two-factor sign-in was reset")
            two_factor.notify_removal(session, user)
            _record_audit(session, operator, user, "user.two_factor_reset", {"sessions": len(ended)})
    return was_enabled


def preview_disable(detail: UserDetail, _form: Form | None) -> Preview:
    """The keys that the user created and that are not revoked."""
    created: list[KeyView] = []
    for cell in cells.names():
        with cells.use(cell), context.read_session() as session:
            created += keys.list_keys_of_creator(session, detail.user.id)
    return Preview(created)


def disable_user(operator: OperatorContext, user_id: UUID, *, keep_keys: bool) -> list[UUID]:
    """Disables a user: their sessions end, and the keys that they created are revoked in every organization.

    A repeat goes on where a cell did not respond.
    keep_keys: as of DisableUserForm
    returns: ids of the revoked keys
    raises: NotFound, CannotDisableSelf, LastOperator
    """
    with context.write_session() as session:
        user = _get_user(session, user_id)
        if operator.actor.id == str(user_id):
            raise CannotDisableSelf
        if operators.find_operator_role(session, user_id) == "admin":
            operators.require_another_admin(session, user_id)
        ended = users.disable_user(session, user)
        reason = "its creator was disabled"
        revoked = [] if keep_keys else keys.revoke_keys_of_creator(session, user_id, operator.actor, reason)
        data = {"sessions": len(ended), "revoked_keys": [ids.format_id("key", key_id) for key_id in revoked]}
        _record_audit(session, operator, user, "user.disabled", data)
    for cell in [] if keep_keys else cells.names()[1:]:
        with cells.use(cell), context.write_session() as session:
            revoked += keys.revoke_keys_of_creator(session, user_id, operator.actor, reason)
    return revoked


def enable_user(operator: OperatorContext, user_id: UUID) -> bool:
    """Lets a disabled user sign in again; revoked keys stay revoked.

    returns: whether the user was disabled
    raises: NotFound
    """
    with context.write_session() as session:
        user = _get_user(session, user_id)
        was_disabled = users.enable_user(session, user)
        if was_disabled:
            _record_audit(session, operator, user, "user.enabled", {})
    return was_disabled


def _get_user(session: SystemSession, user_id: UUID) -> User:
    user = users.find_user(session, user_id)
    if user is None:
        raise NotFound
    return user


def _record_audit(
    session: SystemSession, operator: OperatorContext, user: User, action: str, data: dict[str, object]
) -> None:
    """Records the action in the log of each organization of the user, or in the platform's when there is none."""
    data = {**data, "reason": organizations.validate_reason(operator.reason)}
    organization_ids: list[UUID | None] = [
        organization.id for organization, _ in members.list_memberships(session, user.id)
    ]
    for organization_id in organization_ids or [None]:
        audit.record_event(session, organization_id, operator.actor, action, ("user", user.id), data)
