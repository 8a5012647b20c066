"""What endpoints are told of a key: that it was made, got another secret, or was revoked."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.api_keys.models import ApiKeySecret
from saas_api.api_keys.queries import Described
from saas_api.core import clock
from saas_api.core.ids import wire_id
from saas_api.webhooks import service as webhooks


def publish(
    session: Session, organization_id: UUID, key: Described, verb: str, old_expires_at: datetime | None = None
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
        "id": wire_id("key", key.id),
        "name": key.name,
        "mode": key.mode,
        "masked": key.masked,
        "is_active": key.is_active,
        "old_expires_at": old_expires_at and clock.rfc3339(old_expires_at),
    }
    webhooks.publish(session, organization_id, f"api_key.{verb}", webhooks.Subject(key.id, version), data)
