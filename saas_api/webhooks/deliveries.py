"""List and get deliveries, resend, replay, recover, send_test_event."""

from collections.abc import Mapping, Sequence
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
from saas_api.core.access import Principal
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.jobs import queue
from saas_api.webhooks import endpoints, event_types, payload
from saas_api.webhooks.endpoints import EndpointDisabled, EndpointNotFound
from saas_api.webhooks.event_types import TEST_EVENT_TYPE
from saas_api.webhooks.events import DRAIN_JOB, SUBSCRIBES_CLAUSE
from saas_api.webhooks.models import Attempt, Delivery, Endpoint, Event


@dataclass(frozen=True)
class DeliveryView:
    """A delivery with what it carries, and in detail with its attempts."""

    delivery: Delivery
    event: Event
    attempts: Sequence[Attempt] = ()

    @property
    def payload(self) -> Any:
        """The event as it is sent."""
        return orjson.loads(self.event.payload)


def list_deliveries(session: Session, organization_id: UUID, endpoint_id: UUID, query: Mapping[str, Any]) -> Page:
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
        statement = statement.where(
            sa.tuple_(Delivery.created_at, Delivery.id) < pagination.decode_time_and_id(query["cursor"])
        )
    newest_first = statement.order_by(Delivery.created_at.desc(), Delivery.id.desc())
    rows = session.execute(newest_first.limit(query["limit"] + 1)).all()
    kept = [DeliveryView(row[0], row[1]) for row in rows[: query["limit"]]]
    following = None
    if len(rows) > query["limit"]:
        last = kept[-1].delivery
        following = pagination.encode_cursor(last.created_at.isoformat(), last.id.hex)
    return Page(kept, following, query["limit"])


def list_delivery_views(session: Session, organization_id: UUID, ids: Sequence[UUID]) -> list[DeliveryView]:
    """Deliveries by their ids, without their attempts."""
    statement = _deliveries(organization_id).where(Delivery.id.in_(ids)).order_by(Delivery.id)
    return [DeliveryView(row[0], row[1]) for row in session.execute(statement)]


def get_delivery_view(session: Session, delivery: Delivery) -> DeliveryView:
    """A delivery in detail."""
    organization_id = delivery.organization_id
    is_event = sa.and_(Event.organization_id == organization_id, Event.id == delivery.event_id)
    event = session.scalars(sa.select(Event).where(is_event)).one()
    is_attempt = sa.and_(Attempt.organization_id == organization_id, Attempt.delivery_id == delivery.id)
    attempts = session.scalars(sa.select(Attempt).where(is_attempt).order_by(Attempt.n)).all()
    return DeliveryView(delivery, event, attempts)


def _deliveries(organization_id: UUID) -> sa.Select[Delivery, Event]:
    is_carried = sa.and_(Event.organization_id == Delivery.organization_id, Event.id == Delivery.event_id)
    return sa.select(Delivery, Event).join(Event, is_carried).where(Delivery.organization_id == organization_id)


MAX_RECOVERY_WINDOW = timedelta(days=30)
_SLACK = timedelta(minutes=5)  # "thirty days ago" was computed a moment ago, on another clock
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
   AND CASE WHEN known.event_id IS NULL THEN :is_missing AND {SUBSCRIBES_CLAUSE} ELSE :is_failed AND NOT known.is_settled END
 ORDER BY e.sequence""")
_MAKE_DUE_NOW = sa.text("""
UPDATE webhook_deliveries d SET next_at = now() FROM events e
 WHERE d.organization_id = :organization_id AND d.endpoint_id = :endpoint_id AND d.status = 'queued'
   AND d.attempts > 0 AND d.next_at > now() AND e.organization_id = d.organization_id AND e.id = d.event_id
   AND e.created_at >= :since AND e.created_at < :until AND e.subject_version >= 0 AND :is_failed""")


def recover_endpoint(
    session: Session,
    by: Principal | Actor | None,
    target: tuple[UUID, UUID],
    since: datetime,
    until: datetime | None = None,
    which: str = "all",
) -> int:
    """Queue what an endpoint missed; what it got is left alone. A repeat finds nothing new.

    by: None for the platform
    target: organization and endpoint
    since, until: instants, the second one excluded; None for now
    which: "failed" for what was tried in vain, is between two tries, or was canceled; "missing" for what was never
        tried; "all" for both
    returns: how many deliveries are on their way for it
    raises: Invalid for a span of over 30 days, NoSuchEndpoint, EndpointDisabled
    """
    ends_at = until or clock.now()
    if since >= ends_at:
        raise ValidationFailed.at_field("since", "Must lie before the end.")
    if ends_at - since > MAX_RECOVERY_WINDOW + _SLACK:
        raise ValidationFailed.at_field("since", "Must lie at most 30 days before the end.")
    organization_id, endpoint_id = target
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
    asked = {
        "since": clock.format_rfc3339(since),
        "until": clock.format_rfc3339(ends_at),
        "only": which,
        "deliveries": count,
    }
    endpoints.record_endpoint_event(session, by, endpoint, "recovered", asked)
    return count


TEST_EVENT_VERSION = -1
"""Version of the subject of an event that somebody made up to try an endpoint; nothing recovers it."""
_REPLAY = sa.text(f"""
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, next_at)
SELECT e.organization_id, e.id, w.id, 'replay', now() FROM events e JOIN webhook_endpoints w USING (organization_id)
 WHERE e.organization_id = :organization_id AND e.id = :event_id AND w.status = 'enabled' AND w.deleted_at IS NULL
   AND CASE WHEN e.subject_version >= 0 THEN {SUBSCRIBES_CLAUSE}
       ELSE EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                      AND d.event_id = e.id AND d.endpoint_id = w.id) END
   FOR KEY SHARE OF w
RETURNING id""")


class DeliveryNotFound(NotFound):
    """There is no such delivery, or another organization has it."""


class EventNotFound(NotFound):
    """There is no such event any more, or another organization has it; events are kept for 30 days."""


def get_delivery(session: Session, organization_id: UUID, delivery_id: UUID) -> Delivery:
    """A delivery.

    raises: NoSuchDelivery
    """
    is_it = sa.and_(Delivery.organization_id == organization_id, Delivery.id == delivery_id)
    delivery = session.scalar(sa.select(Delivery).where(is_it))
    if delivery is None:
        raise DeliveryNotFound
    return delivery


def resend_delivery(session: Session, by: Principal, delivery_id: UUID, *, reason: str | None = None) -> Delivery:
    """Send what a delivery carried once more, to the same endpoint, as a new delivery.

    reason: of an operator
    raises: NoSuchDelivery, EndpointDisabled
    """
    old = get_delivery(session, by.organization_id, delivery_id)
    try:
        endpoint = endpoints.lock_enabled_endpoint(session, by.organization_id, old.endpoint_id)
    except EndpointNotFound as cause:
        raise EndpointDisabled("This endpoint was deleted.") from cause
    new = _queue(session, endpoint, old.event_id, "replay")
    target, data = ("webhook_delivery", delivery_id), {"new_delivery_id": ids.format_id("whd", new.id)}
    if reason:
        data["reason"] = reason
    audit.record_event(session, by.organization_id, audit.actor_for(by), "webhook_delivery.resent", target, data)
    return new


def replay_event(session: Session, by: Principal, event_id: UUID) -> list[UUID]:
    """Send an event anew to every endpoint that wants its type.

    returns: ids of the deliveries
    raises: NoSuchEvent
    """
    is_it = sa.and_(Event.organization_id == by.organization_id, Event.id == event_id)
    if session.scalar(sa.select(Event.id).where(is_it)) is None:
        raise EventNotFound
    values = {
        "organization_id": by.organization_id,
        "event_id": event_id,
        "explicit_only": event_types.explicit_only_names(),
    }
    made = list(session.scalars(_REPLAY, values))
    queue.enqueue(session, DRAIN_JOB)
    data = {"deliveries": len(made)}
    audit.record_event(
        session, by.organization_id, audit.actor_for(by), "webhook_event.replayed", ("webhook_event", event_id), data
    )
    return made


def send_test_event(session: Session, by: Principal, endpoint_id: UUID, kind: str) -> Delivery:
    """Send an endpoint an example of an event, whether or not it wants the type; it is an event like any other.

    kind: of the event
    raises: NoSuchEndpoint, EndpointDisabled
    """
    endpoint = endpoints.lock_enabled_endpoint(session, by.organization_id, endpoint_id)
    event_id, trial_id, now = ids.new_id(), ids.new_id(), clock.now()
    data: dict[str, Any] = event_types.get_type(kind).example["data"]
    if kind == TEST_EVENT_TYPE:
        data = {**data, "id": ids.format_id("tst", trial_id)}
    event = Event(
        organization_id=by.organization_id,
        id=event_id,
        type=kind,
        payload=payload.build_payload(event_id, kind, now, by.organization_id, data, mode="test"),
        subject_id=trial_id,
        subject_version=TEST_EVENT_VERSION,
        created_at=now,
    )
    session.add(event)
    session.flush()  # the delivery refers to it
    endpoints.record_endpoint_event(session, by, endpoint, "tested", {"event_type": kind})
    return _queue(session, endpoint, event_id, "test")


def _queue(session: Session, endpoint: Endpoint, event_id: UUID, cause: str) -> Delivery:
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
