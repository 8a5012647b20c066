"""Idempotency-Key: acquire, find and store the response of a request in the transaction of its effect."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from saas_api.core import crypto
from saas_api.core.access import Principal
from saas_api.core.db import engine, tenancy
from saas_api.core.domain import Domain
from saas_api.core.errors import BadRequest, Conflict, ValidationFailed

DOMAIN = Domain(name="core.idempotency", system_purposes=("idempotency.purge",))
RETENTION_HOURS, SECRET_RETENTION_HOURS = 24, 1
LOCK_NOT_AVAILABLE = "idempotency_keys_pkey"
_PURPOSE = "idempotency"
_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended('idem:' || :org || ':' || :key, 0))")
_FORGET = text("DELETE FROM idempotency_keys WHERE organization_id = :org AND key = :key AND expires_at <= now()")
_FIND = text("""SELECT fingerprint, status, headers, body, is_encrypted FROM idempotency_keys
  WHERE organization_id = :org AND key = :key""")
_COLUMNS = "(organization_id, key, fingerprint, status, headers, body, is_encrypted, expires_at)"
_KEEP = text(f"""INSERT INTO idempotency_keys {_COLUMNS}
  VALUES (:org, :key, :fingerprint, :status, CAST(:headers AS jsonb), :body, :is_encrypted,
    now() + make_interval(hours => :hours))""")
_KEEP_IN_BATCH = f"""INSERT INTO idempotency_keys {_COLUMNS}
VALUES (%(once_org)s, %(once_key)s, %(once_fingerprint)s, %(once_status)s, '{{}}', %(once_body)s, false,
  now() + interval '{RETENTION_HOURS} h')"""
_PURGE = text("""DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM idempotency_keys WHERE expires_at <= now() LIMIT 10000))""")


class IdempotencyKeyInvalid(BadRequest):
    """An Idempotency-Key is 1 to 255 printable ASCII characters."""

    code, message = "IDEMPOTENCY_KEY_INVALID", "Idempotency-Key must be 1 to 255 printable ASCII characters."


class IdempotencyKeyReused(ValidationFailed):
    """The key was used for another request."""

    code, message = "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used for another request."


class IdempotentRequestInProgress(Conflict):
    """The first request with this key is still running."""

    code, message = "IDEMPOTENCY_IN_PROGRESS", "The first request with this Idempotency-Key is still running."


@dataclass(frozen=True)
class StoredResponse:
    """The answer of a request that succeeded.

    headers: its own, besides those that every answer carries
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class AlreadyAnswered(Exception):
    """The request was answered before."""

    def __init__(self, kept: StoredResponse) -> None:
        super().__init__()
        self.kept = kept


@dataclass(frozen=True)
class IdempotentRequest:
    """A request that is to take effect once.

    fingerprint: of mode, method, path and body
    render: what the answer's body will be, from the view's data
    """

    organization_id: UUID
    key: str
    fingerprint: bytes
    status: int
    render: Callable[[Any], bytes]

    def statement(self, data: Any) -> tuple[str, dict[str, Any]]:
        """The answer as a statement of `core.db.execute_once`; a second request with the key violates TAKEN.

        data: what the view will return
        """
        return _KEEP_IN_BATCH, {
            "once_org": self.organization_id,
            "once_key": self.key,
            "once_fingerprint": self.fingerprint,
            "once_status": self.status,
            "once_body": self.render(data),
        }


def parse_key(header: str | None) -> str | None:
    """The key of a header, bare or in double quotes; None where there is none.

    raises: KeyInvalid
    """
    if not header:
        return None
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
    if not key:
        return None
    if len(key) > 255 or not all(" " <= sign <= "~" for sign in key):
        raise IdempotencyKeyInvalid
    return key


def fingerprint(principal: Principal, method: str, path: str, body: Any) -> bytes:
    """What makes two requests the same: mode, method, path and body, whatever the order of its fields.

    Of people also who asks: an answer may show what its asker alone was allowed to make.
    """
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    asker = principal.mode if principal.kind == "key" else f"{principal.mode} {principal.id}"
    return hashlib.sha256(b"\0".join((asker.encode(), method.encode(), path.encode(), canonical))).digest()


def acquire(session: Session, once: IdempotentRequest) -> None:
    """Make sure that nobody runs this request until the session's transaction ends, and that nobody has.

    raises: InProgress, KeyReused; Replay with the answer of the first
    """
    names = {"org": str(once.organization_id), "key": once.key}
    if not session.scalar(_LOCK, names):
        raise IdempotentRequestInProgress(retry_after=1)
    raise_if_answered(session, once)


def raise_if_answered(session: Session, once: IdempotentRequest) -> None:
    """Return when the key is free, forgetting what has expired.

    raises: KeyReused; Replay with the answer of the first
    """
    names = {"org": once.organization_id, "key": once.key}
    session.execute(_FORGET, names)
    row = session.execute(_FIND, names).first()
    if row is None:
        return
    if bytes(row.fingerprint) != once.fingerprint:
        raise IdempotencyKeyReused
    body = bytes(row.body)
    raise AlreadyAnswered(
        StoredResponse(row.status, crypto.decrypt(_PURPOSE, body) if row.is_encrypted else body, row.headers)
    )


def find_response(once: IdempotentRequest) -> StoredResponse | None:
    """The answer of the first, for who is about to be refused; None where there is none or it cannot be read."""
    try:
        with tenancy.tenant_session(once.organization_id) as session:
            raise_if_answered(session, once)
    except AlreadyAnswered as replay:
        return replay.kept
    except (IdempotencyKeyReused, DBAPIError):
        return None
    return None


def store_response(session: Session, once: IdempotentRequest, kept: StoredResponse, *, is_secret: bool) -> None:
    """Keep an answer in the transaction of its effect.

    is_secret: it shows a secret: kept encrypted, for an hour
    raises: InProgress where a request that does not wait for others, such as a message, took the key meanwhile
    """
    values = {
        "org": once.organization_id,
        "key": once.key,
        "fingerprint": once.fingerprint,
        "status": kept.status,
        "headers": orjson.dumps(dict(kept.headers)).decode(),
        "body": crypto.encrypt(_PURPOSE, kept.body) if is_secret else kept.body,
        "is_encrypted": is_secret,
        "hours": SECRET_RETENTION_HOURS if is_secret else RETENTION_HOURS,
    }
    try:
        session.execute(_KEEP, values)
    except IntegrityError as error:
        if engine.violated_constraint(error) == LOCK_NOT_AVAILABLE:
            raise IdempotentRequestInProgress(retry_after=1) from error
        raise


def delete_expired() -> int:
    """Delete what has expired.

    returns: how many keys
    """
    deleted = 0
    while True:
        with tenancy.system_session("idempotency.purge") as session:
            result: Any = session.execute(_PURGE)
        deleted += int(result.rowcount)
        if result.rowcount < 10_000:
            return deleted
