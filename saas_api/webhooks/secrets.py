"""Signing secrets of endpoints, encrypted under SECRET_KEY."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.core import access, clock, crypto, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.webhooks import endpoints, payload
from saas_api.webhooks.models import Endpoint, EndpointSecret

MAX_ACTIVE_SECRETS = 3
ENCRYPTION_PURPOSE = "webhook_secret"


def list_active_secrets(session: Session, organization_id: UUID, endpoint_id: UUID) -> list[str]:
    """Return the secrets that sign requests to an endpoint now, the newest first."""
    return [_decrypt(record) for record in session.scalars(_select_active(organization_id, endpoint_id))]


def _select_active(organization_id: UUID, endpoint_id: UUID) -> sa.Select[EndpointSecret]:
    is_active = sa.or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > clock.now())
    return (
        sa.select(EndpointSecret)
        .where(EndpointSecret.organization_id == organization_id, EndpointSecret.endpoint_id == endpoint_id, is_active)
        .order_by(EndpointSecret.id.desc())
    )


def _decrypt(record: EndpointSecret) -> str:
    return crypto.decrypt(ENCRYPTION_PURPOSE, record.secret_encrypted, row_id=_row_id(record)).decode()


def _encrypt(record: EndpointSecret, secret: str) -> bytes:
    return crypto.encrypt(ENCRYPTION_PURPOSE, secret.encode(), row_id=_row_id(record))


def _row_id(record: EndpointSecret) -> str:
    return f"{record.organization_id}:{record.id}"


def create_secret(session: Session, endpoint: Endpoint) -> str:
    """Create the secret of an endpoint that has no other one without an expiry.

    returns: the secret, which is stored encrypted only
    """
    secret = payload.generate_secret()
    record = EndpointSecret(
        organization_id=endpoint.organization_id,
        id=ids.new_id(),
        endpoint_id=endpoint.id,
        created_at=clock.now(),
    )
    record.secret_encrypted = _encrypt(record, secret)
    session.add(record)
    return secret


def rotate_secret(session: Session, by: Principal, endpoint_id: UUID, grace_seconds: int) -> tuple[str, datetime]:
    """Give an endpoint a new secret. The previous one signs too until its grace period ends.

    With more than MAX_ACTIVE_SECRETS the oldest expires now.
    grace_seconds: 0 makes every older secret expire now
    returns: the secret, which is stored encrypted only, and when the previous one expires
    raises: FreshLoginRequired, EndpointNotFound
    """
    access.require_fresh_login(by)
    endpoint = endpoints.lock_endpoint(session, by.organization_id, endpoint_id)
    now = clock.now()
    old_expires_at = now + timedelta(seconds=grace_seconds)
    for number, record in enumerate(session.scalars(_select_active(by.organization_id, endpoint_id)), 1):
        expires_now = grace_seconds == 0 or number >= MAX_ACTIVE_SECRETS
        record.expires_at = now if expires_now else record.expires_at or old_expires_at
    session.flush()  # a constraint allows one secret without an expiry
    secret = create_secret(session, endpoint)
    target = ("webhook_endpoint", endpoint_id)
    data = {"grace_seconds": grace_seconds}
    audit.record_event(
        session, by.organization_id, audit.actor_for(by), "webhook_endpoint.secret_rotated", target, data
    )
    endpoints.notify(session, by, endpoint, "The signing secret of a webhook endpoint was rotated")
    return secret, old_expires_at


def reencrypt_secrets(over: Callable[[Sequence[Any]], Iterable[Any]] = iter) -> int:
    """Encrypt every secret under the first SECRET_KEY, in a transaction of its own. Older keys may go afterwards.

    over: iterates over the secrets and may report progress
    returns: number of secrets
    """
    with tenancy.system_session("webhooks.reseal") as session:
        records = session.scalars(sa.select(EndpointSecret).with_for_update()).all()
        for record in over(records):
            record.secret_encrypted = _encrypt(record, _decrypt(record))
    return len(records)


def count_by_secret_key() -> Counter[int]:
    """Number of stored secrets, as of `crypto.count_by_secret`."""
    with tenancy.system_session("webhooks.reseal") as session:
        records = session.scalars(sa.select(EndpointSecret).execution_options(yield_per=1000))
        pairs = ((_row_id(record), record.secret_encrypted) for record in records)
        return crypto.count_by_secret(ENCRYPTION_PURPOSE, pairs)
