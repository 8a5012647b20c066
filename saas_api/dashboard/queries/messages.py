"""Reads of the pages about messages: ranges, what a message used, what endpoints were told of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.usage.rules import BadRange, read_days

SENT_BY_A_KEY = "messages.send"
_HOURS = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
_KINDS = [f"message.{state}" for state in ("accepted", "sent", "delivered", "failed", "canceled")]


@dataclass(frozen=True)
class Metered:
    """A row of the ledger about a message; below zero where it was taken back."""

    id: UUID
    meter: str
    unit: str
    quantity: Decimal
    occurred_at: datetime
    is_reversal: bool


@dataclass(frozen=True)
class Told:
    """An event about a message on its way to an endpoint."""

    delivery_id: UUID
    endpoint_id: UUID
    url: str
    kind: str
    status: str
    attempts: int
    last_status: int | None
    created_at: datetime


def instants(
    session: Session, organization_id: UUID, query: Mapping[str, Any], zone: str
) -> tuple[datetime | None, datetime | None]:
    """The first instant that is meant and the first that is no longer; None where there is no bound.

    query: `range`, `start_date`, `end_date`
    raises: Invalid on dates that name no range
    """
    now, wanted = clock.now(), query["range"]
    if wanted in _HOURS:
        return now - timedelta(hours=_HOURS[wanted]), None
    if wanted in ("period", "last_period"):
        return _period(session, organization_id, now, is_last=wanted == "last_period")
    if not query["start_date"] and not query["end_date"]:
        return None, None
    local = clock.zone(zone)
    try:
        days = read_days(query["start_date"], query["end_date"], now.astimezone(local).date(), local)
    except BadRange as cause:
        raise Invalid.at(cause.field, cause.reason) from cause
    return days.starts_at, days.ends_at


def metered(session: Session, organization_id: UUID, message_id: UUID) -> list[Metered]:
    """What the ledger holds of a message: nothing in test mode, its usage, and what was taken back."""
    rows = session.execute(
        text("""WITH own AS (SELECT * FROM usage_events WHERE organization_id = :organization_id AND source = :source
            AND idempotency_key = :key)
          SELECT e.id, e.meter_code, m.unit, e.quantity, e.occurred_at, e.reversal_of IS NOT NULL
          FROM (SELECT * FROM own UNION ALL SELECT r.* FROM own JOIN usage_events r
              ON r.organization_id = :organization_id AND r.source = 'reversal' AND r.idempotency_key = own.id::text) e
          JOIN meters m ON m.code = e.meter_code ORDER BY 6, e.recorded_at"""),
        {"organization_id": organization_id, "source": SENT_BY_A_KEY, "key": str(message_id)},
    )
    return [Metered(*row) for row in rows]


def told(session: Session, organization_id: UUID, message_id: UUID) -> list[Told]:
    """What endpoints were told of a message, the first first."""
    rows = session.execute(
        text("""SELECT d.id, d.endpoint_id, w.url, e.type, d.status, d.attempts, d.last_status, d.created_at
          FROM events e JOIN webhook_deliveries d ON d.organization_id = e.organization_id AND d.event_id = e.id
          JOIN webhook_endpoints w ON w.organization_id = d.organization_id AND w.id = d.endpoint_id
          WHERE e.organization_id = :organization_id AND e.type = ANY (:kinds) AND e.subject_id = :message_id
          ORDER BY e.sequence, d.created_at, d.id LIMIT 50"""),
        {"organization_id": organization_id, "kinds": _KINDS, "message_id": message_id},
    )
    return [Told(*row) for row in rows]


def _period(
    session: Session, organization_id: UUID, now: datetime, *, is_last: bool
) -> tuple[datetime | None, datetime | None]:
    row = session.execute(
        text("""SELECT starts_at, ends_at FROM billing_periods WHERE organization_id = :organization_id
            AND starts_at <= :now ORDER BY starts_at DESC LIMIT 1 OFFSET :skipped"""),
        {"organization_id": organization_id, "now": now, "skipped": int(is_last)},
    ).first()
    return (row.starts_at, row.ends_at) if row else (now, now)
