"""Impersonation: an operator views an organization as a viewer, read-only, for an hour."""

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from saas_api.accounts import audit, operators, organizations, tokens, users
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import UserSession
from saas_api.core import clock, crypto, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import Forbidden

IMPERSONATION_LIFETIME = timedelta(minutes=60)


class OperatorRoleRequired(Forbidden):
    """The user is not an operator with the role admin."""


def start_impersonation(organization_id: UUID, email: str, reason: str) -> tuple[str, datetime]:
    """Start a session in which an operator views an organization, in a transaction of its own.

    email: of the operator
    reason: for the audit log of the organization, at least 10 characters
    returns: an access token and its expiry; it also ends when the operator's role is revoked
    raises: OperatorRoleRequired, OrganizationNotFound, ValidationFailed for the reason
    """
    reason = organizations.validate_reason(reason)
    now = clock.now()
    expires_at = now + IMPERSONATION_LIFETIME
    with tenancy.system_session("auth.look") as session:
        user = users.find_by_email(session, email)
        if user is None or operators.find_operator_role(session, user.id) != "admin":
            raise OperatorRoleRequired
        organization = organizations.get_organization(session, organization_id)
        user_session = UserSession(
            id=ids.new_id(),
            user_id=user.id,
            refresh_digest=crypto.sha256(secrets.token_urlsafe(32)),  # no refresh token has this digest
            rotated_at=now,
            expires_at=expires_at,
            last_seen_at=now,
            user_agent=f"looks at {organization.name}"[:300],
        )
        session.add(user_session)
        data = {"reason": reason, "until": clock.format_rfc3339(expires_at)}
        actor, target = Actor("operator", str(user.id)), ("organization", organization.id)
        audit.record_event(session, organization.id, actor, "organization.looked_at", target, data)
    return tokens.issue_impersonation_token(
        user.id, user_session.id, organization_id, IMPERSONATION_LIFETIME
    ), expires_at
