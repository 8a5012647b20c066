"""One-time links: 32 random bytes in a mail, their digest in the database; the newest of its kind voids the older ones.

Whoever issues or spends one holds the person's row first, so that two at once cannot both count.
"""

import secrets
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.auth.rules import LINK_LIFETIMES
from saas_api.core import clock, crypto
from saas_api.core.errors import InvalidOneTimeToken
from saas_api.core.ids import new_id

TOKEN_BYTES = 32

_VOID = sa.text("""
UPDATE user_tokens SET used_at = :now WHERE user_id = :user_id AND purpose = :purpose AND used_at IS NULL
""")
_ISSUE = sa.text("""
INSERT INTO user_tokens (id, user_id, purpose, digest, expires_at)
SELECT CAST(:id AS uuid), id, :purpose, :digest, :expires_at FROM users WHERE id = :user_id
""")
_OPEN = "digest = :digest AND purpose = :purpose AND used_at IS NULL AND expires_at > :now"
_HOLDER = sa.text(f"SELECT user_id FROM user_tokens WHERE {_OPEN}")
_SPEND = sa.text(f"UPDATE user_tokens SET used_at = :now WHERE {_OPEN} RETURNING user_id")


def issue(session: Session, user_id: UUID, purpose: str) -> str:
    """A new token for a person; for an id nobody has the same is done and nothing is kept.

    purpose: "verify_email" or "reset_password"
    """
    token, now = secrets.token_urlsafe(TOKEN_BYTES), clock.now()
    void(session, user_id, purpose)
    values = {"id": new_id(), "user_id": user_id, "purpose": purpose, "digest": crypto.digest(token)}
    session.execute(_ISSUE, {**values, "expires_at": now + LINK_LIFETIMES[purpose]})
    return token


def void(session: Session, user_id: UUID, purpose: str) -> None:
    """Make every unspent link of that kind lead nowhere."""
    session.execute(_VOID, {"user_id": user_id, "purpose": purpose, "now": clock.now()})


def holder(session: Session, purpose: str, token: str) -> UUID:
    """Whom an unspent token belongs to.

    raises: InvalidOneTimeToken
    """
    return _answer(session, _HOLDER, purpose, token)


def spend(session: Session, purpose: str, token: str) -> UUID:
    """Use a token up.

    returns: whom it belonged to
    raises: InvalidOneTimeToken when it is wrong, spent, void, expired or of the other kind
    """
    return _answer(session, _SPEND, purpose, token)


def _answer(session: Session, statement: sa.TextClause, purpose: str, token: str) -> UUID:
    values = {"digest": crypto.digest(token), "purpose": purpose, "now": clock.now()}
    user_id: UUID | None = session.execute(statement, values).scalar()
    if user_id is None:
        raise InvalidOneTimeToken
    return user_id
