"""Sessions of users: authenticate, list, start, refresh, switch the organization, end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from saas_api.accounts import audit, cell_copies, members, tokens
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.accounts.models import Membership, Organization, User, UserSession
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.accounts.tokens import InvalidToken, RefreshTokenReused, SessionClaims, TokenAudience, Tokens
from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import cells, engine, pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound, Unauthenticated
from saas_api.core.ids import NIL_UUID
from saas_api.core.roles import MemberRole

SESSION_LIFETIME = timedelta(days=30)
MAX_SESSIONS = 100
_MAX_USER_AGENT_LENGTH = 300
_FIND_PRINCIPAL = """
SELECT u.id, u.email_verified_at IS NOT NULL, o.id, CASE WHEN %(is_impersonating)s THEN 'viewer' ELSE m.role END,
       op.role, coalesce(o.status = 'closed', false), o.locale
  FROM user_sessions s JOIN users u ON u.id = s.user_id LEFT JOIN organizations o ON o.id = %(org)s
  LEFT JOIN memberships m ON m.user_id = u.id AND m.organization_id = o.id
  LEFT JOIN operators op ON op.user_id = u.id
 WHERE s.id = %(sid)s AND u.id = %(sub)s AND s.revoked_at IS NULL AND s.expires_at > now() AND u.disabled_at IS NULL
   AND CASE WHEN %(is_impersonating)s
            THEN op.role = 'admin' AND (%(is_elsewhere)s OR o.id IS NOT NULL) AND EXISTS (
                 SELECT FROM user_sessions own
                  WHERE own.id = %(operator_sid)s AND own.user_id = u.id AND own.revoked_at IS NULL
                    AND own.expires_at > now())
            ELSE %(has_no_organization)s OR %(is_elsewhere)s OR m.role IS NOT NULL END
   AND date_trunc('second', u.tokens_valid_after) <= to_timestamp(%(iat)s)
"""
_FIND_MEMBERSHIP = """
SELECT o.id, m.role, o.status = 'closed', o.locale FROM organizations o
  LEFT JOIN memberships m ON m.organization_id = o.id AND m.user_id = %(sub)s WHERE o.id = %(org)s
"""


class InvalidCredentials(Unauthenticated):
    """There is no such account or the password is wrong; the response does not tell which."""

    code, message = "INVALID_CREDENTIALS", "The email address or the password is wrong."


class TokenMalformed(Unauthenticated):
    """The Authorization header does not contain a token."""

    code, message = "INVALID_TOKEN_FORMAT", "The Authorization header must be: Bearer <token>."


class SessionNotFound(NotFound):
    """The session does not exist, has ended, or belongs to another user."""


@dataclass(frozen=True)
class SessionOrigin:
    """Address and browser of a sign-in, as the list of sessions shows them, and where its tokens are accepted.

    device_marks: of `devices`
    """

    ip: str | None
    user_agent: str | None
    audience: TokenAudience
    device_marks: str = ""


@dataclass(frozen=True)
class SessionStarted:
    """A session with new tokens. A user may have no organization, and then no role."""

    user: User
    organization: Organization | None
    role: str | None
    tokens: Tokens


@dataclass(frozen=True)
class SessionView:
    """A session that has not ended, as its user sees it.

    browser: such as "Chrome on macOS"
    is_current: it is the session of the request
    """

    id: UUID
    ip: str | None
    user_agent: str | None
    browser: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    is_current: bool


@dataclass(frozen=True)
class UserProfile:
    """A user, the current organization with the role there, if there is one, and every organization with its role."""

    user: User
    organization: Organization | None
    role: MemberRole | None
    organizations: list[tuple[Organization, MemberRole]]


def authenticate_token(access_token: str, audience: TokenAudience) -> Principal:
    """The principal of an access token. Role and membership are read from PostgreSQL, never from the token.

    audience: of the request
    raises: InvalidToken, TokenExpired
    """
    claims = tokens.decode_token(access_token, "access", audience)
    is_impersonating = claims.get("looking") is True
    claimed_id = UUID(claims["org"])
    cell = cells.cell_of(claimed_id)
    values = {
        "operator_sid": None,
        **claims,
        "is_impersonating": is_impersonating,
        "has_no_organization": claimed_id == NIL_UUID,
        "is_elsewhere": cell is not None,
    }
    rows = engine.execute_batch([tenancy.system_scope_statement("auth.principal"), (_FIND_PRINCIPAL, values)])
    if not rows:
        raise InvalidToken
    user_id, email_verified, organization_id, role, operator_role, is_closed, locale = tuple(rows[0])
    if cell is not None:
        organization_id, role, is_closed, locale = _get_membership(cell, claims, is_impersonating=is_impersonating)
    return Principal(
        kind="user",
        id=user_id,
        organization_id=organization_id or NIL_UUID,
        role=role,
        operator_role=operator_role,
        email_verified=email_verified,
        session_id=UUID(claims["sid"]),
        is_recently_authenticated=claims.get("fresh", 0) > time.time(),
        is_impersonating=is_impersonating,
        is_organization_closed=is_closed,
        locale=locale,
    )


def _get_membership(
    cell: str, claims: Mapping[str, Any], *, is_impersonating: bool
) -> tuple[UUID, str, bool, str | None]:
    """Organization, role, whether it is closed and its locale, of an access token for an organization in a cell.

    raises: InvalidToken
    """
    with cells.use(cell):
        rows = engine.execute_batch([tenancy.system_scope_statement("auth.membership"), (_FIND_MEMBERSHIP, claims)])
    organization_id, role, is_closed, locale = rows[0] if rows else (None, None, False, None)
    role = MemberRole.VIEWER if is_impersonating else role
    if organization_id is None or role is None:
        raise InvalidToken
    return organization_id, role, is_closed, locale


def get_profile(principal: Principal) -> UserProfile:
    """The signed-in user with the current organization.

    raises: InvalidToken when the user has left the organization since the request was authenticated
    """
    with tenancy.system_session("auth.profile") as session:
        user = session.get(User, principal.id)
        memberships = members.list_memberships(session, principal.id)
        if principal.is_impersonating:
            memberships = [(session.get_one(Organization, principal.organization_id), MemberRole.VIEWER)]
        current = next((pair for pair in memberships if pair[0].id == principal.organization_id), None)
        if user is None or (current is None and principal.has_organization):
            raise InvalidToken
        organization, role = current or (None, None)
        return UserProfile(user, organization, role, memberships)


def list_sessions(principal: Principal, request: PageRequest) -> Page:
    """The caller's active sessions as `SessionView`, newest first.

    raises: ValidationFailed for an invalid cursor
    """

    def view(row: UserSession) -> SessionView:
        return SessionView(
            id=row.id,
            ip=row.ip,
            user_agent=row.user_agent,
            browser=row.browser,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            expires_at=row.expires_at,
            is_current=row.id == principal.session_id,
        )

    statement = sa.select(UserSession).where(*active_session_clause(principal.id))
    with tenancy.system_session("auth.sessions") as session:
        return pagination.paginate(session, statement, UserSession.id.desc(), request=request, convert=view)


def get_last_seen(user_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Time of the last request in a session that was not revoked, by user; users without one are left out."""
    last_seen_at = sa.func.max(UserSession.last_seen_at).label("last_seen_at")
    statement = (
        sa.select(UserSession.user_id, last_seen_at)
        .where(UserSession.user_id.in_(user_ids), UserSession.revoked_at.is_(None))
        .group_by(UserSession.user_id)
    )
    with tenancy.system_session("auth.account") as session:
        return {row.user_id: row.last_seen_at for row in session.execute(statement)}


def has_session_from(session: SystemSession, user_id: UUID, ip: str | None) -> bool:
    """Whether the user ever had a session from an address."""
    statement = sa.select(UserSession.id).where(UserSession.user_id == user_id, UserSession.ip.is_not_distinct_from(ip))
    return session.execute(statement.limit(1)).first() is not None


def active_session_clause(user_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions of a user's sessions that have not ended."""
    return UserSession.user_id == user_id, UserSession.revoked_at.is_(None), UserSession.expires_at > sa.func.now()


def start_session(
    session: SystemSession, user: User, organization: Organization | None, role: str | None, origin: SessionOrigin
) -> SessionStarted:
    """Start a session of a user whose credentials were verified.

    Beyond MAX_SESSIONS, those used longest ago end. A refusal would keep the user out until a session expires.
    """
    organization_id = organization.id if organization else None
    session_id, jti, now = ids.new_id(), ids.new_id().hex, clock.now()
    session.add(
        UserSession(
            id=session_id,
            user_id=user.id,
            refresh_digest=tokens.token_digest(jti),
            rotated_at=now,
            expires_at=now + SESSION_LIFETIME,
            last_seen_at=now,
            ip=origin.ip,
            user_agent=(origin.user_agent or "")[:_MAX_USER_AGENT_LENGTH],
        )
    )
    session.flush()
    _end_oldest_sessions(session, user.id)
    data = {"session": str(session_id), "role": role}
    audit.record_user_event(session, organization_id, user.id, "user.signed_in", data)
    claims = SessionClaims(user.id, session_id, organization_id or NIL_UUID, origin.audience)
    session_tokens = tokens.issue_tokens(claims, jti, now + SESSION_LIFETIME, is_fresh=True)
    return SessionStarted(user, organization, role, session_tokens)


def _end_oldest_sessions(session: SystemSession, user_id: UUID) -> None:
    newest_first = (UserSession.last_seen_at.desc(), UserSession.id.desc())
    surplus = sa.select(UserSession.id).where(*active_session_clause(user_id)).order_by(*newest_first)
    statement = sa.update(UserSession).where(UserSession.id.in_(surplus.offset(MAX_SESSIONS)))
    statement = statement.values(revoked_at=sa.func.now(), revoked_reason="more recent sessions took its place")
    session.execute(statement, execution_options={"synchronize_session": False})


def refresh_session(refresh_token: str, audience: TokenAudience) -> Tokens:
    """Exchange a refresh token for the next tokens, in a transaction of its own.

    audience: of the request and of the next tokens
    raises: InvalidToken, also when the user was disabled or left the organization; TokenExpired; RefreshTokenReused,
        which ends the session
    """
    claims = tokens.read_refresh_claims(refresh_token, audience)
    try:
        with tenancy.system_session("auth.refresh") as session:
            user_id, next_jti, expires_at = tokens.rotate_refresh_token(session, claims.session_id, claims.jti)
            _check_membership(session, user_id, claims.organization_id)
    except RefreshTokenReused:
        with tenancy.system_session("auth.refresh") as session:
            _revoke_reused_session(session, claims.session_id, claims.organization_id)
        raise
    next_claims = SessionClaims(user_id, claims.session_id, claims.organization_id, audience)
    return tokens.issue_tokens(next_claims, next_jti, expires_at)


def switch_organization(principal: Principal, organization_id: UUID, audience: TokenAudience) -> SessionStarted:
    """Continue the caller's session in another of the user's organizations; its expiry stays the same.

    audience: of the request and of the new tokens
    raises: OrganizationNotFound when the user is not a member, InvalidToken when the session has just ended
    """
    with tenancy.system_session("auth.sessions") as session:
        user = session.get(User, principal.id)
        memberships = members.list_memberships(session, principal.id)
        membership = next((pair for pair in memberships if pair[0].id == organization_id), None)
        if user is None or membership is None:
            raise OrganizationNotFound
        return _continue_session(session, principal, user, membership, audience)


def leave_organization(principal: Principal, audience: TokenAudience) -> SessionStarted:
    """End the caller's membership, and continue the session in the organization joined first of those that remain.

    returns: a session without an organization when none remains
    raises: OwnerRequired, InvalidToken when the session has just ended
    """
    cell = cells.cell_of(principal.organization_id)
    if cell is not None:
        with tenancy.tenant_session(principal.organization_id) as session:
            members.leave_organization(session, principal)
        cell_copies.copy_organizations(cell, [principal.organization_id])
    with tenancy.system_session("auth.sessions") as session:
        if cell is None:
            members.leave_organization(session, principal)
        user = session.get_one(User, principal.id)
        memberships = members.list_memberships(session, principal.id)
        return _continue_session(session, principal, user, memberships[0] if memberships else None, audience)


def end_session(principal: Principal) -> None:
    """End the caller's session: its tokens are rejected from the next request on, in every process."""
    if principal.session_id is None:
        return
    with tenancy.system_session("auth.sessions") as session:
        if end_sessions(session, principal.id, "signed out", only=principal.session_id):
            data = {"session": str(principal.session_id)}
            audit.record_user_event(session, _audited_organization(principal), principal.id, "user.signed_out", data)


def revoke_session(principal: Principal, session_id: UUID) -> None:
    """End one of the caller's sessions.

    raises: SessionNotFound
    """
    with tenancy.system_session("auth.sessions") as session:
        if not end_sessions(session, principal.id, "revoked by its owner", only=session_id):
            raise SessionNotFound
        actor, target = audit.actor_for(principal), ("session", session_id)
        audit.record_event(session, _audited_organization(principal), actor, "session.revoked", target)


def revoke_other_sessions(principal: Principal) -> int:
    """End the caller's sessions except the current one.

    returns: number of ended sessions
    """
    with tenancy.system_session("auth.account") as session:
        ended = end_sessions(session, principal.id, "revoked by its owner", except_for=principal.session_id)
        if ended:
            data = {"sessions": len(ended)}
            organization_id = _audited_organization(principal)
            audit.record_user_event(session, organization_id, principal.id, "user.other_sessions_revoked", data)
    return len(ended)


def end_sessions(
    session: SystemSession, user_id: UUID, reason: str, *, only: UUID | None = None, except_for: UUID | None = None
) -> list[UUID]:
    """End the active sessions of a user.

    only: end this session alone
    except_for: end every session but this one
    returns: ids of the ended sessions
    """
    statement = sa.update(UserSession).where(*active_session_clause(user_id))
    if only:
        statement = statement.where(UserSession.id == only)
    if except_for:
        statement = statement.where(UserSession.id != except_for)
    statement = statement.values(revoked_at=sa.func.now(), revoked_reason=reason)
    ended = session.scalars(statement.returning(UserSession.id), execution_options={"synchronize_session": False})
    return list(ended)


def _audited_organization(principal: Principal) -> UUID | None:
    return principal.organization_id if principal.has_organization else None


def _check_membership(session: SystemSession, user_id: UUID, organization_id: UUID) -> None:
    statement = sa.select(User.id).where(User.id == user_id, User.disabled_at.is_(None))
    if organization_id != NIL_UUID:
        statement = statement.join(Membership, Membership.user_id == User.id).where(
            Membership.organization_id == organization_id
        )
    if session.scalar(statement) is None:
        raise InvalidToken


def _continue_session(
    session: SystemSession,
    principal: Principal,
    user: User,
    membership: tuple[Organization, MemberRole] | None,
    audience: TokenAudience,
) -> SessionStarted:
    jti = ids.new_id().hex
    session_id, expires_at = _replace_refresh_token(session, principal, jti)
    organization, role = membership or (None, None)
    organization_id = organization.id if organization else None
    audit.record_user_event(session, organization_id, user.id, "session.switched", {"session": str(session_id)})
    claims = SessionClaims(user.id, session_id, organization_id or NIL_UUID, audience)
    return SessionStarted(user, organization, role, tokens.issue_tokens(claims, jti, expires_at))


def _replace_refresh_token(session: SystemSession, principal: Principal, jti: str) -> tuple[UUID, datetime]:
    statement = sa.update(UserSession).where(
        UserSession.id == principal.session_id, *active_session_clause(principal.id)
    )
    statement = statement.values(
        refresh_digest=tokens.token_digest(jti),
        previous_digest=UserSession.refresh_digest,
        rotated_at=sa.func.now(),
        last_seen_at=sa.func.now(),
    )
    row = session.execute(statement.returning(UserSession.id, UserSession.expires_at)).first()
    if row is None:
        raise InvalidToken
    return row.id, row.expires_at


def _revoke_reused_session(session: SystemSession, session_id: UUID, organization_id: UUID) -> None:
    user_session = session.get(UserSession, session_id)
    reason = "refresh token used twice"
    if user_session is not None and end_sessions(session, user_session.user_id, reason, only=session_id):
        data = {"reason": reason, "user": str(user_session.user_id)}
        audit.record_event(session, organization_id, SYSTEM_ACTOR, "session.revoked", ("session", session_id), data)
