"""Tokens of mailed links: issue, find, consume, revoke."""

import secrets
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, crypto, ids
from saas_api.core.errors import InvalidOneTimeToken

TOKEN_LIFETIMES = {"verify_email": timedelta(hours=24), "reset_password": timedelta(hours=1)}

TOKEN_BYTES = 32

_VOID = sa.text("""
UPDATE user_tokens SET used_at = :now WHERE user_id = :user_id AND purpose = :purpose AND used_at IS NULL
""")
_ISSUE = sa.text("""
INSERT INTO user_tokens (id, user_id, purpose, digest, expires_at)
SELECT CAST(:id AS uuid), id, :purpose, :digest, :expires_at FROM users WHERE id = :user_id
""")
_USABLE = "digest = :digest AND purpose = :purpose AND used_at IS NULL AND expires_at > :now"
_FIND_TOKEN_USER = sa.text(f"SELECT user_id FROM user_tokens WHERE {_USABLE}")
_SPEND = sa.text(f"UPDATE user_tokens SET used_at = :now WHERE {_USABLE} RETURNING user_id")


def issue_token(session: Session, user_id: UUID, purpose: str) -> str:
    """A new token for a person; for an id nobody has the same is done and nothing is kept.

    purpose: "verify_email" or "reset_password"
    """
    token, now = secrets.token_urlsafe(TOKEN_BYTES), clock.now()
    revoke_tokens(session, user_id, purpose)
    values = {"id": ids.new_id(), "user_id": user_id, "purpose": purpose, "digest": crypto.sha256(token)}
    session.execute(_ISSUE, {**values, "expires_at": now + TOKEN_LIFETIMES[purpose]})
    return token


def revoke_tokens(session: Session, user_id: UUID, purpose: str) -> None:
    """Make every unspent link of that kind lead nowhere."""
    session.execute(_VOID, {"user_id": user_id, "purpose": purpose, "now": clock.now()})


def find_token_user(session: Session, purpose: str, token: str) -> UUID:
    """Whom an unspent token belongs to.

    raises: InvalidOneTimeToken
    """
    return _scalar(session, _FIND_TOKEN_USER, purpose, token)


def consume_token(session: Session, purpose: str, token: str) -> UUID:
    """Use a token up.

    returns: whom it belonged to
    raises: InvalidOneTimeToken when it is wrong, spent, void, expired or of the other kind
    """
    return _scalar(session, _SPEND, purpose, token)


def _scalar(session: Session, statement: sa.TextClause, purpose: str, token: str) -> UUID:
    values = {"digest": crypto.sha256(token), "purpose": purpose, "now": clock.now()}
    user_id: UUID | None = session.execute(statement, values).scalar()
    if user_id is None:
        raise InvalidOneTimeToken
    return user_id
