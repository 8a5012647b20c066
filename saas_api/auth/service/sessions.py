"""Sign-up, sign-in and sessions. A token names a session; PostgreSQL decides at every request whether it still counts.

What follows a refresh token is computed, not stored, so that two tabs that refresh at once get the same successor.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.auth.models import UserSession
from saas_api.auth.rules import normal_password, password_problem
from saas_api.auth.service import tokens
from saas_api.auth.service.tokens import InvalidToken, TokenReused, Tokens
from saas_api.core import clock, crypto
from saas_api.core.access import Principal
from saas_api.core.db import execute_once
from saas_api.core.errors import Forbidden, Invalid, Unauthenticated
from saas_api.core.ids import new_id
from saas_api.core.tenancy import as_system
from saas_api.organizations import service as organizations
from saas_api.organizations.models import Membership, Organization
from saas_api.users import service as users
from saas_api.users.models import User

SESSION_LIFETIME = timedelta(days=30)


class InvalidCredentials(Unauthenticated):
    """No such account, or another password: one answer."""

    code, message = "INVALID_CREDENTIALS", "The e-mail address or the password is wrong."


class InvalidTokenFormat(Unauthenticated):
    """Whatever it is, it is no token."""

    code, message = "INVALID_TOKEN_FORMAT", "The Authorization header must be: Bearer <token>."


class NoOrganization(Forbidden):
    """The account is right and belongs to no organization."""

    code, message = "NO_ORGANIZATION", "This account does not belong to an organization."


@dataclass(frozen=True)
class Origin:
    """Where a sign-in comes from, as its owner will see it in the list of sessions."""

    ip: str | None
    user_agent: str | None


@dataclass(frozen=True)
class SignedIn:
    """Who signed in, where, as what, and with which tokens."""

    user: User
    organization: Organization
    role: str
    tokens: Tokens


@dataclass(frozen=True)
class Profile:
    """A person with every organization they belong to; the current one with its role."""

    user: User
    organization: Organization
    role: str
    organizations: list[tuple[Organization, str]]


def register(organization_name: str, email: str, password: str, full_name: str, origin: Origin) -> SignedIn:
    """Make a person, their organization and a session, together or not at all.

    raises: Invalid on password, users.EmailTaken
    """
    password = normal_password(password)
    problem = password_problem(password, [email, organization_name, full_name])
    if problem:
        raise Invalid.at("password", problem)
    password_hash = crypto.hash_password(password)  # slow: no connection waits for it
    with as_system("auth.register") as session:
        user = users.add(session, email, password_hash, full_name)
        organization = organizations.create(session, organization_name, user.id)
        return SignedIn(user, organization, "owner", _open(session, user, organization.id, origin))


def sign_in(email: str, password: str, organization_id: UUID | None, origin: Origin) -> SignedIn:
    """Open a session in the given organization, or in the one the person joined first.

    raises: InvalidCredentials, NoOrganization, Invalid when the person does not belong to the given one
    """
    password = normal_password(password)
    with as_system("auth.sign_in") as session:
        found = users.find_by_email(session, email)
    if not users.check_password(found, password) or found is None:
        raise InvalidCredentials
    renewed = users.renewed_hash(found, password)
    with as_system("auth.sign_in") as session:
        user = users.confirm(session, found, renewed)
        if user is None:
            raise InvalidCredentials
        belongings = _belongings(session, user.id)
        if not belongings:
            raise NoOrganization
        chosen = [pair for pair in belongings if organization_id in (None, pair[0].id)]
        if not chosen:
            raise Invalid.at("organization_id", "You do not belong to that organization.")
        organization, role = chosen[0]
        return SignedIn(user, organization, role, _open(session, user, organization.id, origin))


def refresh(refresh_token: str) -> Tokens:
    """Spend a refresh token for the next pair.

    raises: InvalidToken, TokenExpired, TokenReused, which ends the session
    """
    claims = tokens.read(refresh_token, "refresh")
    try:
        with as_system("auth.refresh") as session:
            user_id, following, ends_at = tokens.spend(session, claims["sid"], claims["jti"])
    except TokenReused:
        with as_system("auth.refresh") as session:
            _end(session, UUID(claims["sid"]), "refresh token used twice")
        raise
    return tokens.issue(user_id, claims["sid"], claims["org"], following, ends_at)


def sign_out(session_id: UUID | None) -> None:
    """End a session: its tokens are refused from the next request on, in every process."""
    if session_id is None:
        return
    with as_system("auth.sign_out") as session:
        _end(session, session_id, "signed out")


def profile(principal: Principal) -> Profile:
    """Who is signed in, and to what.

    raises: InvalidToken when the person left since the gate let them pass
    """
    with as_system("auth.profile") as session:
        user = session.get(User, principal.id)
        belongings = _belongings(session, principal.id)
        current = next((pair for pair in belongings if pair[0].id == principal.organization_id), None)
        if user is None or current is None:
            raise InvalidToken
        return Profile(user, *current, belongings)


_PRINCIPAL = """
SELECT u.id, u.email_verified_at IS NOT NULL, m.organization_id, m.role FROM user_sessions s
  JOIN users u ON u.id = s.user_id
  JOIN memberships m ON m.user_id = u.id AND m.organization_id = %(org)s
  JOIN organizations o ON o.id = m.organization_id
 WHERE s.id = %(sid)s AND u.id = %(sub)s AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL
   AND date_trunc('second', u.tokens_valid_after) <= to_timestamp(%(iat)s)
"""
_AS_SYSTEM = "SELECT set_config('role', 'saas_system', true)"


def principal_of(access_token: str) -> Principal:
    """Who holds an access token, as PostgreSQL knows it now: role and membership never come from the token.

    raises: InvalidToken, TokenExpired
    """
    claims = tokens.read(access_token, "access")
    rows = execute_once([(_AS_SYSTEM, {}), (_PRINCIPAL, claims)])
    if not rows:
        raise InvalidToken
    user_id, is_verified, organization_id, role = tuple(rows[0])
    return Principal(
        kind="user",
        id=user_id,
        organization_id=organization_id,
        role=role,
        email_verified=is_verified,
        session_id=UUID(claims["sid"]),
    )


def _belongings(session: Session, user_id: UUID) -> list[tuple[Organization, str]]:
    statement = (
        sa.select(Organization, Membership.role)
        .join(Membership, Membership.organization_id == Organization.id)
        .where(Membership.user_id == user_id)
        .order_by(Membership.created_at, Organization.id)
    )
    return [(organization, role) for organization, role in session.execute(statement)]


def _open(session: Session, user: User, organization_id: UUID, origin: Origin) -> Tokens:
    sid, jti, now = new_id(), new_id().hex, clock.now()
    session.add(
        UserSession(
            id=sid,
            user_id=user.id,
            refresh_digest=tokens.digest_of(jti),
            rotated_at=now,
            expires_at=now + SESSION_LIFETIME,
            last_seen_at=now,
            ip=origin.ip,
            user_agent=(origin.user_agent or "")[:300],
        )
    )
    return tokens.issue(user.id, sid.hex, organization_id.hex, jti, now + SESSION_LIFETIME, is_fresh=True)


def _end(session: Session, session_id: UUID, reason: str) -> None:
    statement = sa.update(UserSession).where(UserSession.id == session_id, UserSession.revoked_at.is_(None))
    session.execute(statement.values(revoked_at=sa.func.now(), revoked_reason=reason))
