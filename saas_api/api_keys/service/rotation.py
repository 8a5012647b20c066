"""A new secret for a key: the old one goes on for a time of grace, so that nobody is cut off while it is exchanged."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.api_keys.models import ApiKey, ApiKeySecret
from saas_api.api_keys.queries import Described, describe
from saas_api.api_keys.service import telling
from saas_api.api_keys.service.keys import KeyEnded, check_giver, lock, note
from saas_api.api_keys.service.secrets import issue
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.errors import Conflict
from saas_api.organizations import service as organizations


class RotationInProgress(Conflict):
    """Two secrets of the key are live already; the old one has to end first."""

    code, message = "ROTATION_IN_PROGRESS", "The old secret of this API key is still valid; wait until it ends."
    constraint = "api_key_secrets_slot"


@dataclass(frozen=True)
class Rotated:
    """A key, this once its new text, and when the old one ends."""

    key: Described
    text: str
    old_expires_at: datetime


def rotate(session: Session, by: Principal, key_id: UUID, grace_seconds: int) -> Rotated:
    """Give a key a new secret, which ends when the old one was to end.

    grace_seconds: 0 to 604,800; how long the old secret goes on, at most until its own end
    raises: NoSuchKey, KeyEnded, RotationInProgress, ScopeBeyondRole, access.EmailNotVerified
    """
    key = lock(session, by.organization_id, key_id)
    check_giver(by, key.mode, key.scopes)
    now = clock.now()
    live = _live(session, key, now)
    if not live:
        raise KeyEnded
    if len(live) > 1:
        raise RotationInProgress
    old, ends_at = live[0], live[0].expires_at
    old.expires_at = min(now + timedelta(seconds=grace_seconds), ends_at or datetime.max.replace(tzinfo=now.tzinfo))
    if grace_seconds == 0:
        old.revoked_at = now
    secret, text = issue(session, key, 3 - old.slot, ends_at)
    data = {"grace_seconds": grace_seconds, "old_last_four": old.last_four, "last_four": secret.last_four}
    note(session, key, by, "rotated", data)
    organizations.changed(session, by.organization_id)
    described = describe(key, secret)
    session.flush()  # counted among the key's secrets
    telling.publish(session, by.organization_id, described, "rotated", old.expires_at)
    return Rotated(described, text, old.expires_at)


def end_old(session: Session, by: Principal, key_id: UUID) -> Described:
    """End every secret of a key but the newest: what still sends the old one is refused on its next request.

    A repeat changes nothing.
    raises: NoSuchKey, KeyEnded
    """
    key = lock(session, by.organization_id, key_id)
    live = sorted(_live(session, key, clock.now()), key=lambda secret: secret.created_at)
    if not live:
        raise KeyEnded
    for secret in live[:-1]:
        secret.revoked_at = clock.now()
        note(session, key, by, "old_secret_ended", {"old_last_four": secret.last_four})
        organizations.changed(session, by.organization_id)
    session.flush()
    return describe(key, live[-1])


def _live(session: Session, key: ApiKey, now: datetime) -> list[ApiKeySecret]:
    """Secrets that open something; those whose time is over give up their slot."""
    mine = sa.select(ApiKeySecret).filter_by(organization_id=key.organization_id, key_id=key.id, revoked_at=None)
    live = []
    for secret in session.scalars(mine.execution_options(populate_existing=True)):
        if secret.expires_at is not None and secret.expires_at <= now:
            secret.revoked_at = now
        else:
            live.append(secret)
    session.flush()  # an insert would go before these updates and find the slot taken
    return live
