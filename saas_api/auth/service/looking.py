"""An operator looks at an organization: for an hour, as viewer, writing nothing, known to the tenant."""

import secrets
from datetime import datetime, timedelta
from uuid import UUID

from flask_jwt_extended import create_access_token

from saas_api.auth.models import UserSession
from saas_api.core import clock, crypto
from saas_api.core.errors import Forbidden, Invalid
from saas_api.core.ids import new_id
from saas_api.core.tenancy import as_system
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.users import service as users

LOOKING_LIFETIME = timedelta(minutes=60)
SHORTEST_REASON = 10


class NotAnOperator(Forbidden):
    """Only an operator who is admin looks at organizations."""


def look_at(organization_id: UUID, email: str, reason: str) -> tuple[str, datetime]:
    """A token that shows an organization to an operator.

    email: the operator's
    reason: for the organization's own log of acts, at least ten characters
    returns: the token and its end; losing the office ends it at once
    raises: NotAnOperator, Invalid, organizations.NoSuchOrganization
    """
    if len(reason.strip()) < SHORTEST_REASON:
        raise Invalid.at("reason", f"Say why, in at least {SHORTEST_REASON} characters.")
    now = clock.now()
    ends_at = now + LOOKING_LIFETIME
    with as_system("auth.look") as session:
        user = users.find_by_email(session, email)
        if user is None or users.office_of(session, user.id) != "admin":
            raise NotAnOperator
        organization = organizations.get(session, organization_id)
        held = UserSession(
            id=new_id(),
            user_id=user.id,
            refresh_digest=crypto.digest(secrets.token_urlsafe(32)),
            rotated_at=now,
            expires_at=ends_at,
            last_seen_at=now,
            user_agent=f"looks at {organization.name}"[:300],
        )
        session.add(held)
        data = {"reason": reason.strip(), "until": clock.rfc3339(ends_at)}
        actor, target = audit.Actor("operator", str(user.id)), ("organization", organization.id)
        audit.record(session, organization.id, actor, "organization.looked_at", target, data)
    claims = {"sid": held.id.hex, "org": organization_id.hex, "csrf": "", "looking": True}
    return create_access_token(str(user.id), expires_delta=LOOKING_LIFETIME, additional_claims=claims), ends_at
