"""Roles of the operators, who run the platform. Their impersonation of an organization is in `impersonation`."""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select

from saas_api.accounts import audit, authenticators, email_changes, notices, one_time_tokens, sessions, users
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Operator, User
from saas_api.accounts.notices import Notice, Recipient
from saas_api.accounts.one_time_tokens import RESET_PASSWORD_PURPOSE
from saas_api.core import crypto
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict
from saas_api.mail import mails

OPERATOR_LINK_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True)
class Appointment:
    """An operator; `password_token` sets a password, None for who was an operator before."""

    user: User
    role: str
    password_token: str | None


class AccountExists(Exception):
    """The address has an account that is no operator's."""


class AddressNotVerified(Exception):
    """The account has not shown that it receives the mail of its address."""


class LastOperator(Conflict):
    """Nobody could administer the platform any more."""

    message = "This is the last operator with the role admin."


def list_operators(session: SystemSession) -> list[tuple[User, Operator]]:
    """Every operator, sorted by email address."""
    statement = select(User, Operator).join(Operator, Operator.user_id == User.id).order_by(User.email)
    return [(user, operator) for user, operator in session.execute(statement)]


def send_alert(session: SystemSession, subject_line: str, detail: str) -> None:
    """Mail an alert to every operator."""
    for user, _ in list_operators(session):
        context = {"name": user.full_name, "subject_line": subject_line, "detail": detail}
        mails.enqueue(session, "operator_alert", user.email, organization_id=None, **context)


def find_operator_role(session: SystemSession, user_id: UUID) -> str | None:
    """The operator role of a user; None for a user who is no operator."""
    operator = session.get(Operator, user_id)
    return operator.role if operator else None


def require_another_admin(session: SystemSession, user_id: UUID) -> None:
    """Check that an operator besides a user has the role admin and is not disabled; locks the admins until the end.

    raises: LastOperator
    """
    admins = select(Operator.user_id).where(Operator.role == "admin").order_by(Operator.user_id)
    others = [admin_id for admin_id in session.scalars(admins.with_for_update()) if admin_id != user_id]
    # read after the locks: of two operators who disable each other, the second sees what the first did
    is_active = select(User.id).where(User.id.in_(others), User.disabled_at.is_(None)).limit(1)
    if session.scalar(is_active) is None:
        raise LastOperator


def appoint_operator(
    session: SystemSession, email: str, role: str | None, actor: Actor, *, is_existing_allowed: bool = False
) -> Appointment:
    """Make the user with an address an operator, or change an operator's role. The only way to operator rights.

    An account that is no operator's may be of anyone who signed up with the address. It is taken over: its sessions
    end, and its password and second factor are void, so that only who reads its mail or has the returned token gets in.

    role: "support" or "admin"; None keeps an operator's role, and is "support" for a new operator
    is_existing_allowed: whether an account that exists may become an operator's
    raises: AccountExists, AddressNotVerified
    """
    user = users.find_by_email(session, email)
    before = find_operator_role(session, user.id) if user else None
    token = None
    if user is None:
        user = users.create_user(session, email, secrets.token_urlsafe(32), "")
        token = one_time_tokens.issue_token(session, user.id, RESET_PASSWORD_PURPOSE, OPERATOR_LINK_LIFETIME)
    elif before is None:
        if not is_existing_allowed:
            raise AccountExists
        if not user.email_verified:
            raise AddressNotVerified
        user.password_hash = crypto.hash_password(secrets.token_urlsafe(32))
        user.tokens_valid_after = func.now()  # PostgreSQL's clock, with which tokens are compared
        sessions.end_sessions(session, user.id, "became an operator")
        authenticators.remove(session, user.id)
        email_changes.revoke(session, user.id)
        token = one_time_tokens.issue_token(session, user.id, RESET_PASSWORD_PURPOSE, OPERATOR_LINK_LIFETIME)
    new_role = role or before or "support"
    if before is None:
        session.add(Operator(user_id=user.id, role=new_role))
    elif before != new_role:
        session.get_one(Operator, user.id).role = new_role
    if before != new_role:
        _record_audit(
            session, actor, "operator.created" if before is None else "operator.changed", user, before, new_role
        )
    return Appointment(user, new_role, token)


def revoke_operator_role(session: SystemSession, email: str, actor: Actor) -> bool:
    """Revoke a user's operator role, from the next request on; the account stays.

    returns: whether the user was an operator
    """
    user = users.find_by_email(session, email)
    operator = session.get(Operator, user.id) if user else None
    if user is None or operator is None:
        return False
    session.delete(operator)
    _record_audit(session, actor, "operator.revoked", user, operator.role, None)
    return True


def _record_audit(
    session: SystemSession, actor: Actor, action: str, user: User, before: str | None, after: str | None
) -> None:
    data = audit.values(email=user.email, before={"role": before}, after={"role": after})
    audit.record_event(session, None, actor, action, ("user", user.id), data)
    session.flush()  # the new operator is among the admins
    admins = [admin for admin, operator in list_operators(session) if operator.role == "admin"]
    facts = [f"User: {user.email}", f"Operator role: {after or 'none'}, before {before or 'none'}"]
    advice = "Revoke the role with flask operator revoke, and check the operator log at /admin/audit."
    recipients = [Recipient.of(recipient) for recipient in (user, *admins)]
    notices.enqueue(session, recipients, Notice("An operator role was changed", facts, advice, "/admin"))
