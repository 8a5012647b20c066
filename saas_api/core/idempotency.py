"""Idempotency-Key: the response of a request is stored in the transaction of its effect, and replayed for 24 hours."""

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
from saas_api.core.db.prepared import Statement
from saas_api.core.domain import Domain
from saas_api.core.errors import BadRequest, Conflict, ValidationFailed

DOMAIN = Domain(name="core.idempotency", system_purposes=("idempotency.purge",))
RETENTION_HOURS = 24
MAX_KEY_LENGTH = 255
KEY_CONSTRAINT = "idempotency_keys_pkey"
"""Violated when a response is stored under a key that another request has used."""
_PURPOSE = "idempotency"
_DELETE_BATCH_SIZE = 10_000
_TRY_LOCK = text(
    "SELECT pg_try_advisory_xact_lock(hashtextextended('idem:' || :org || ':' || :mode || ':' || :key, 0))"
)
_DELETE_EXPIRED_RESPONSE = text("""DELETE FROM idempotency_keys
  WHERE organization_id = :org AND mode = :mode AND key = :key AND expires_at <= now()""")
_FIND_RESPONSE = text("""SELECT fingerprint, status, headers, body, is_encrypted FROM idempotency_keys
  WHERE organization_id = :org AND mode = :mode AND key = :key""")
_COLUMNS = "(organization_id, mode, key, fingerprint, status, headers, body, is_encrypted, expires_at)"
_INSERT_RESPONSE = text(f"""INSERT INTO idempotency_keys {_COLUMNS}
  VALUES (:org, :mode, :key, :fingerprint, :status, CAST(:headers AS jsonb), :body, :is_encrypted,
    now() + interval '{RETENTION_HOURS} h')""")
_INSERT_RESPONSE_IN_BATCH = f"""INSERT INTO idempotency_keys {_COLUMNS}
VALUES (%(idempotency_org)s, %(idempotency_mode)s, %(idempotency_key)s, %(idempotency_fingerprint)s,
  %(idempotency_status)s, '{{}}', %(idempotency_body)s, false, now() + interval '{RETENTION_HOURS} h')"""
_DELETE_EXPIRED = text("""DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM idempotency_keys WHERE expires_at <= now() LIMIT :limit))""")


class IdempotencyKeyInvalid(BadRequest):
    """An Idempotency-Key is 1 to 255 printable ASCII characters, sent in one header; a comma needs quotes around it."""

    code, message = "IDEMPOTENCY_KEY_INVALID", "Send one Idempotency-Key of 1 to 255 printable ASCII characters."


class IdempotencyKeyReused(ValidationFailed):
    """The key was used for another request."""

    code, message = "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used for another request."


class IdempotentRequestInProgress(Conflict):
    """The first request with this key is still running."""

    code, message = "IDEMPOTENCY_IN_PROGRESS", "The first request with this Idempotency-Key is still running."


@dataclass(frozen=True)
class StoredResponse:
    """The response of a request that succeeded.

    headers: without those that every response has
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class AlreadyAnswered(Exception):
    """The request succeeded before; `response` is its stored response."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__()
        self.response = response


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an Idempotency-Key, which takes effect once.

    organization_id, mode: keys of other organizations and of the other mode are separate; for a user without an
        organization the id of the user
    fingerprint: as returned by `fingerprint()`
    status: of the response
    render: makes the body of the response from the data of the view
    """

    organization_id: UUID
    mode: str
    key: str
    fingerprint: bytes
    status: int
    render: Callable[[Any], bytes]

    def statement(self, data: Any) -> Statement:
        """The statement of `engine.execute_batch` that stores the response; a used key violates KEY_CONSTRAINT.

        data: result of the view
        """
        return _INSERT_RESPONSE_IN_BATCH, {
            "idempotency_org": self.organization_id,
            "idempotency_mode": self.mode,
            "idempotency_key": self.key,
            "idempotency_fingerprint": self.fingerprint,
            "idempotency_status": self.status,
            "idempotency_body": self.render(data),
        }


def parse_key(header: str | None) -> str | None:
    """The key of an Idempotency-Key header, bare or in double quotes; None when there is none.

    Servers join repeated headers with a comma, so a bare key has no comma, and a quoted one no quotation mark.
    raises: IdempotencyKeyInvalid
    """
    if header is None:
        return None
    is_quoted = len(header) > 1 and header[0] == header[-1] == '"'
    key = header[1:-1] if is_quoted else header
    is_printable = all(" " <= character <= "~" for character in key)
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not is_printable or ('"' if is_quoted else ",") in key:
        raise IdempotencyKeyInvalid
    return key


def fingerprint(principal: Principal, method: str, path: str, body: Any) -> bytes:
    """Digest of method, path and body, whatever the order of its fields.

    For a user also of the user: a response may contain what only this user has permission to create.
    """
    canonical_body = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    caller = "" if principal.kind == "key" else str(principal.id)
    return hashlib.sha256(b"\0".join((caller.encode(), method.encode(), path.encode(), canonical_body))).digest()


def find_response(request: IdempotentRequest) -> StoredResponse | None:
    """The stored response of a request that is about to be rejected, in a transaction of its own.

    returns: None when there is none, the key was used for another request, or PostgreSQL does not respond
    """
    try:
        with tenancy.tenant_session(request.organization_id) as session:
            raise_if_answered(session, request)
    except AlreadyAnswered as replay:
        return replay.response
    except (IdempotencyKeyReused, DBAPIError):
        return None
    return None


def raise_if_answered(session: Session, request: IdempotentRequest) -> None:
    """Return when the key is free. Deletes an expired response first.

    raises: IdempotencyKeyReused, AlreadyAnswered with the stored response
    """
    values = {"org": request.organization_id, "mode": request.mode, "key": request.key}
    session.execute(_DELETE_EXPIRED_RESPONSE, values)
    row = session.execute(_FIND_RESPONSE, values).first()
    if row is None:
        return
    if bytes(row.fingerprint) != request.fingerprint:
        raise IdempotencyKeyReused
    body = bytes(row.body)
    if row.is_encrypted:
        body = crypto.decrypt(_PURPOSE, body, row_id=_row_id(request))
    raise AlreadyAnswered(StoredResponse(row.status, body, row.headers))


def _row_id(request: IdempotentRequest) -> str:
    return f"{request.organization_id}:{request.key}"


def acquire(session: Session, request: IdempotentRequest) -> None:
    """Lock the key until the session's transaction ends.

    raises: IdempotentRequestInProgress, IdempotencyKeyReused, AlreadyAnswered with the stored response
    """
    values = {"org": str(request.organization_id), "mode": request.mode, "key": request.key}
    if not session.scalar(_TRY_LOCK, values):
        raise IdempotentRequestInProgress(retry_after=1)
    raise_if_answered(session, request)


def store_response(session: Session, request: IdempotentRequest, response: StoredResponse, *, is_secret: bool) -> None:
    """Store a response in the transaction of its effect.

    is_secret: the body contains a secret and is encrypted
    raises: IdempotentRequestInProgress when a request that takes no lock, such as a message, has used the key meanwhile
    """
    values = {
        "org": request.organization_id,
        "mode": request.mode,
        "key": request.key,
        "fingerprint": request.fingerprint,
        "status": response.status,
        "headers": orjson.dumps(dict(response.headers)).decode(),
        "body": crypto.encrypt(_PURPOSE, response.body, row_id=_row_id(request)) if is_secret else response.body,
        "is_encrypted": is_secret,
    }
    try:
        session.execute(_INSERT_RESPONSE, values)
    except IntegrityError as error:
        if engine.violated_constraint(error) == KEY_CONSTRAINT:
            raise IdempotentRequestInProgress(retry_after=1) from error
        raise


def delete_expired() -> int:
    """Delete expired responses in batches, each in a transaction of its own.

    returns: number of deleted responses
    """
    total = 0
    while True:
        with tenancy.system_session("idempotency.purge") as session:
            result: Any = session.execute(_DELETE_EXPIRED, {"limit": _DELETE_BATCH_SIZE})
        total += int(result.rowcount)
        if result.rowcount < _DELETE_BATCH_SIZE:
            return total
