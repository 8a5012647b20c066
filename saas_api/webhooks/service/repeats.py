"""Sending again, and trying: deliveries that people ask for. A repeat carries the event's own id and text."""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, queue
from saas_api.core.access import Principal
from saas_api.core.errors import NotFound
from saas_api.core.ids import new_id, wire_id
from saas_api.organizations.service import audit
from saas_api.webhooks import rules
from saas_api.webhooks.models import Delivery, Endpoint, Event
from saas_api.webhooks.service.endpoints import EndpointDisabled, NoSuchEndpoint, hold_enabled, note
from saas_api.webhooks.service.publishing import DRAIN, WANTS

TRIAL_VERSION = -1
"""Version of the subject of an event that somebody made up to try an endpoint; nothing recovers it."""
_REPLAY = sa.text(f"""
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, next_at)
SELECT e.organization_id, e.id, w.id, 'replay', now() FROM events e JOIN webhook_endpoints w USING (organization_id)
 WHERE e.organization_id = :organization_id AND e.id = :event_id AND w.status = 'enabled' AND w.deleted_at IS NULL
   AND CASE WHEN e.subject_version >= 0 THEN {WANTS}
       ELSE EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                      AND d.event_id = e.id AND d.endpoint_id = w.id) END
   FOR KEY SHARE OF w
RETURNING id""")


class NoSuchDelivery(NotFound):
    """There is no such delivery, or another organization has it."""


class NoSuchEvent(NotFound):
    """There is no such event any more, or another organization has it; events are kept for 30 days."""


def get_delivery(session: Session, organization_id: UUID, delivery_id: UUID) -> Delivery:
    """A delivery.

    raises: NoSuchDelivery
    """
    is_it = sa.and_(Delivery.organization_id == organization_id, Delivery.id == delivery_id)
    delivery = session.scalar(sa.select(Delivery).where(is_it))
    if delivery is None:
        raise NoSuchDelivery
    return delivery


def resend(session: Session, by: Principal, delivery_id: UUID, *, reason: str | None = None) -> Delivery:
    """Send what a delivery carried once more, to the same endpoint, as a new delivery.

    reason: of an operator
    raises: NoSuchDelivery, EndpointDisabled
    """
    old = get_delivery(session, by.organization_id, delivery_id)
    try:
        endpoint = hold_enabled(session, by.organization_id, old.endpoint_id)
    except NoSuchEndpoint as cause:
        raise EndpointDisabled("This endpoint was deleted.") from cause
    new = _queue(session, endpoint, old.event_id, "replay")
    target, data = ("webhook_delivery", delivery_id), {"new_delivery_id": wire_id("whd", new.id)}
    if reason:
        data["reason"] = reason
    audit.record(session, by.organization_id, audit.actor_of(by), "webhook_delivery.resent", target, data)
    return new


def replay(session: Session, by: Principal, event_id: UUID) -> list[UUID]:
    """Send an event anew to every endpoint that wants its type.

    returns: ids of the deliveries
    raises: NoSuchEvent
    """
    is_it = sa.and_(Event.organization_id == by.organization_id, Event.id == event_id)
    if session.scalar(sa.select(Event.id).where(is_it)) is None:
        raise NoSuchEvent
    values = {"organization_id": by.organization_id, "event_id": event_id}
    made = list(session.scalars(_REPLAY, values))
    queue.enqueue(session, DRAIN)
    data = {"deliveries": len(made)}
    audit.record(
        session, by.organization_id, audit.actor_of(by), "webhook_event.replayed", ("webhook_event", event_id), data
    )
    return made


def try_out(session: Session, by: Principal, endpoint_id: UUID, kind: str) -> Delivery:
    """Send an endpoint an example of an event, whether or not it wants the type; it is an event like any other.

    kind: of the event
    raises: NoSuchEndpoint, EndpointDisabled
    """
    endpoint = hold_enabled(session, by.organization_id, endpoint_id)
    event_id, trial_id, now = new_id(), new_id(), clock.now()
    data: dict[str, Any] = rules.CATALOGUE[kind].example["data"]
    if kind == rules.TEST:
        data = {**data, "id": wire_id("tst", trial_id)}
    event = Event(
        organization_id=by.organization_id,
        id=event_id,
        type=kind,
        payload=rules.payload(event_id, kind, now, by.organization_id, data, mode="test"),
        subject_id=trial_id,
        subject_version=TRIAL_VERSION,
        created_at=now,
    )
    session.add(event)
    session.flush()  # the delivery refers to it
    note(session, by, endpoint, "tested", {"event_type": kind})
    return _queue(session, endpoint, event_id, "test")


def _queue(session: Session, endpoint: Endpoint, event_id: UUID, cause: str) -> Delivery:
    delivery = Delivery(
        organization_id=endpoint.organization_id,
        id=new_id(),
        event_id=event_id,
        endpoint_id=endpoint.id,
        cause=cause,
        next_at=sa.func.now(),
    )
    session.add(delivery)
    session.flush()
    queue.enqueue(session, DRAIN)
    return delivery
