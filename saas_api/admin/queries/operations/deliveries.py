"""Webhooks of every organization: whose wait, which endpoints fail, and one delivery with its attempts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.core.errors import NotFound
from saas_api.core.fields import Page
from saas_api.organizations.models import Organization
from saas_api.webhooks import queries as webhooks
from saas_api.webhooks.models import Delivery, Endpoint, Event
from saas_api.webhooks.queries import ShownDelivery

SHOWN = 100
_BACKLOG = sa.text("""
SELECT d.organization_id, o.name, count(*) AS waiting, count(*) FILTER (WHERE d.next_at <= now()) AS due,
  count(*) FILTER (WHERE d.attempts > 0) AS retrying, min(d.created_at) AS oldest_at,
  count(DISTINCT d.endpoint_id) AS endpoints
FROM webhook_deliveries d JOIN organizations o ON o.id = d.organization_id
WHERE d.status IN ('queued', 'sending')
GROUP BY d.organization_id, o.name ORDER BY count(*) FILTER (WHERE d.next_at <= now()) DESC, count(*) DESC LIMIT :most
""")
# Ids are looked up organization by organization, each by the primary key: nothing else is indexed by them.
_OWNER = sa.text("""
SELECT o.id FROM organizations o
WHERE EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = o.id AND d.id = :id OFFSET 0)
""")


@dataclass(frozen=True)
class Backlog:
    """What waits for one organization.

    due: would be sent now; the others wait for their next try
    retrying: failed at least once
    """

    organization_id: UUID
    name: str
    waiting: int
    due: int
    retrying: int
    oldest_at: datetime
    endpoints: int


@dataclass(frozen=True)
class Opened:
    """An endpoint with its organization and its health."""

    organization_name: str
    shown: webhooks.Shown


def backlog(session: Session) -> list[Backlog]:
    """Organizations with deliveries under way, the most due first."""
    return [Backlog(*row) for row in session.execute(_BACKLOG, {"most": SHOWN})]


def endpoints(session: Session, query: dict[str, Any]) -> Page:
    """A page of (`Endpoint`, name of its organization), the newest first; deleted ones are left out.

    query: limit, cursor, format; health: "failing" (enabled, and the last try failed), "disabled" or None;
        organization_id
    raises: Invalid
    """
    wanted = (
        sa.select(Endpoint, Organization.name)
        .join(Organization, Organization.id == Endpoint.organization_id)
        .where(Endpoint.deleted_at.is_(None))
    )
    if query["health"] == "failing":
        wanted = wanted.where(Endpoint.status == "enabled", Endpoint.consecutive_failures > 0)
    elif query["health"] == "disabled":
        wanted = wanted.where(Endpoint.status != "enabled")
    if query["organization_id"]:
        wanted = wanted.where(Endpoint.organization_id == query["organization_id"])
    return page_of(session, wanted, query, (Endpoint.created_at, Endpoint.id))


def open_endpoint(session: Session, endpoint_id: UUID) -> Opened:
    """An endpoint of whatever organization.

    raises: NotFound
    """
    found = session.execute(
        sa.select(Endpoint, Organization.name)
        .join(Organization, Organization.id == Endpoint.organization_id)
        .where(Endpoint.id == endpoint_id, Endpoint.deleted_at.is_(None))
    ).first()
    if found is None:
        raise NotFound
    return Opened(found[1], webhooks.show(session, found[0].organization_id, [found[0]])[0])


def of_endpoint(session: Session, endpoint: Endpoint, query: dict[str, Any]) -> Page:
    """A page of `ShownDelivery` of an endpoint, newest first.

    query: limit, cursor, format; status
    raises: Invalid
    """
    is_carried = sa.and_(Event.organization_id == Delivery.organization_id, Event.id == Delivery.event_id)
    own = (Delivery.organization_id == endpoint.organization_id, Delivery.endpoint_id == endpoint.id)
    wanted = sa.select(Delivery, Event).join(Event, is_carried).where(*own)
    if query["status"]:
        wanted = wanted.where(Delivery.status == query["status"])
    found = page_of(session, wanted, query, (Delivery.created_at, Delivery.id))
    return Page([ShownDelivery(row[0], row[1]) for row in found.items], found.next_cursor, found.limit)


def open_delivery(session: Session, delivery_id: UUID) -> tuple[ShownDelivery, Endpoint, str]:
    """A delivery of whatever organization with its attempts, its endpoint and the organization's name.

    raises: NotFound
    """
    owner = session.scalar(_OWNER, {"id": delivery_id})
    delivery = session.get(Delivery, (owner, delivery_id)) if owner else None
    if delivery is None:
        raise NotFound
    endpoint = session.get_one(Endpoint, (owner, delivery.endpoint_id))
    return webhooks.show_delivery(session, delivery), endpoint, session.get_one(Organization, owner).name


def repeats(session: Session, delivery: Delivery) -> Sequence[Delivery]:
    """Every delivery of the same event to the same endpoint, the newest first."""
    own = (Delivery.organization_id == delivery.organization_id, Delivery.event_id == delivery.event_id)
    wanted = sa.select(Delivery).where(*own, Delivery.endpoint_id == delivery.endpoint_id)
    return session.scalars(wanted.order_by(Delivery.created_at.desc(), Delivery.id.desc()).limit(SHOWN)).all()
