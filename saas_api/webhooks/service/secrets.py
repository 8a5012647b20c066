"""Secrets of endpoints: made and shown once, kept encrypted, several living side by side while one replaces another."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, crypto
from saas_api.core.access import Principal
from saas_api.core.ids import new_id
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import audit
from saas_api.webhooks import rules
from saas_api.webhooks.models import Endpoint, EndpointSecret
from saas_api.webhooks.service.endpoints import hold

AT_MOST_LIVE = 3
PURPOSE = "webhook_secret"


def issue(session: Session, endpoint: Endpoint) -> str:
    """Give an endpoint a secret; another one without an end must be none.

    returns: its text, which is shown once
    """
    shown = rules.new_secret()
    secret = EndpointSecret(
        organization_id=endpoint.organization_id,
        id=new_id(),
        endpoint_id=endpoint.id,
        secret_encrypted=crypto.encrypt(PURPOSE, shown.encode()),
        created_at=clock.now(),
    )
    session.add(secret)
    return shown


def rotate(session: Session, by: Principal, endpoint_id: UUID, grace_seconds: int) -> tuple[str, datetime]:
    """Give an endpoint a new secret; the one before goes on signing beside it for a while.

    Of more than three the oldest ends now.
    grace_seconds: 0 ends every older one at once
    returns: the secret's text, which is shown once, and when the one before ends
    raises: NoSuchEndpoint
    """
    endpoint = hold(session, by.organization_id, endpoint_id)
    now = clock.now()
    ends_at = now + timedelta(seconds=grace_seconds)
    for age, older in enumerate(session.scalars(_live(by.organization_id, endpoint_id)), 1):
        is_over = grace_seconds == 0 or age >= AT_MOST_LIVE
        older.expires_at = now if is_over else older.expires_at or ends_at
    session.flush()  # only one secret has no end
    shown = issue(session, endpoint)
    target = ("webhook_endpoint", endpoint_id)
    data = {"grace_seconds": grace_seconds}
    audit.record(session, by.organization_id, audit.actor_of(by), "webhook_endpoint.secret_rotated", target, data)
    return shown, ends_at


def live_secrets(session: Session, organization_id: UUID, endpoint_id: UUID) -> list[str]:
    """The secrets that sign what an endpoint gets now, the newest first."""
    return [
        crypto.decrypt(PURPOSE, secret.secret_encrypted).decode()
        for secret in session.scalars(_live(organization_id, endpoint_id))
    ]


def reseal(over: Callable[[Sequence[Any]], Iterable[Any]] = iter) -> int:
    """Encrypt every secret under the first SECRET_KEY, so that an older one may go.

    over: goes through the secrets, and may show how far it is
    returns: how many there are
    """
    with as_system("webhooks.reseal") as session:
        secrets = session.scalars(sa.select(EndpointSecret).with_for_update()).all()
        for secret in over(secrets):
            secret.secret_encrypted = crypto.encrypt(PURPOSE, crypto.decrypt(PURPOSE, secret.secret_encrypted))
    return len(secrets)


def _live(organization_id: UUID, endpoint_id: UUID) -> sa.Select[EndpointSecret]:
    is_live = sa.or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > clock.now())
    return (
        sa.select(EndpointSecret)
        .where(EndpointSecret.organization_id == organization_id, EndpointSecret.endpoint_id == endpoint_id, is_live)
        .order_by(EndpointSecret.id.desc())
    )
