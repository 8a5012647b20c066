"""Publishing events: rows of the transaction that they report, one delivery for each endpoint that wants them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.ids import new_id
from saas_api.webhooks import rules

_PUBLISH = text("""
WITH e AS (
  INSERT INTO events (organization_id, id, type, payload, subject_id, subject_version, created_at)
  SELECT :organization_id, :id, :type, :payload, :subject_id, :version, :at
   WHERE EXISTS (SELECT FROM webhook_endpoints WHERE organization_id = :organization_id AND deleted_at IS NULL)
  ON CONFLICT (organization_id, type, subject_id, subject_version) DO NOTHING RETURNING organization_id, id, type),
d AS (
  INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, next_at)
  SELECT e.organization_id, e.id, w.id, now() FROM e JOIN webhook_endpoints w USING (organization_id)
   WHERE w.status = 'enabled' AND w.deleted_at IS NULL AND (w.event_types IS NULL OR e.type = ANY (w.event_types))
  RETURNING 1)
SELECT count(*) FROM d""")


@dataclass(frozen=True)
class Subject:
    """What an event is about.

    version: rises with every change; the same type, id and version is one event, however often it is published
    """

    id: UUID
    version: int = 1


def publish(session: Session, organization_id: UUID, kind: str, subject: Subject, data: Mapping[str, Any]) -> None:
    """Report that something happened, in the transaction in which it does.

    Without an endpoint in the organization nothing is kept.
    kind: of the event, such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    """
    event_id, at = new_id(), clock.now()
    values = {
        "organization_id": organization_id,
        "id": event_id,
        "type": kind,
        "payload": rules.payload(event_id, kind, at, organization_id, data),
        "subject_id": subject.id,
        "version": subject.version,
        "at": at,
    }
    session.execute(_PUBLISH, values)
