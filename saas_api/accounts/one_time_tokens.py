"""One-time tokens of mailed links: find, issue, consume, revoke."""

import secrets
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import clock, crypto, ids
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import InvalidOneTimeToken

VERIFY_EMAIL_PURPOSE, RESET_PASSWORD_PURPOSE = "verify_email", "reset_password"
TOKEN_LIFETIMES = {VERIFY_EMAIL_PURPOSE: timedelta(hours=24), RESET_PASSWORD_PURPOSE: timedelta(hours=1)}
TOKEN_BYTES = 32

_IS_USABLE = "digest = :digest AND purpose = :purpose AND used_at IS NULL AND expires_at > :now"
_FIND_USER = sa.text(f"SELECT user_id FROM user_tokens WHERE {_IS_USABLE}")
_CONSUME = sa.text(f"UPDATE user_tokens SET used_at = :now WHERE {_IS_USABLE} RETURNING user_id")
_REVOKE = sa.text("""
UPDATE user_tokens SET used_at = :now WHERE user_id = :user_id AND purpose = :purpose AND used_at IS NULL
""")
_INSERT = sa.text("""
INSERT INTO user_tokens (id, user_id, purpose, digest, expires_at)
SELECT CAST(:id AS uuid), id, :purpose, :digest, :expires_at FROM users WHERE id = :user_id
""")


def new_token() -> tuple[str, bytes]:
    """Generate the random token of a link.

    returns: the token, and the digest to store
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, crypto.sha256(token)


def get_token_user(session: SystemSession, purpose: str, token: str) -> UUID:
    """The id of the user to whom an unused token was mailed.

    raises: InvalidOneTimeToken
    """
    return _execute(session, _FIND_USER, purpose, token)


def issue_token(session: SystemSession, user_id: UUID, purpose: str, lifetime: timedelta | None = None) -> str:
    """Issue a token and revoke those before it. For an unknown user id the same statements run and store nothing.

    purpose: VERIFY_EMAIL_PURPOSE or RESET_PASSWORD_PURPOSE
    lifetime: None for that of the purpose
    """
    token, digest = new_token()
    revoke_tokens(session, user_id, purpose)
    values = {"id": ids.new_id(), "user_id": user_id, "purpose": purpose, "digest": digest}
    session.execute(_INSERT, {**values, "expires_at": clock.now() + (lifetime or TOKEN_LIFETIMES[purpose])})
    return token


def consume_token(session: SystemSession, purpose: str, token: str) -> UUID:
    """Mark a token as used.

    returns: the user's id
    raises: InvalidOneTimeToken when it is unknown, used, revoked, expired or of another purpose
    """
    return _execute(session, _CONSUME, purpose, token)


def revoke_tokens(session: SystemSession, user_id: UUID, purpose: str) -> None:
    """Invalidate the unused tokens of a user and purpose."""
    session.execute(_REVOKE, {"user_id": user_id, "purpose": purpose, "now": clock.now()})


def _execute(session: SystemSession, statement: sa.TextClause, purpose: str, token: str) -> UUID:
    values = {"digest": crypto.sha256(token), "purpose": purpose, "now": clock.now()}
    user_id: UUID | None = session.execute(statement, values).scalar()
    if user_id is None:
        raise InvalidOneTimeToken
    return user_id
