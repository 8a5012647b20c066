"""Reads of endpoints with their health, of deliveries with their attempts, and of events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor
from saas_api.webhooks.models import Attempt, Delivery, Endpoint, Event

_HEALTH = sa.text("""
SELECT w.id, day.delivered, day.failed, waiting.count AS waiting
  FROM webhook_endpoints w
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status = 'delivered') AS delivered,
     count(*) FILTER (WHERE status = 'failed') AS failed FROM webhook_deliveries d
   WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id
     AND d.created_at > now() - interval '24 h') day
 CROSS JOIN LATERAL (SELECT count(*) FROM webhook_deliveries d
   WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id AND d.status IN ('queued', 'sending')) waiting
 WHERE w.organization_id = :organization_id AND w.id = ANY (:ids)""")


@dataclass(frozen=True)
class Health:
    """How an endpoint has been doing; counts of deliveries made within the last 24 hours, and of all that wait."""

    delivered_24h: int
    failed_24h: int
    waiting: int
    consecutive_failures: int
    first_failure_at: datetime | None
    last_success_at: datetime | None

    @property
    def success_rate_24h(self) -> float | None:
        """In percent of what has ended; None when nothing has."""
        ended = self.delivered_24h + self.failed_24h
        return round(100 * self.delivered_24h / ended, 1) if ended else None


@dataclass(frozen=True)
class Shown:
    """An endpoint as its organization sees it.

    secret: of a new one, this once
    """

    endpoint: Endpoint
    health: Health
    secret: str | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether anything is sent to it."""
        return self.endpoint.status == "enabled" and self.endpoint.deleted_at is None


@dataclass(frozen=True)
class ShownDelivery:
    """A delivery with what it carries, and in detail with its attempts."""

    delivery: Delivery
    event: Event
    attempts: Sequence[Attempt] = ()

    @property
    def payload(self) -> Any:
        """The event as it is sent."""
        return orjson.loads(self.event.payload)


def page_of_endpoints(session: Session, organization_id: UUID, query: Mapping[str, Any]) -> Page:
    """A page of endpoints that are not deleted, newest first.

    query: `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = sa.select(Endpoint).where(Endpoint.organization_id == organization_id, Endpoint.deleted_at.is_(None))
    if query["cursor"]:
        statement = statement.where(Endpoint.id < _id(query["cursor"]))
    rows = session.scalars(statement.order_by(Endpoint.id.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = encode_cursor(kept[-1].id.hex) if len(rows) > query["limit"] else None
    return Page(show(session, organization_id, kept), following, query["limit"])


def show(session: Session, organization_id: UUID, endpoints: Sequence[Endpoint]) -> list[Shown]:
    """Endpoints with their health, in the same order."""
    ids = [endpoint.id for endpoint in endpoints]
    values = {"organization_id": organization_id, "ids": ids}
    counts = {row.id: row for row in session.execute(_HEALTH, values)} if ids else {}
    return [Shown(endpoint, _health(endpoint, counts[endpoint.id])) for endpoint in endpoints]


def page_of_deliveries(session: Session, organization_id: UUID, endpoint_id: UUID, query: Mapping[str, Any]) -> Page:
    """A page of an endpoint's deliveries, newest first.

    query: `status`, `event_type`, `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = _deliveries(organization_id).where(Delivery.endpoint_id == endpoint_id)
    if query["status"]:
        statement = statement.where(Delivery.status == query["status"])
    if query["event_type"]:
        statement = statement.where(Event.type == query["event_type"])
    if query["cursor"]:
        statement = statement.where(sa.tuple_(Delivery.created_at, Delivery.id) < _time_and_id(query["cursor"]))
    newest_first = statement.order_by(Delivery.created_at.desc(), Delivery.id.desc())
    rows = session.execute(newest_first.limit(query["limit"] + 1)).all()
    kept = [ShownDelivery(row[0], row[1]) for row in rows[: query["limit"]]]
    following = None
    if len(rows) > query["limit"]:
        last = kept[-1].delivery
        following = encode_cursor(last.created_at.isoformat(), last.id.hex)
    return Page(kept, following, query["limit"])


def show_deliveries(session: Session, organization_id: UUID, ids: Sequence[UUID]) -> list[ShownDelivery]:
    """Deliveries by their ids, without their attempts."""
    statement = _deliveries(organization_id).where(Delivery.id.in_(ids)).order_by(Delivery.id)
    return [ShownDelivery(row[0], row[1]) for row in session.execute(statement)]


def show_delivery(session: Session, delivery: Delivery) -> ShownDelivery:
    """A delivery in detail."""
    organization_id = delivery.organization_id
    is_event = sa.and_(Event.organization_id == organization_id, Event.id == delivery.event_id)
    event = session.scalars(sa.select(Event).where(is_event)).one()
    is_attempt = sa.and_(Attempt.organization_id == organization_id, Attempt.delivery_id == delivery.id)
    attempts = session.scalars(sa.select(Attempt).where(is_attempt).order_by(Attempt.n)).all()
    return ShownDelivery(delivery, event, attempts)


def page_of_events(session: Session, organization_id: UUID, query: Mapping[str, Any]) -> Page:
    """A page of events, newest first.

    query: `event_type`, `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = sa.select(Event).where(Event.organization_id == organization_id)
    if query["event_type"]:
        statement = statement.where(Event.type == query["event_type"])
    if query["cursor"]:
        statement = statement.where(Event.sequence < _sequence(query["cursor"]))
    rows = session.scalars(statement.order_by(Event.sequence.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = encode_cursor(str(kept[-1].sequence)) if len(rows) > query["limit"] else None
    return Page(kept, following, query["limit"])


def organization_of(session: Session, endpoint_id: UUID) -> UUID | None:
    """Whose endpoint it is, unless it was deleted.

    session: of the system
    """
    return session.scalar(
        sa.select(Endpoint.organization_id).where(Endpoint.id == endpoint_id, Endpoint.deleted_at.is_(None))
    )


def _deliveries(organization_id: UUID) -> sa.Select[Delivery, Event]:
    is_carried = sa.and_(Event.organization_id == Delivery.organization_id, Event.id == Delivery.event_id)
    return sa.select(Delivery, Event).join(Event, is_carried).where(Delivery.organization_id == organization_id)


def _health(endpoint: Endpoint, counts: Any) -> Health:
    return Health(
        counts.delivered,
        counts.failed,
        counts.waiting,
        endpoint.consecutive_failures,
        endpoint.first_failure_at,
        endpoint.last_success_at,
    )


def _id(cursor: str) -> UUID:
    try:
        return UUID(hex=decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise _no_cursor() from cause


def _sequence(cursor: str) -> int:
    try:
        sequence = int(decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise _no_cursor() from cause
    if not 0 <= sequence < 1 << 63:
        raise _no_cursor()
    return sequence


def _time_and_id(cursor: str) -> tuple[datetime, UUID]:
    values = decode_cursor(cursor)
    try:
        at, delivery_id = values
        return datetime.fromisoformat(at), UUID(hex=delivery_id)
    except ValueError as cause:
        raise _no_cursor() from cause


def _no_cursor() -> Invalid:
    return Invalid.at("cursor", "Not a cursor of this list.")
