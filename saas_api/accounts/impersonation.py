"""Impersonation: an operator views an organization as a viewer, read-only, for an hour."""

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from saas_api.accounts import audit, operators, organizations, tokens, user_agents
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import UserSession
from saas_api.accounts.tokens import SessionClaims, TokenAudience
from saas_api.core import clock, crypto, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import Forbidden

IMPERSONATION_LIFETIME = timedelta(minutes=60)


class OperatorRoleRequired(Forbidden):
    """The user is not an operator with the role admin."""


def start_impersonation(
    organization_id: UUID, operator: OperatorContext, operator_session_id: UUID | None = None
) -> tuple[str, datetime]:
    """Start a session in which an operator views an organization, in a transaction of its own.

    operator: a user with the role admin; the reason has at least 10 characters
    operator_session_id: the operator's own session, with which the impersonation ends, and whose browser gets the
        token; None from the command line, where the token is for the API
    returns: an access token and its expiry; it also ends when the operator's role is revoked
    raises: OperatorRoleRequired, OrganizationNotFound, ValidationFailed for the reason
    """
    reason, user_id = organizations.validate_reason(operator.reason), UUID(str(operator.actor.id))
    now = clock.now()
    expires_at = now + IMPERSONATION_LIFETIME
    with tenancy.system_session("auth.look") as session:
        if operators.find_operator_role(session, user_id) != "admin":
            raise OperatorRoleRequired
        organization = organizations.get_organization(session, organization_id)
        user_session = UserSession(
            id=ids.new_id(),
            user_id=user_id,
            refresh_digest=crypto.sha256(secrets.token_urlsafe(32)),  # no refresh token has this digest
            rotated_at=now,
            expires_at=expires_at,
            last_seen_at=now,
            user_agent=f"{user_agents.VIEW_PREFIX}{organization.name}"[:300],
        )
        session.add(user_session)
        data = {"reason": reason, "until": clock.format_rfc3339(expires_at)}
        target = ("organization", organization.id)
        audit.record_event(session, organization.id, operator.actor, "organization.looked_at", target, data)
    audience = TokenAudience.PAGES if operator_session_id else TokenAudience.API
    claims = SessionClaims(user_id, user_session.id, organization_id, audience)
    token = tokens.issue_impersonation_token(claims, IMPERSONATION_LIFETIME, operator_session_id or user_session.id)
    return token, expires_at
