"""Roles of the operators, who run the platform. Their impersonation of an organization is in `impersonation`."""

from uuid import UUID

from sqlalchemy import func, select

from saas_api.accounts.models import Operator, User
from saas_api.core.db.tenancy import SystemSession


def list_operators(session: SystemSession) -> list[tuple[User, Operator]]:
    """Every operator, sorted by e-mail address."""
    statement = select(User, Operator).join(Operator, Operator.user_id == User.id).order_by(func.lower(User.email))
    return [(user, operator) for user, operator in session.execute(statement)]


def find_operator_role(session: SystemSession, user_id: UUID) -> str | None:
    """The operator role of a user; None for a user who is no operator."""
    operator = session.get(Operator, user_id)
    return operator.role if operator else None


def grant_operator_role(session: SystemSession, user_id: UUID, role: str) -> str | None:
    """Make a user an operator, or change an operator's role.

    role: "support" or "admin"
    returns: the role before
    """
    operator = session.get(Operator, user_id)
    if operator is None:
        session.add(Operator(user_id=user_id, role=role))
        return None
    role_before, operator.role = operator.role, role
    return role_before


def revoke_operator_role(session: SystemSession, user_id: UUID) -> str | None:
    """Revoke a user's operator role, from the next request on.

    returns: the role before; None for a user who was no operator
    """
    operator = session.get(Operator, user_id)
    if operator is None:
        return None
    session.delete(operator)
    return operator.role
