"""Operator roles; start_impersonation."""

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from flask_jwt_extended import create_access_token
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations, users
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Operator, User, UserSession
from saas_api.core import clock, crypto, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import Forbidden, ValidationFailed

IMPERSONATION_LIFETIME = timedelta(minutes=60)
MIN_REASON_LENGTH = 10


class OperatorRoleRequired(Forbidden):
    """Only an operator who is admin looks at organizations."""


def start_impersonation(organization_id: UUID, email: str, reason: str) -> tuple[str, datetime]:
    """A token that shows an organization to an operator.

    email: the operator's
    reason: for the organization's own log of acts, at least ten characters
    returns: the token and its end; losing the office ends it at once
    raises: NotAnOperator, Invalid, organizations.NoSuchOrganization
    """
    if len(reason.strip()) < MIN_REASON_LENGTH:
        raise ValidationFailed.at_field("reason", f"Say why, in at least {MIN_REASON_LENGTH} characters.")
    now = clock.now()
    ends_at = now + IMPERSONATION_LIFETIME
    with tenancy.system_session("auth.look") as session:
        user = users.find_by_email(session, email)
        if user is None or find_operator_role(session, user.id) != "admin":
            raise OperatorRoleRequired
        organization = organizations.get(session, organization_id)
        held = UserSession(
            id=ids.new_id(),
            user_id=user.id,
            refresh_digest=crypto.sha256(secrets.token_urlsafe(32)),
            rotated_at=now,
            expires_at=ends_at,
            last_seen_at=now,
            user_agent=f"looks at {organization.name}"[:300],
        )
        session.add(held)
        data = {"reason": reason.strip(), "until": clock.format_rfc3339(ends_at)}
        actor, target = Actor("operator", str(user.id)), ("organization", organization.id)
        audit.record_event(session, organization.id, actor, "organization.looked_at", target, data)
    claims = {"sid": held.id.hex, "org": organization_id.hex, "csrf": "", "looking": True}
    return create_access_token(str(user.id), expires_delta=IMPERSONATION_LIFETIME, additional_claims=claims), ends_at


def grant_operator_role(session: Session, user_id: UUID, role: str) -> str | None:
    """Make a person an operator of the platform, or give an operator another role.

    role: "support" or "admin"
    returns: the role they had
    """
    operator = session.get(Operator, user_id)
    if operator is None:
        session.add(Operator(user_id=user_id, role=role))
        return None
    before, operator.role = operator.role, role
    return before


def revoke_operator_role(session: Session, user_id: UUID) -> str | None:
    """End somebody's work as operator, from their next request on.

    returns: the role they had
    """
    operator = session.get(Operator, user_id)
    if operator is None:
        return None
    session.delete(operator)
    return operator.role


def list_operators(session: Session) -> list[tuple[User, Operator]]:
    """Every operator, by address."""
    statement = select(User, Operator).join(Operator, Operator.user_id == User.id).order_by(func.lower(User.email))
    return [(user, operator) for user, operator in session.execute(statement)]


def find_operator_role(session: Session, user_id: UUID) -> str | None:
    """The role of an operator; None for everybody else."""
    operator = session.get(Operator, user_id)
    return operator.role if operator else None
