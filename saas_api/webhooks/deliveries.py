"""Deliveries of an organization: lists, and sending again by resend, replay, recovery and test event."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor
from saas_api.core import clock, ids
from saas_api.core.access import KeyMode, Principal
from saas_api.core.db import pagination, types
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.jobs import queue
from saas_api.webhooks import endpoints, event_types, models, payload
from saas_api.webhooks.endpoints import EndpointDisabled, EndpointNotFound
from saas_api.webhooks.event_types import TEST_EVENT_TYPE
from saas_api.webhooks.events import DRAIN_JOB, IS_SUBSCRIBED_CLAUSE
from saas_api.webhooks.models import Attempt, Delivery, DeliveryCause, Endpoint, Event

MAX_RECOVERY_WINDOW = timedelta(days=30)
TEST_EVENT_VERSION = -1
"""Version of the subject of test events and examples, which no recovery sends again."""
_CLOCK_TOLERANCE = timedelta(minutes=5)  # "30 days ago" was computed a moment ago, on another clock


class DeliveryNotFound(NotFound):
    """There is no such delivery, or another organization has it."""


class EventNotFound(NotFound):
    """There is no such event any more, or another organization has it; events are kept for 30 days."""


@dataclass(frozen=True)
class DeliveryView:
    """A delivery with its event.

    attempts: empty in lists
    """

    delivery: Delivery
    event: Event
    attempts: Sequence[Attempt] = ()

    @property
    def payload(self) -> Any:
        """The full payload of the event."""
        return orjson.loads(self.event.payload)


def list_deliveries(
    session: Session,
    organization_id: UUID,
    endpoint_id: UUID,
    request: PageRequest,
    *,
    status: str | None = None,
    event_type: str | None = None,
    event_id: UUID | None = None,
) -> Page:
    """Return a page of an endpoint's deliveries as `DeliveryView` without attempts, newest first.

    status: a `DeliveryState`
    raises: ValidationFailed for a cursor of another list
    """
    statement = _select_with_event(organization_id).where(Delivery.endpoint_id == endpoint_id)
    if status:
        statement = statement.where(models.is_in_state(status))
    if event_type:
        statement = statement.where(Event.type == event_type)
    if event_id:
        statement = statement.where(Delivery.event_id == event_id)
    keys = Delivery.created_at.desc(), Delivery.id.desc()
    return pagination.paginate(
        session, statement, *keys, request=request, convert=lambda row: DeliveryView(row[0], row[1])
    )


def list_latest(session: Session, organization_id: UUID, limit: int) -> list[DeliveryView]:
    """Return deliveries of every endpoint without their attempts, newest first."""
    newest_first = Delivery.created_at.desc(), Delivery.id.desc()
    rows = session.execute(_select_with_event(organization_id).order_by(*newest_first).limit(limit))
    return [DeliveryView(row[0], row[1]) for row in rows]


def list_delivery_views(session: Session, organization_id: UUID, delivery_ids: Sequence[UUID]) -> list[DeliveryView]:
    """Return deliveries without their attempts, sorted by id."""
    statement = _select_with_event(organization_id).where(Delivery.id.in_(delivery_ids)).order_by(Delivery.id)
    return [DeliveryView(row[0], row[1]) for row in session.execute(statement)]


def get_delivery(session: Session, organization_id: UUID, delivery_id: UUID) -> Delivery:
    """Return a delivery.

    raises: DeliveryNotFound
    """
    is_match = sa.and_(Delivery.organization_id == organization_id, Delivery.id == delivery_id)
    delivery = session.scalar(sa.select(Delivery).where(is_match))
    if delivery is None:
        raise DeliveryNotFound
    return delivery


def get_delivery_view(session: Session, delivery: Delivery) -> DeliveryView:
    """Return a delivery with its attempts, the first one first."""
    organization_id = delivery.organization_id
    is_event = sa.and_(Event.organization_id == organization_id, Event.id == delivery.event_id)
    event = session.scalars(sa.select(Event).where(is_event)).one()
    is_attempt = sa.and_(Attempt.organization_id == organization_id, Attempt.delivery_id == delivery.id)
    attempts = session.scalars(sa.select(Attempt).where(is_attempt).order_by(Attempt.n)).all()
    return DeliveryView(delivery, event, attempts)


def _select_with_event(organization_id: UUID) -> sa.Select[Delivery, Event]:
    is_event = sa.and_(Event.organization_id == Delivery.organization_id, Event.id == Delivery.event_id)
    return sa.select(Delivery, Event).join(Event, is_event).where(Delivery.organization_id == organization_id)


_RECOVER = sa.text(f"""
WITH known AS (
  SELECT event_id, bool_or(status IN ('delivered', 'queued', 'sending')) AS is_settled
    FROM webhook_deliveries WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id GROUP BY event_id)
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, next_at)
SELECT e.organization_id, e.id, w.id, 'replay', now()
  FROM events e JOIN webhook_endpoints w ON w.organization_id = e.organization_id AND w.id = :endpoint_id
  LEFT JOIN known ON known.event_id = e.id
 WHERE e.organization_id = :organization_id AND e.created_at >= :since AND e.created_at < :until
   AND e.subject_version >= 0
   AND CASE WHEN known.event_id IS NULL THEN :is_missing AND {IS_SUBSCRIBED_CLAUSE}
       ELSE :is_failed AND NOT known.is_settled END
 ORDER BY e.sequence""")
_MAKE_DUE_NOW = sa.text("""
UPDATE webhook_deliveries d SET next_at = now() FROM events e
 WHERE d.organization_id = :organization_id AND d.endpoint_id = :endpoint_id AND d.status = 'queued'
   AND d.attempts > 0 AND d.next_at > now() AND e.organization_id = d.organization_id AND e.id = d.event_id
   AND e.created_at >= :since AND e.created_at < :until AND e.subject_version >= 0 AND :is_failed""")


def recover_endpoint(
    session: Session,
    by: Principal | Actor | None,
    organization_id: UUID,
    endpoint_id: UUID,
    since: datetime,
    until: datetime | None = None,
    which: str = "all",
) -> int:
    """Queue the events of a time that an endpoint has not received. A repeat queues nothing more.

    by: None for the platform
    since, until: range of `created_at` of the events, the end excluded; until now when `until` is None
    which: "failed" for events with failed, canceled or retried deliveries only; "missing" for events without a
        delivery; "all" for both
    returns: number of deliveries that are due now
    raises: ValidationFailed for a range over MAX_RECOVERY_WINDOW, EndpointNotFound, EndpointDisabled
    """
    ends_at = until or clock.now()
    if since >= ends_at:
        raise ValidationFailed.at_field("since", "Must lie before the end.")
    if ends_at - since > MAX_RECOVERY_WINDOW + _CLOCK_TOLERANCE:
        raise ValidationFailed.at_field("since", "Must lie at most 30 days before the end.")
    endpoint = endpoints.lock_enabled_endpoint(session, organization_id, endpoint_id)
    values = {
        "organization_id": organization_id,
        "endpoint_id": endpoint_id,
        "since": since,
        "until": ends_at,
        "is_missing": which != "failed",
        "is_failed": which != "missing",
        "explicit_only": event_types.explicit_only_names(),
    }
    count = sum(session.connection().execute(statement, values).rowcount for statement in (_MAKE_DUE_NOW, _RECOVER))
    if count:
        queue.enqueue(session, DRAIN_JOB)
    audit_data = {
        "since": clock.format_rfc3339(since),
        "until": clock.format_rfc3339(ends_at),
        "only": which,
        "deliveries": count,
    }
    endpoints.record_endpoint_event(session, by, endpoint, "recovered", audit_data)
    return count


def resend_delivery(session: Session, by: Principal, delivery_id: UUID, *, reason: str | None = None) -> Delivery:
    """Queue a new delivery of the same event to the same endpoint.

    reason: of an operator, for the audit log
    raises: DeliveryNotFound, EndpointDisabled
    """
    old = get_delivery(session, by.organization_id, delivery_id)
    try:
        endpoint = endpoints.lock_enabled_endpoint(session, by.organization_id, old.endpoint_id)
    except EndpointNotFound as cause:
        raise EndpointDisabled("This endpoint was deleted.") from cause
    new = _queue_delivery(session, endpoint, old.event_id, DeliveryCause.REPLAY)
    _record_resend(session, by, delivery_id, new.id, reason)
    return new


@dataclass(frozen=True)
class SkippedDelivery:
    """A delivery that was not resent.

    reason: "not_found" or "endpoint_disabled"
    """

    delivery_id: UUID
    reason: str


@dataclass(frozen=True)
class ResentDeliveries:
    """New deliveries as `DeliveryView`, sorted by id, and those that were not resent."""

    deliveries: Sequence[DeliveryView]
    skipped: Sequence[SkippedDelivery]

    @property
    def count(self) -> int:
        """Number of new deliveries."""
        return len(self.deliveries)


_RESEND = sa.text("""
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, next_at)
SELECT w.organization_id, d.event_id, w.id, 'replay', now()
  FROM unnest(CAST(:event_ids AS uuid[]), CAST(:endpoint_ids AS uuid[])) AS d (event_id, endpoint_id)
  JOIN webhook_endpoints w ON w.organization_id = :organization_id AND w.id = d.endpoint_id
 WHERE w.status = 'enabled' AND w.deleted_at IS NULL
   FOR KEY SHARE OF w
RETURNING id, event_id, endpoint_id""")


def resend_deliveries(
    session: Session, by: Principal, delivery_ids: Sequence[UUID], *, reason: str | None = None
) -> ResentDeliveries:
    """Queue a new delivery for each of several, or one for those of the same event to the same endpoint.

    Deliveries of disabled and deleted endpoints, and ids of none, are skipped.
    reason: of an operator, for the audit log
    """
    columns = (Delivery.id, Delivery.event_id, Delivery.endpoint_id)
    is_chosen = sa.and_(Delivery.organization_id == by.organization_id, Delivery.id.in_(delivery_ids))
    found = {row.id: (row.event_id, row.endpoint_id) for row in session.execute(sa.select(*columns).where(is_chosen))}
    pairs = list(dict.fromkeys(found.values()))
    values = {
        "organization_id": by.organization_id,
        "event_ids": types.uuid_array([event_id for event_id, _ in pairs]),
        "endpoint_ids": types.uuid_array([endpoint_id for _, endpoint_id in pairs]),
    }
    new_ids = {(row.event_id, row.endpoint_id): row.id for row in session.execute(_RESEND, values)}
    for delivery_id, pair in found.items():
        if pair in new_ids:
            _record_resend(session, by, delivery_id, new_ids[pair], reason)
    if new_ids:
        queue.enqueue(session, DRAIN_JOB)
    skipped = [
        SkippedDelivery(delivery_id, "endpoint_disabled" if delivery_id in found else "not_found")
        for delivery_id in dict.fromkeys(delivery_ids)
        if found.get(delivery_id) not in new_ids
    ]
    return ResentDeliveries(list_delivery_views(session, by.organization_id, list(new_ids.values())), skipped)


def _record_resend(session: Session, by: Principal, old_id: UUID, new_id: UUID, reason: str | None = None) -> None:
    data = {"new_delivery_id": ids.format_id("whd", new_id)}
    if reason:
        data["reason"] = reason
    target = ("webhook_delivery", old_id)
    audit.record_event(session, by.organization_id, audit.actor_for(by), "webhook_delivery.resent", target, data)


_REPLAY = sa.text(f"""
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, next_at)
SELECT e.organization_id, e.id, w.id, 'replay', now() FROM events e JOIN webhook_endpoints w USING (organization_id)
 WHERE e.organization_id = :organization_id AND e.id = :event_id AND w.status = 'enabled' AND w.deleted_at IS NULL
   AND CASE WHEN e.subject_version >= 0 THEN {IS_SUBSCRIBED_CLAUSE}
       ELSE EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                      AND d.event_id = e.id AND d.endpoint_id = w.id) END
   FOR KEY SHARE OF w
RETURNING id""")


def replay_event(session: Session, by: Principal, event_id: UUID) -> list[UUID]:
    """Queue a new delivery of an event to every endpoint that is subscribed to its type now.

    A test event goes to its endpoint only.
    returns: ids of the deliveries
    raises: EventNotFound
    """
    is_match = sa.and_(Event.organization_id == by.organization_id, Event.id == event_id)
    if session.scalar(sa.select(Event.id).where(is_match)) is None:
        raise EventNotFound
    values = {
        "organization_id": by.organization_id,
        "event_id": event_id,
        "explicit_only": event_types.explicit_only_names(),
    }
    delivery_ids = list(session.scalars(_REPLAY, values))
    queue.enqueue(session, DRAIN_JOB)
    target, data = ("webhook_event", event_id), {"deliveries": len(delivery_ids)}
    audit.record_event(session, by.organization_id, audit.actor_for(by), "webhook_event.replayed", target, data)
    return delivery_ids


def send_test_event(session: Session, by: Principal, endpoint_id: UUID, event_type: str) -> Delivery:
    """Store the example of an event type as an event, and queue its delivery to one endpoint, subscribed or not.

    event_type: TEST_EVENT_TYPE for a live endpoint, whose receiver would take other examples for real
    raises: EndpointNotFound, EndpointDisabled, ValidationFailed
    """
    endpoint = endpoints.lock_enabled_endpoint(session, by.organization_id, endpoint_id)
    if endpoint.mode == KeyMode.LIVE and event_type != TEST_EVENT_TYPE:
        raise ValidationFailed.at_field("event_type", f"A live endpoint can be sent {TEST_EVENT_TYPE} only.")
    event_id, subject_id, now = ids.new_id(), ids.new_id(), clock.now()
    data: dict[str, Any] = event_types.get_type(event_type).example["data"]
    if event_type == TEST_EVENT_TYPE:
        data = {**data, "id": ids.format_id("tst", subject_id)}
    event = Event(
        organization_id=by.organization_id,
        id=event_id,
        type=event_type,
        mode=endpoint.mode,
        payload=payload.build_payload(event_id, event_type, now, by.organization_id, data, mode=endpoint.mode),
        subject_id=subject_id,
        subject_version=TEST_EVENT_VERSION,
        created_at=now,
    )
    session.add(event)
    session.flush()  # the delivery refers to it
    endpoints.record_endpoint_event(session, by, endpoint, "tested", {"event_type": event_type})
    return _queue_delivery(session, endpoint, event_id, DeliveryCause.TEST)


def _queue_delivery(session: Session, endpoint: Endpoint, event_id: UUID, cause: DeliveryCause) -> Delivery:
    delivery = Delivery(
        organization_id=endpoint.organization_id,
        id=ids.new_id(),
        event_id=event_id,
        endpoint_id=endpoint.id,
        cause=cause,
        next_at=sa.func.now(),
    )
    session.add(delivery)
    session.flush()
    queue.enqueue(session, DRAIN_JOB)
    return delivery
