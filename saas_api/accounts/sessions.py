"""Start, refresh, switch, end, list; authenticate_token."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, tokens
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.accounts.models import Membership, Operator, Organization, User, UserSession
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.accounts.tokens import InvalidToken, RefreshTokenReused, Tokens
from saas_api.core import clock, ids
from saas_api.core.access import NIL_UUID, Principal
from saas_api.core.db import engine, pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound, Unauthenticated, ValidationFailed


def list_active_sessions(session: Session, user_id: UUID, query: dict[str, Any]) -> Page:
    """A page of a person's live sessions, newest first.

    query: `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = sa.select(UserSession).where(*active_session_clause(user_id))
    if query["cursor"]:
        statement = statement.where(UserSession.id < _position(query["cursor"]))
    rows = session.scalars(statement.order_by(UserSession.id.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    return Page(kept, pagination.encode_cursor(kept[-1].id.hex) if len(rows) > len(kept) else None, query["limit"])


def active_session_clause(user_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions of a person's session that has not ended."""
    return UserSession.user_id == user_id, UserSession.revoked_at.is_(None), UserSession.expires_at > sa.func.now()


def has_session_from(session: Session, user_id: UUID, ip: str | None) -> bool:
    """Whether a person ever had a session from an address."""
    seen = sa.select(UserSession.id).where(UserSession.user_id == user_id, UserSession.ip.is_not_distinct_from(ip))
    return session.execute(seen.limit(1)).first() is not None


def _position(cursor: str) -> UUID:
    try:
        return UUID(hex=pagination.decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause


def revoke_other_sessions(principal: Principal) -> int:
    """End every session of the caller but the one they are in.

    returns: how many ended
    """
    with tenancy.system_session("auth.account") as session:
        ended = end_all_sessions(session, principal.id, "revoked by its owner", but=principal.session_id)
        if ended:
            place = None if principal.organization_id == NIL_UUID else principal.organization_id
            audit.record_user_event(
                session, place, principal.id, "user.other_sessions_revoked", {"sessions": len(ended)}
            )
    return len(ended)


def get_last_seen(user_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """When each of these people last did something, in a session that has not been ended; others are left out."""
    latest = sa.func.max(UserSession.last_seen_at).label("at")
    statement = (
        sa.select(UserSession.user_id, latest)
        .where(UserSession.user_id.in_(user_ids), UserSession.revoked_at.is_(None))
        .group_by(UserSession.user_id)
    )
    with tenancy.system_session("auth.account") as session:
        return {row.user_id: row.at for row in session.execute(statement)}


SESSION_LIFETIME = timedelta(days=30)


class InvalidCredentials(Unauthenticated):
    """No such account, or another password: one answer."""

    code, message = "INVALID_CREDENTIALS", "The e-mail address or the password is wrong."


class TokenMalformed(Unauthenticated):
    """Whatever it is, it is no token."""

    code, message = "INVALID_TOKEN_FORMAT", "The Authorization header must be: Bearer <token>."


class SessionNotFound(NotFound):
    """There is none, it ended, or it is somebody else's."""


@dataclass(frozen=True)
class SessionOrigin:
    """Where a sign-in comes from, as its owner will see it in the list of sessions."""

    ip: str | None
    user_agent: str | None


@dataclass(frozen=True)
class SessionStarted:
    """Who signed in, where, as what, and with which tokens; only an operator may be nowhere."""

    user: User
    organization: Organization | None
    role: str | None
    tokens: Tokens


@dataclass(frozen=True)
class UserProfile:
    """A person with every organization they belong to; the current one with its role."""

    user: User
    organization: Organization
    role: str
    organizations: list[tuple[Organization, str]]


def start_session(
    session: Session, user: User, organization: Organization | None, role: str | None, origin: SessionOrigin
) -> SessionStarted:
    """Open a session of a person who proved who they are."""
    organization_id = organization.id if organization else None
    sid, jti, now = ids.new_id(), ids.new_id().hex, clock.now()
    session.add(
        UserSession(
            id=sid,
            user_id=user.id,
            refresh_digest=tokens.token_digest(jti),
            rotated_at=now,
            expires_at=now + SESSION_LIFETIME,
            last_seen_at=now,
            ip=origin.ip,
            user_agent=(origin.user_agent or "")[:300],
        )
    )
    audit.record_user_event(session, organization_id, user.id, "user.signed_in", {"session": str(sid), "role": role})
    place = (organization_id or NIL_UUID).hex
    pair = tokens.issue_tokens(user.id, sid.hex, place, jti, now + SESSION_LIFETIME, is_fresh=True)
    return SessionStarted(user, organization, role, pair)


def refresh_session(refresh_token: str) -> Tokens:
    """Spend a refresh token for the next pair.

    raises: InvalidToken, also for who was disabled or left the organization; TokenExpired; TokenReused, which ends
        the session
    """
    claims = tokens.decode_token(refresh_token, "refresh")
    try:
        with tenancy.system_session("auth.refresh") as session:
            user_id, following, ends_at = tokens.rotate_refresh_token(session, claims["sid"], claims["jti"])
            _check_belongs(session, user_id, UUID(claims["org"]))
    except RefreshTokenReused:
        with tenancy.system_session("auth.refresh") as session:
            _revoke_reused_session(session, UUID(claims["sid"]), UUID(claims["org"]))
        raise
    return tokens.issue_tokens(user_id, claims["sid"], claims["org"], following, ends_at)


def switch_organization(principal: Principal, organization_id: UUID) -> SessionStarted:
    """Go on in another organization of the person's; the session stays one and ends when it would have.

    raises: organizations.NoSuchOrganization when they do not belong to it, InvalidToken when the session just ended
    """
    with tenancy.system_session("auth.sessions") as session:
        user = session.get(User, principal.id)
        belongings = members.list_memberships(session, principal.id)
        chosen = next((pair for pair in belongings if pair[0].id == organization_id), None)
        if user is None or chosen is None:
            raise OrganizationNotFound
        jti = ids.new_id().hex
        sid, ends_at = _rotate(session, principal, jti)
        audit.record_user_event(session, organization_id, user.id, "session.switched", {"session": str(sid)})
        return SessionStarted(user, *chosen, tokens.issue_tokens(user.id, sid.hex, organization_id.hex, jti, ends_at))


def end_session(principal: Principal) -> None:
    """End the caller's session: its tokens are refused from the next request on, in every process."""
    if principal.session_id is None:
        return
    with tenancy.system_session("auth.sessions") as session:
        if end_all_sessions(session, principal.id, "signed out", only=principal.session_id):
            data = {"session": str(principal.session_id)}
            audit.record_user_event(session, _membership(principal), principal.id, "user.signed_out", data)


def list_sessions(principal: Principal, query: dict[str, Any]) -> Page:
    """A page of the caller's live sessions, newest first.

    raises: Invalid on a cursor that is none
    """
    with tenancy.system_session("auth.sessions") as session:
        return list_active_sessions(session, principal.id, query)


def revoke_session(principal: Principal, session_id: UUID) -> None:
    """End one of the caller's sessions.

    raises: NoSuchSession
    """
    with tenancy.system_session("auth.sessions") as session:
        if not end_all_sessions(session, principal.id, "revoked by its owner", only=session_id):
            raise SessionNotFound
        actor, target = audit.actor_for(principal), ("session", session_id)
        audit.record_event(session, _membership(principal), actor, "session.revoked", target)


def _membership(principal: Principal) -> UUID | None:
    return None if principal.organization_id == NIL_UUID else principal.organization_id


def end_all_sessions(
    session: Session, user_id: UUID, reason: str, *, only: UUID | None = None, but: UUID | None = None
) -> list[UUID]:
    """End a person's live sessions.

    only: this one
    but: every other one than this
    returns: which ended
    """
    statement = sa.update(UserSession).where(*active_session_clause(user_id))
    if only:
        statement = statement.where(UserSession.id == only)
    if but:
        statement = statement.where(UserSession.id != but)
    ending = statement.values(revoked_at=sa.func.now(), revoked_reason=reason).returning(UserSession.id)
    return list(session.scalars(ending, execution_options={"synchronize_session": False}))


def get_profile(principal: Principal) -> UserProfile:
    """Who is signed in, and to what.

    raises: InvalidToken when the person left since the gate let them pass
    """
    with tenancy.system_session("auth.profile") as session:
        user = session.get(User, principal.id)
        belongings = members.list_memberships(session, principal.id)
        if principal.is_impersonating:
            belongings = [(session.get_one(Organization, principal.organization_id), "viewer")]
        current = next((pair for pair in belongings if pair[0].id == principal.organization_id), None)
        if user is None or current is None:
            raise InvalidToken
        return UserProfile(user, *current, belongings)


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


def authenticate_token(access_token: str) -> Principal:
    """Who holds an access token, as PostgreSQL knows it now: role and membership never come from the token.

    raises: InvalidToken, TokenExpired
    """
    claims = tokens.decode_token(access_token, "access")
    is_looking = claims.get("looking") is True
    values = {**claims, "looking": is_looking, "office": UUID(claims["org"]) == NIL_UUID}
    rows = engine.execute_batch([tenancy.system_scope_statement("auth.principal"), (_PRINCIPAL, values)])
    if not rows:
        raise InvalidToken
    user_id, is_verified, organization_id, role, office = tuple(rows[0])
    return Principal(
        kind="user",
        id=user_id,
        organization_id=organization_id or NIL_UUID,
        role=role,
        operator_role=office,
        email_verified=is_verified,
        session_id=UUID(claims["sid"]),
        is_recently_authenticated=claims.get("fresh", 0) > time.time(),
        is_impersonating=is_looking,
    )


def _check_belongs(session: Session, user_id: UUID, organization_id: UUID) -> None:
    statement = (
        sa.select(Membership.role)
        .join(User, User.id == Membership.user_id)
        .where(User.id == user_id, User.disabled_at.is_(None), Membership.organization_id == organization_id)
    )
    if organization_id == NIL_UUID:
        statement = (
            sa.select(Operator.role)
            .join(User, User.id == Operator.user_id)
            .where(User.id == user_id, User.disabled_at.is_(None))
        )
    if session.scalar(statement) is None:
        raise InvalidToken


def _rotate(session: Session, principal: Principal, jti: str) -> tuple[UUID, datetime]:
    statement = sa.update(UserSession).where(
        UserSession.id == principal.session_id, *active_session_clause(principal.id)
    )
    rotated = statement.values(
        refresh_digest=tokens.token_digest(jti),
        previous_digest=UserSession.refresh_digest,
        rotated_at=sa.func.now(),
        last_seen_at=sa.func.now(),
    )
    row = session.execute(rotated.returning(UserSession.id, UserSession.expires_at)).first()
    if row is None:
        raise InvalidToken
    return row.id, row.expires_at


def _revoke_reused_session(session: Session, session_id: UUID, organization_id: UUID) -> None:
    held = session.get(UserSession, session_id)
    reason = "refresh token used twice"
    if held is not None and end_all_sessions(session, held.user_id, reason, only=session_id):
        data = {"reason": reason, "user": str(held.user_id)}
        audit.record_event(session, organization_id, SYSTEM_ACTOR, "session.revoked", ("session", session_id), data)
