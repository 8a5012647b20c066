"""Reads of the webhook pages: deliveries over all endpoints, outcomes by day, and what a disabled endpoint missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor
from saas_api.webhooks.models import Endpoint, EndpointSecret, Event
from saas_api.webhooks.service import NoSuchEvent
from saas_api.webhooks.service.publishing import WANTS

DAYS = 7
KEPT = timedelta(days=30)
MOST_COUNTED = 1000
_COLUMNS = """d.id, d.event_id, e.type, d.endpoint_id, w.url, w.deleted_at IS NOT NULL AS is_deleted, d.cause, d.status,
  d.attempts, d.last_status, d.error_code, d.next_at, d.finished_at, d.created_at"""
_CARRIED = "JOIN events e ON e.organization_id = d.organization_id AND e.id = d.event_id"
# Newest first over all endpoints: as many as are shown of each by its own index, then the newest of these.
_DELIVERIES = f"""
SELECT d.* FROM webhook_endpoints w CROSS JOIN LATERAL (
  SELECT {_COLUMNS} FROM webhook_deliveries d {_CARRIED}
   WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id {{conditions}}
   ORDER BY d.created_at DESC, d.id DESC LIMIT :limit) d
 WHERE w.organization_id = :organization_id {{endpoint}}
 ORDER BY d.created_at DESC, d.id DESC LIMIT :limit"""
_OF_EVENT = sa.text(f"""
SELECT {_COLUMNS} FROM webhook_deliveries d {_CARRIED}
  JOIN webhook_endpoints w ON w.organization_id = d.organization_id AND w.id = d.endpoint_id
 WHERE d.organization_id = :organization_id AND d.event_id = :event_id
 ORDER BY d.created_at DESC, d.id DESC LIMIT 50""")
_OUTCOMES = sa.text("""
SELECT (created_at AT TIME ZONE :zone)::date AS day,
       count(*) FILTER (WHERE status = 'delivered') AS delivered,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status IN ('queued', 'sending')) AS waiting,
       count(*) FILTER (WHERE status = 'canceled') AS canceled
  FROM webhook_deliveries
 WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id AND created_at >= :since
 GROUP BY 1""")
_DISABLED_AT = sa.text("""
SELECT at FROM audit_events WHERE organization_id = :organization_id AND target_type = 'webhook_endpoint'
   AND target_id = :endpoint_id AND (action = 'webhook_endpoint.disabled'
     OR action = 'webhook_endpoint.changed' AND data -> 'after' ->> 'status' = 'disabled_manual')
 ORDER BY id DESC LIMIT 1""")
_MISSED = sa.text(f"""
SELECT count(*) FROM (SELECT 1 FROM events e
 JOIN webhook_endpoints w ON w.organization_id = e.organization_id AND w.id = :endpoint_id
 WHERE e.organization_id = :organization_id AND e.created_at >= :since AND e.subject_version >= 0
   AND CASE WHEN EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                           AND d.event_id = e.id AND d.endpoint_id = w.id)
       THEN NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                          AND d.event_id = e.id AND d.endpoint_id = w.id
                          AND d.status IN ('delivered', 'queued', 'sending'))
       ELSE {WANTS} END LIMIT {MOST_COUNTED + 1}) missed""")


@dataclass(frozen=True)
class Row:
    """A delivery in a list."""

    id: UUID
    event_id: UUID
    event_type: str
    endpoint_id: UUID
    url: str
    is_deleted: bool
    cause: str
    status: str
    attempts: int
    last_status: int | None
    error_code: str | None
    next_at: datetime | None
    finished_at: datetime | None
    created_at: datetime

    @property
    def is_due(self) -> bool:
        """Whether it is sent as soon as somebody gets to it."""
        return self.next_at is not None and self.next_at <= clock.now()


@dataclass(frozen=True)
class Outcomes:
    """What became of the deliveries that were made on one local day."""

    day: date
    delivered: int = 0
    failed: int = 0
    waiting: int = 0
    canceled: int = 0


@dataclass(frozen=True)
class Pause:
    """Since when nothing is sent to an endpoint, and what it missed.

    since: None when nobody remembers
    missed: at most one more than MOST_COUNTED
    missed_since: the first instant a recovery would go back to
    """

    since: datetime | None
    missed: int
    missed_since: datetime


def page_of_deliveries(session: Session, organization_id: UUID, query: Mapping[str, Any], limit: int) -> Page:
    """A page of deliveries to all endpoints, newest first.

    query: `endpoint_id`, `status`, `event_type`, `cursor`
    raises: Invalid on a cursor that is none
    """
    values: dict[str, Any] = {"organization_id": organization_id, "limit": limit + 1}
    conditions, endpoint = "", ""
    if query["status"]:
        conditions, values["status"] = f"{conditions} AND d.status = :status", query["status"]
    if query["event_type"]:
        conditions, values["event_type"] = f"{conditions} AND e.type = :event_type", query["event_type"]
    if query["cursor"]:
        conditions = f"{conditions} AND (d.created_at, d.id) < (:created_at, :id)"
        values["created_at"], values["id"] = _time_and_id(query["cursor"])
    if query["endpoint_id"]:
        endpoint, values["endpoint_id"] = "AND w.id = :endpoint_id", query["endpoint_id"]
    statement = sa.text(_DELIVERIES.format(conditions=conditions, endpoint=endpoint))
    rows = [Row(*row) for row in session.execute(statement, values)]
    kept = rows[:limit]
    following = encode_cursor(kept[-1].created_at.isoformat(), kept[-1].id.hex) if len(rows) > limit else None
    return Page(kept, following, limit)


def deliveries_of_event(session: Session, organization_id: UUID, event_id: UUID) -> list[Row]:
    """The newest fifty deliveries of an event, newest first."""
    values = {"organization_id": organization_id, "event_id": event_id}
    return [Row(*row) for row in session.execute(_OF_EVENT, values)]


def get_event(session: Session, organization_id: UUID, event_id: UUID) -> Event:
    """An event.

    raises: NoSuchEvent
    """
    event = session.get(Event, (organization_id, event_id))
    if event is None:
        raise NoSuchEvent
    return event


def endpoints(session: Session, organization_id: UUID) -> Sequence[Endpoint]:
    """Every endpoint, newest first, the deleted ones last."""
    statement = sa.select(Endpoint).where(Endpoint.organization_id == organization_id)
    return session.scalars(statement.order_by(Endpoint.deleted_at.is_not(None), Endpoint.id.desc()).limit(50)).all()


def endpoint_of(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint that a delivery goes to, be it deleted."""
    return session.get_one(Endpoint, (organization_id, endpoint_id))


def outcomes(session: Session, endpoint: Endpoint, zone: str) -> list[Outcomes]:
    """What became of an endpoint's deliveries on each of the last seven local days, today the last one."""
    today = clock.now().astimezone(clock.zone(zone)).date()
    days = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    values = {
        "organization_id": endpoint.organization_id,
        "endpoint_id": endpoint.id,
        "zone": zone,
        "since": datetime.combine(days[0], datetime.min.time(), clock.zone(zone)),
    }
    found = {row.day: Outcomes(*row) for row in session.execute(_OUTCOMES, values)}
    return [found.get(day, Outcomes(day)) for day in days]


def live_secrets(session: Session, endpoint: Endpoint) -> Sequence[EndpointSecret]:
    """The secrets that sign now, the newest first."""
    is_live = sa.or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > clock.now())
    of_it = sa.and_(
        EndpointSecret.organization_id == endpoint.organization_id, EndpointSecret.endpoint_id == endpoint.id
    )
    return session.scalars(sa.select(EndpointSecret).where(of_it, is_live).order_by(EndpointSecret.id.desc())).all()


def pause_of(session: Session, endpoint: Endpoint) -> Pause:
    """Since when an endpoint is disabled, and what it missed since then, or since it began to fail."""
    values = {"organization_id": endpoint.organization_id, "endpoint_id": str(endpoint.id)}
    since = session.scalar(_DISABLED_AT, values)
    begun = missed_since(session, endpoint, since)
    counted = {**values, "endpoint_id": endpoint.id, "since": begun}
    return Pause(since, int(session.scalar(_MISSED, counted) or 0), begun)


def missed_since(session: Session, endpoint: Endpoint, disabled_at: datetime | None = None) -> datetime:
    """The first instant a recovery goes back to.

    disabled_at: where the caller knows it already
    """
    values = {"organization_id": endpoint.organization_id, "endpoint_id": str(endpoint.id)}
    begun = endpoint.first_failure_at or disabled_at or session.scalar(_DISABLED_AT, values) or endpoint.created_at
    return max(begun, clock.now() - KEPT)


def _time_and_id(cursor: str) -> tuple[datetime, UUID]:
    try:
        at, delivery_id = decode_cursor(cursor)
        return datetime.fromisoformat(at), UUID(hex=delivery_id)
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
