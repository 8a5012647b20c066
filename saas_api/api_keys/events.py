"""Api_key.* events (KeyOut)."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.api_keys.models import ApiKeySecret, KeyView
from saas_api.core import clock, ids
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject


def publish_key_event(
    session: Session, organization_id: UUID, key: KeyView, verb: str, old_expires_at: datetime | None = None
) -> None:
    """Report what became of a key; it is as old as the number of secrets it has had.

    verb: "created", "rotated" or "revoked"
    old_expires_at: when the secret before ends
    """
    mine = (
        sa.select(sa.func.count()).select_from(ApiKeySecret).filter_by(organization_id=organization_id, key_id=key.id)
    )
    version = session.scalars(mine).one() + (verb == "revoked")
    data = {
        "object": "api_key",
        "id": ids.format_id("key", key.id),
        "name": key.name,
        "mode": key.mode,
        "masked": key.masked,
        "is_active": key.is_active,
        "old_expires_at": old_expires_at and clock.format_rfc3339(old_expires_at),
    }
    events.publish(session, organization_id, f"api_key.{verb}", EventSubject(key.id, version), data)
