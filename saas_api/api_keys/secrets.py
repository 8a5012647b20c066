"""Key secrets: creation, and authentication by digest."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.api_keys import key_format
from saas_api.api_keys.models import ApiKey, ApiKeySecret
from saas_api.core import clock, crypto
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Unauthenticated
from saas_api.core.settings import setting


class MissingApiKey(Unauthenticated):
    """The endpoint takes API keys only."""

    code, message = "MISSING_API_KEY", "Send an API key: X-API-Key: <key>."


class InvalidApiKey(Unauthenticated):
    """Unknown, revoked or expired: one answer."""

    code, message = "INVALID_API_KEY", "This API key is not valid."


@dataclass(frozen=True)
class SecretRecord:
    """An active secret with the settings of its key, for authentication."""

    organization_id: UUID
    key_id: UUID
    name: str
    pepper_version: int
    mode: str
    scopes: frozenset[str]
    ip_allow: tuple[str, ...]
    rate_limit_per_minute: int | None
    expires_at: datetime | None


def secret_belongs_to_key() -> sa.ColumnElement[bool]:
    """Return the condition that joins secrets to their key."""
    return sa.and_(ApiKey.organization_id == ApiKeySecret.organization_id, ApiKey.id == ApiKeySecret.key_id)


def _select_active(digests: Sequence[tuple[int, bytes]]) -> sa.Select[ApiKeySecret, ApiKey]:
    return (
        sa.select(ApiKeySecret, ApiKey)
        .join(ApiKey, secret_belongs_to_key())
        .where(
            ApiKeySecret.digest.in_([digest for _, digest in digests]),
            ApiKeySecret.revoked_at.is_(None),
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKeySecret.expires_at.is_(None), ApiKeySecret.expires_at > clock.now()),
        )
    )


def find_active_secret(session: SystemSession, digests: Sequence[tuple[int, bytes]]) -> SecretRecord | None:
    """Return the active secret with one of these digests, or None. A digest of an old pepper is replaced.

    digests: pepper version and digest, the current pepper first
    """
    row = session.execute(_select_active(digests)).first()
    if row is None:
        return None
    secret, key = row
    version, digest = digests[0]
    if secret.pepper_version != version:
        secret.digest, secret.pepper_version = digest, version
    return SecretRecord(
        organization_id=key.organization_id,
        key_id=key.id,
        name=key.name,
        pepper_version=version,
        mode=key.mode,
        scopes=frozenset(key.scopes),
        ip_allow=tuple(key.ip_allow or ()),
        rate_limit_per_minute=key.rate_limit_per_minute,
        expires_at=secret.expires_at,
    )


def has_active_secret(session: SystemSession, digests: Sequence[tuple[int, bytes]]) -> bool:
    """Whether an active secret has one of these digests.

    digests: as of `find_active_secret`
    """
    return session.execute(_select_active(digests)).first() is not None


def count_by_pepper(session: SystemSession) -> dict[int, int]:
    """Number of active secrets by the version of the pepper that their digest has.

    A digest is renewed under the current pepper when its key is used.
    """
    statement = (
        sa.select(ApiKeySecret.pepper_version, sa.func.count())
        .join(ApiKey, secret_belongs_to_key())
        .where(
            ApiKeySecret.revoked_at.is_(None),
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKeySecret.expires_at.is_(None), ApiKeySecret.expires_at > clock.now()),
        )
        .group_by(ApiKeySecret.pepper_version)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def create_secret(session: Session, key: ApiKey, slot: int, expires_at: datetime | None) -> tuple[ApiKeySecret, str]:
    """Create a secret of a key.

    slot: 1 or 2, not that of an active secret
    returns: the record and the secret, which is not stored
    raises: IntegrityError when the slot is taken
    """
    secret = key_format.generate_key(setting("API_KEY_PREFIX"), key.mode)
    version, digest = crypto.keyed_digests(secret)[0]
    record = ApiKeySecret(
        organization_id=key.organization_id,
        key_id=key.id,
        slot=slot,
        digest=digest,
        pepper_version=version,
        hint=key_format.key_hint(secret),
        last_four=secret[-4:],
        expires_at=expires_at,
    )
    session.add(record)
    session.flush()  # fails here when another transaction has taken the slot
    return record, secret
