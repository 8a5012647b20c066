"""Endpoints that have failed for days, or said they are gone, are disabled; their people are told."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.core import clock
from saas_api.core.ids import wire_id
from saas_api.core.tenancy import as_system, transaction
from saas_api.organizations import service as organizations
from saas_api.organizations.queries import recipients
from saas_api.webhooks.models import Endpoint
from saas_api.webhooks.service.endpoints import announce, cancel_queued, note, public_url
from saas_api.webhooks.service.publishing import Subject, publish

FAILING_FOR = timedelta(days=5)
KEPT_DAYS = 30
_FAILING = sa.text("""
SELECT organization_id, id FROM webhook_endpoints WHERE status = 'enabled' AND deleted_at IS NULL
  AND first_failure_at < :since AND (last_success_at IS NULL OR last_success_at < first_failure_at)
""")
_STILL_FAILS = sa.text(f"{_FAILING.text.rstrip()} AND organization_id = :org AND id = :endpoint FOR UPDATE")
_OLD = sa.text("""
DELETE FROM events WHERE ctid = ANY (ARRAY(
  SELECT e.ctid FROM events e WHERE e.created_at < :before AND NOT EXISTS (SELECT FROM webhook_deliveries d
    WHERE d.organization_id = e.organization_id AND d.event_id = e.id AND d.status IN ('queued', 'sending'))
  LIMIT 500))
""")


def disable(session: Session, organization_id: UUID, endpoint_id: UUID, status: str) -> None:
    """Disable an endpoint that still is enabled, cancel what waits for it, and tell its people once.

    session: has announced the change already
    status: "disabled_failing" or "disabled_gone"
    """
    one = sa.select(Endpoint).where(Endpoint.organization_id == organization_id, Endpoint.id == endpoint_id)
    endpoint = session.scalars(one.with_for_update().execution_options(populate_existing=True)).one()
    if endpoint.status != "enabled" or endpoint.deleted_at:
        return
    endpoint.status = status
    session.flush()  # it gets no event of its own
    cancel_queued(session, organization_id, endpoint_id)
    note(session, None, endpoint, "disabled", {"status": status, "failing_since": str(endpoint.first_failure_at)})
    data = {
        "object": "webhook_endpoint",
        "id": wire_id("whe", endpoint_id),
        "status": status,
        "url": public_url(endpoint),
    }
    publish(session, organization_id, "webhook_endpoint.disabled", Subject(endpoint_id, _version()), data)
    organization = organizations.get(session, organization_id)
    for person in recipients(session, organization_id, ("owner", "admin")):
        mail.send(
            session,
            "webhook_disabled",
            person.email,
            organization_id=organization_id,
            name=person.name,
            organization=organization.name,
            url=public_url(endpoint),
            is_gone=status == "disabled_gone",
        )


def _version() -> int:
    """Rises from one disabling of an endpoint to the next."""
    return int(clock.now().timestamp())


def disable_failing() -> int:
    """Disable every endpoint that has failed for five days without one success.

    returns: how many
    """
    values = {"since": clock.now() - FAILING_FOR}
    with as_system("webhooks.clean") as session:
        failing = session.execute(_FAILING, values).all()
    return sum(_disable_failing(row.organization_id, row.id, values) for row in failing)


def _disable_failing(organization_id: UUID, endpoint_id: UUID, since: Mapping[str, Any]) -> bool:
    with transaction(organization_id) as session:
        announce(session, organization_id)
        values = {**since, "org": organization_id, "endpoint": endpoint_id}
        if not session.execute(_STILL_FAILS, values).first():  # it has recovered, or was enabled anew, a moment ago
            return False
        disable(session, organization_id, endpoint_id, "disabled_failing")
    return True


def purge() -> int:
    """Delete events of more than thirty days ago with their deliveries, except what is still on its way.

    returns: how many events
    """
    deleted = 0
    while True:
        with as_system("webhooks.clean") as session:
            result = session.execute(_OLD, {"before": clock.now() - timedelta(days=KEPT_DAYS)})
            count = int(getattr(result, "rowcount", 0))
        deleted += count
        if count < 500:
            return deleted
