"""Create, rotate, list, re-encrypt signing secrets."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.core import clock, crypto, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.webhooks import endpoints, payload
from saas_api.webhooks.models import Endpoint, EndpointSecret

MAX_ACTIVE_SECRETS = 3
ENCRYPTION_PURPOSE = "webhook_secret"


def create_secret(session: Session, endpoint: Endpoint) -> str:
    """Give an endpoint a secret; another one without an end must be none.

    returns: its text, which is shown once
    """
    shown = payload.generate_secret()
    secret = EndpointSecret(
        organization_id=endpoint.organization_id,
        id=ids.new_id(),
        endpoint_id=endpoint.id,
        secret_encrypted=crypto.encrypt(ENCRYPTION_PURPOSE, shown.encode()),
        created_at=clock.now(),
    )
    session.add(secret)
    return shown


def rotate_secret(session: Session, by: Principal, endpoint_id: UUID, grace_seconds: int) -> tuple[str, datetime]:
    """Give an endpoint a new secret; the one before goes on signing beside it for a while.

    Of more than three the oldest ends now.
    grace_seconds: 0 ends every older one at once
    returns: the secret's text, which is shown once, and when the one before ends
    raises: NoSuchEndpoint
    """
    endpoint = endpoints.lock_endpoint(session, by.organization_id, endpoint_id)
    now = clock.now()
    ends_at = now + timedelta(seconds=grace_seconds)
    for age, older in enumerate(session.scalars(_active_clause(by.organization_id, endpoint_id)), 1):
        is_over = grace_seconds == 0 or age >= MAX_ACTIVE_SECRETS
        older.expires_at = now if is_over else older.expires_at or ends_at
    session.flush()  # only one secret has no end
    shown = create_secret(session, endpoint)
    target = ("webhook_endpoint", endpoint_id)
    data = {"grace_seconds": grace_seconds}
    audit.record_event(
        session, by.organization_id, audit.actor_for(by), "webhook_endpoint.secret_rotated", target, data
    )
    return shown, ends_at


def list_active_secrets(session: Session, organization_id: UUID, endpoint_id: UUID) -> list[str]:
    """The secrets that sign what an endpoint gets now, the newest first."""
    return [
        crypto.decrypt(ENCRYPTION_PURPOSE, secret.secret_encrypted).decode()
        for secret in session.scalars(_active_clause(organization_id, endpoint_id))
    ]


def reencrypt_secrets(over: Callable[[Sequence[Any]], Iterable[Any]] = iter) -> int:
    """Encrypt every secret under the first SECRET_KEY, so that an older one may go.

    over: goes through the secrets, and may show how far it is
    returns: how many there are
    """
    with tenancy.system_session("webhooks.reseal") as session:
        secrets = session.scalars(sa.select(EndpointSecret).with_for_update()).all()
        for secret in over(secrets):
            secret.secret_encrypted = crypto.encrypt(
                ENCRYPTION_PURPOSE, crypto.decrypt(ENCRYPTION_PURPOSE, secret.secret_encrypted)
            )
    return len(secrets)


def _active_clause(organization_id: UUID, endpoint_id: UUID) -> sa.Select[EndpointSecret]:
    is_live = sa.or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > clock.now())
    return (
        sa.select(EndpointSecret)
        .where(EndpointSecret.organization_id == organization_id, EndpointSecret.endpoint_id == endpoint_id, is_live)
        .order_by(EndpointSecret.id.desc())
    )
