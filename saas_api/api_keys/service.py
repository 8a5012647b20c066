"""API keys: the key is the stable identity, its secret is shown once and kept as a keyed digest."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.api_keys import rules
from saas_api.api_keys.models import ApiKey, ApiKeySecret
from saas_api.api_keys.queries import Described, describe, find_key, same_key
from saas_api.core import clock, crypto
from saas_api.core.access import SCOPES
from saas_api.core.app import Repeated
from saas_api.core.errors import Invalid, NotFound, Unauthenticated
from saas_api.core.ids import new_id
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system
from saas_api.organizations import service as organizations

SEEN_SECONDS = 10


class MissingApiKey(Unauthenticated):
    """The endpoint takes API keys only."""

    code, message = "MISSING_API_KEY", "Send an API key: X-API-Key: <key>."


class InvalidApiKey(Unauthenticated):
    """Unknown, revoked or expired: one answer."""

    code, message = "INVALID_API_KEY", "This API key is not valid."


class NoSuchKey(NotFound):
    """There is no such key, or another organization has it."""


@dataclass(frozen=True)
class Created:
    """A key and, this once, its text."""

    key: Described
    text: str


@dataclass(frozen=True)
class Secret:
    """What the gate needs to know of a live secret."""

    organization_id: UUID
    key_id: UUID
    secret_id: UUID
    pepper_version: int
    mode: str
    scopes: frozenset[str]
    ip_allow: tuple[str, ...]
    rate_limit_per_minute: int | None
    expires_at: datetime | None


def create(
    session: Session,
    organization_id: UUID,
    created_by: UUID | None,
    *,
    name: str,
    mode: str = "live",
    scopes: Sequence[str] | None = None,
    **options: Any,
) -> Created:
    """Make a key.

    scopes: of SCOPES; None for all of them
    options: `expires_at`, `allowed_ips`, `rate_limit_per_minute`
    raises: Invalid when it would end in the past
    """
    expires_at = options.get("expires_at")
    if expires_at is not None and expires_at <= clock.now():
        raise Invalid.at("expires_at", "This time has passed.")
    text = rules.new_key(setting("API_KEY_PREFIX"), mode)
    version, digest = crypto.api_key_digests(text)[0]
    key = ApiKey(
        organization_id=organization_id,
        id=new_id(),
        name=name,
        mode=mode,
        scopes=sorted(SCOPES if scopes is None else set(scopes)),
        ip_allow=options.get("allowed_ips") or None,
        rate_limit_per_minute=options.get("rate_limit_per_minute"),
        created_by=created_by,
        created_at=clock.now(),
    )
    session.add(key)
    session.flush()  # the secret refers to it
    secret = ApiKeySecret(
        organization_id=organization_id,
        key_id=key.id,
        slot=1,
        digest=digest,
        pepper_version=version,
        hint=rules.hint_of(text),
        last_four=text[-4:],
        expires_at=expires_at,
    )
    session.add(secret)
    return Created(describe(key, secret), text)


def get(session: Session, organization_id: UUID, key_id: UUID) -> Described:
    """A key.

    raises: NoSuchKey
    """
    described = find_key(session, organization_id, key_id)
    if described is None:
        raise NoSuchKey
    return described


def revoke(session: Session, organization_id: UUID, key_id: UUID) -> Described:
    """End a key: it is refused on the next request, in every process. A repeat changes nothing.

    raises: NoSuchKey
    """
    described = get(session, organization_id, key_id)
    if described.revoked_at is not None:
        return described
    now = clock.now()
    mine = {"organization_id": organization_id}
    session.execute(
        sa.update(ApiKey).filter_by(id=key_id, **mine).values(revoked_at=now, revoked_reason="revoked by a member")
    )
    session.execute(sa.update(ApiKeySecret).filter_by(key_id=key_id, revoked_at=None, **mine).values(revoked_at=now))
    organizations.changed(session, organization_id)
    session.expire_all()
    return get(session, organization_id, key_id)


def find_secret(session: Session, digests: Sequence[tuple[int, bytes]]) -> Secret | None:
    """The live secret with one of these digests; one under an old pepper is rewritten under the current one.

    session: of the system, since the organization is not known yet
    """
    statement = (
        sa.select(ApiKeySecret, ApiKey)
        .join(ApiKey, same_key())
        .where(
            ApiKeySecret.digest.in_([digest for _, digest in digests]),
            ApiKeySecret.revoked_at.is_(None),
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKeySecret.expires_at.is_(None), ApiKeySecret.expires_at > clock.now()),
        )
    )
    row = session.execute(statement).first()
    if row is None:
        return None
    secret, key = row
    version, digest = digests[0]
    if secret.pepper_version != version:
        secret.digest, secret.pepper_version = digest, version
    return Secret(
        organization_id=key.organization_id,
        key_id=key.id,
        secret_id=secret.id,
        pepper_version=version,
        mode=key.mode,
        scopes=frozenset(key.scopes),
        ip_allow=tuple(key.ip_allow or ()),
        rate_limit_per_minute=key.rate_limit_per_minute,
        expires_at=secret.expires_at,
    )


_seen: dict[tuple[UUID, UUID], datetime] = {}
_seen_lock = threading.Lock()


def touch(organization_id: UUID, key_id: UUID) -> None:
    """Remember that a key was used; costs no round trip, is written within ten seconds, and a kill may lose it."""
    with _seen_lock:
        _seen[organization_id, key_id] = clock.now()
    _writer.ensure_started()


def write_seen() -> None:
    """Write when keys were last used, in one statement."""
    with _seen_lock:
        seen = dict(_seen)
        _seen.clear()
    if not seen:
        return
    values = {
        "organizations": [organization_id for organization_id, _ in seen],
        "keys": [key_id for _, key_id in seen],
        "times": list(seen.values()),
    }
    with as_system("api_keys.seen") as session:
        session.execute(_LOCK_SEEN, values)
        session.execute(_WRITE_SEEN, values)


_SEEN = """unnest(CAST(:organizations AS uuid[]), CAST(:keys AS uuid[]), CAST(:times AS timestamptz[]))
  AS v (organization_id, id, at)"""
# One order of rows: two processes never deadlock.
_LOCK_SEEN = sa.text(f"""SELECT FROM api_keys k JOIN {_SEEN} USING (organization_id, id)
  ORDER BY k.organization_id, k.id FOR NO KEY UPDATE OF k""")
_WRITE_SEEN = sa.text(f"""UPDATE api_keys k SET last_used_at = v.at FROM {_SEEN}
  WHERE k.organization_id = v.organization_id AND k.id = v.id AND coalesce(k.last_used_at, '-infinity') < v.at""")
_writer = Repeated(SEEN_SECONDS, write_seen)
