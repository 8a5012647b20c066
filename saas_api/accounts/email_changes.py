"""Changes of an email address that wait for the link that was mailed to the new one; one for each user."""

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from saas_api.accounts import one_time_tokens
from saas_api.accounts.models import EmailChange
from saas_api.core import clock, crypto
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import InvalidOneTimeToken

LINK_LIFETIME = timedelta(hours=24)


def replace_pending(session: SystemSession, user_id: UUID, email: str) -> str:
    """Store a change, in place of the user's one before.

    returns: the token of its link, of which only the digest is stored
    """
    revoke(session, user_id)
    token, digest = one_time_tokens.new_token()
    session.add(EmailChange(user_id=user_id, email=email, digest=digest, expires_at=clock.now() + LINK_LIFETIME))
    session.flush()
    return token


def find_user_id(session: SystemSession, token: str) -> UUID | None:
    """The id of the user whose link has a token, which stays usable."""
    return session.scalar(sa.select(EmailChange.user_id).where(*_is_usable(token)))


def consume(session: SystemSession, token: str) -> str:
    """End a change.

    returns: the new address
    raises: InvalidOneTimeToken when the token is unknown, used, replaced or expired
    """
    address: str | None = session.scalar(sa.delete(EmailChange).where(*_is_usable(token)).returning(EmailChange.email))
    if address is None:
        raise InvalidOneTimeToken
    return address


def revoke(session: SystemSession, user_id: UUID) -> bool:
    """End the change of a user without effect.

    returns: whether there was one
    """
    statement = sa.delete(EmailChange).where(EmailChange.user_id == user_id)
    return session.scalar(statement.returning(EmailChange.user_id)) is not None


def _is_usable(token: str) -> tuple[sa.ColumnElement[bool], ...]:
    return EmailChange.digest == crypto.sha256(token), EmailChange.expires_at > clock.now()
