"""Sessions: opened, refreshed, listed, ended. A token names one; PostgreSQL decides at every request whether it counts.

What follows a refresh token is computed, not stored, so that two tabs that refresh at once get the same successor.
"""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.auth import queries
from saas_api.auth.models import UserSession
from saas_api.auth.service import log, tokens
from saas_api.auth.service.tokens import InvalidToken, TokenReused, Tokens
from saas_api.core import clock
from saas_api.core.access import NO_ORGANIZATION, Principal
from saas_api.core.db import execute_once
from saas_api.core.errors import NotFound, Unauthenticated
from saas_api.core.http import Page
from saas_api.core.ids import new_id
from saas_api.core.tenancy import as_system, system_statement
from saas_api.organizations.models import Membership, Organization
from saas_api.organizations.service import NoSuchOrganization, audit
from saas_api.users.models import Operator, User

SESSION_LIFETIME = timedelta(days=30)


class InvalidCredentials(Unauthenticated):
    """No such account, or another password: one answer."""

    code, message = "INVALID_CREDENTIALS", "The e-mail address or the password is wrong."


class InvalidTokenFormat(Unauthenticated):
    """Whatever it is, it is no token."""

    code, message = "INVALID_TOKEN_FORMAT", "The Authorization header must be: Bearer <token>."


class NoSuchSession(NotFound):
    """There is none, it ended, or it is somebody else's."""


@dataclass(frozen=True)
class Origin:
    """Where a sign-in comes from, as its owner will see it in the list of sessions."""

    ip: str | None
    user_agent: str | None


@dataclass(frozen=True)
class SignedIn:
    """Who signed in, where, as what, and with which tokens; only an operator may be nowhere."""

    user: User
    organization: Organization | None
    role: str | None
    tokens: Tokens


@dataclass(frozen=True)
class Profile:
    """A person with every organization they belong to; the current one with its role."""

    user: User
    organization: Organization
    role: str
    organizations: list[tuple[Organization, str]]


def begin(
    session: Session, user: User, organization: Organization | None, role: str | None, origin: Origin
) -> SignedIn:
    """Open a session of a person who proved who they are."""
    organization_id = organization.id if organization else None
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
    log.note(session, organization_id, user.id, "user.signed_in", {"session": str(sid), "role": role})
    place = (organization_id or NO_ORGANIZATION).hex
    pair = tokens.issue(user.id, sid.hex, place, jti, now + SESSION_LIFETIME, is_fresh=True)
    return SignedIn(user, organization, role, pair)


def refresh(refresh_token: str) -> Tokens:
    """Spend a refresh token for the next pair.

    raises: InvalidToken, also for who was disabled or left the organization; TokenExpired; TokenReused, which ends
        the session
    """
    claims = tokens.read(refresh_token, "refresh")
    try:
        with as_system("auth.refresh") as session:
            user_id, following, ends_at = tokens.spend(session, claims["sid"], claims["jti"])
            _check_belongs(session, user_id, UUID(claims["org"]))
    except TokenReused:
        with as_system("auth.refresh") as session:
            _end_reused(session, UUID(claims["sid"]), UUID(claims["org"]))
        raise
    return tokens.issue(user_id, claims["sid"], claims["org"], following, ends_at)


def switch(principal: Principal, organization_id: UUID) -> SignedIn:
    """Go on in another organization of the person's; the session stays one and ends when it would have.

    raises: organizations.NoSuchOrganization when they do not belong to it, InvalidToken when the session just ended
    """
    with as_system("auth.sessions") as session:
        user = session.get(User, principal.id)
        belongings = queries.belongings(session, principal.id)
        chosen = next((pair for pair in belongings if pair[0].id == organization_id), None)
        if user is None or chosen is None:
            raise NoSuchOrganization
        jti = new_id().hex
        sid, ends_at = _rotate(session, principal, jti)
        log.note(session, organization_id, user.id, "session.switched", {"session": str(sid)})
        return SignedIn(user, *chosen, tokens.issue(user.id, sid.hex, organization_id.hex, jti, ends_at))


def sign_out(principal: Principal) -> None:
    """End the caller's session: its tokens are refused from the next request on, in every process."""
    if principal.session_id is None:
        return
    with as_system("auth.sessions") as session:
        if end_all(session, principal.id, "signed out", only=principal.session_id):
            data = {"session": str(principal.session_id)}
            log.note(session, _place(principal), principal.id, "user.signed_out", data)


def list_sessions(principal: Principal, query: dict[str, Any]) -> Page:
    """A page of the caller's live sessions, newest first.

    raises: Invalid on a cursor that is none
    """
    with as_system("auth.sessions") as session:
        return queries.list_sessions(session, principal.id, query)


def revoke(principal: Principal, session_id: UUID) -> None:
    """End one of the caller's sessions.

    raises: NoSuchSession
    """
    with as_system("auth.sessions") as session:
        if not end_all(session, principal.id, "revoked by its owner", only=session_id):
            raise NoSuchSession
        actor, target = audit.actor_of(principal), ("session", session_id)
        audit.record(session, _place(principal), actor, "session.revoked", target)


def _place(principal: Principal) -> UUID | None:
    return None if principal.organization_id == NO_ORGANIZATION else principal.organization_id


def end_all(
    session: Session, user_id: UUID, reason: str, *, only: UUID | None = None, but: UUID | None = None
) -> list[UUID]:
    """End a person's live sessions.

    only: this one
    but: every other one than this
    returns: which ended
    """
    statement = sa.update(UserSession).where(*queries.is_live(user_id))
    if only:
        statement = statement.where(UserSession.id == only)
    if but:
        statement = statement.where(UserSession.id != but)
    ending = statement.values(revoked_at=sa.func.now(), revoked_reason=reason).returning(UserSession.id)
    return list(session.scalars(ending, execution_options={"synchronize_session": False}))


def profile(principal: Principal) -> Profile:
    """Who is signed in, and to what.

    raises: InvalidToken when the person left since the gate let them pass
    """
    with as_system("auth.profile") as session:
        user = session.get(User, principal.id)
        belongings = queries.belongings(session, principal.id)
        if principal.is_looking:
            belongings = [(session.get_one(Organization, principal.organization_id), "viewer")]
        current = next((pair for pair in belongings if pair[0].id == principal.organization_id), None)
        if user is None or current is None:
            raise InvalidToken
        return Profile(user, *current, belongings)


_PRINCIPAL = """
SELECT u.id, u.email_verified_at IS NOT NULL, o.id, CASE WHEN %(looking)s THEN 'viewer' ELSE m.role END, op.role
  FROM user_sessions s JOIN users u ON u.id = s.user_id LEFT JOIN organizations o ON o.id = %(org)s
  LEFT JOIN memberships m ON m.user_id = u.id AND m.organization_id = o.id
  LEFT JOIN operators op ON op.user_id = u.id
 WHERE s.id = %(sid)s AND u.id = %(sub)s AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL
   AND CASE WHEN %(looking)s THEN op.role = 'admin' AND o.id IS NOT NULL
            WHEN %(office)s THEN op.role IS NOT NULL ELSE m.role IS NOT NULL END
   AND date_trunc('second', u.tokens_valid_after) <= to_timestamp(%(iat)s)
"""


def principal_of(access_token: str) -> Principal:
    """Who holds an access token, as PostgreSQL knows it now: role and membership never come from the token.

    raises: InvalidToken, TokenExpired
    """
    claims = tokens.read(access_token, "access")
    is_looking = claims.get("looking") is True
    values = {**claims, "looking": is_looking, "office": UUID(claims["org"]) == NO_ORGANIZATION}
    rows = execute_once([system_statement("auth.principal"), (_PRINCIPAL, values)])
    if not rows:
        raise InvalidToken
    user_id, is_verified, organization_id, role, office = tuple(rows[0])
    return Principal(
        kind="user",
        id=user_id,
        organization_id=organization_id or NO_ORGANIZATION,
        role=role,
        office=office,
        email_verified=is_verified,
        session_id=UUID(claims["sid"]),
        is_fresh=claims.get("fresh", 0) > time.time(),
        is_looking=is_looking,
    )


def _check_belongs(session: Session, user_id: UUID, organization_id: UUID) -> None:
    statement = (
        sa.select(Membership.role)
        .join(User, User.id == Membership.user_id)
        .where(User.id == user_id, User.disabled_at.is_(None), Membership.organization_id == organization_id)
    )
    if organization_id == NO_ORGANIZATION:
        statement = (
            sa.select(Operator.role)
            .join(User, User.id == Operator.user_id)
            .where(User.id == user_id, User.disabled_at.is_(None))
        )
    if session.scalar(statement) is None:
        raise InvalidToken


def _rotate(session: Session, principal: Principal, jti: str) -> tuple[UUID, datetime]:
    statement = sa.update(UserSession).where(UserSession.id == principal.session_id, *queries.is_live(principal.id))
    rotated = statement.values(
        refresh_digest=tokens.digest_of(jti),
        previous_digest=UserSession.refresh_digest,
        rotated_at=sa.func.now(),
        last_seen_at=sa.func.now(),
    )
    row = session.execute(rotated.returning(UserSession.id, UserSession.expires_at)).first()
    if row is None:
        raise InvalidToken
    return row.id, row.expires_at


def _end_reused(session: Session, session_id: UUID, organization_id: UUID) -> None:
    held = session.get(UserSession, session_id)
    reason = "refresh token used twice"
    if held is not None and end_all(session, held.user_id, reason, only=session_id):
        data = {"reason": reason, "user": str(held.user_id)}
        audit.record(session, organization_id, audit.SYSTEM, "session.revoked", ("session", session_id), data)
