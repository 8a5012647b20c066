"""Endpoints: where an organization wants to be told, and what becomes of what waits for them.

Whoever disables or deletes one locks its row FOR UPDATE: transactions that publish hold it FOR KEY SHARE, so what they
queued is seen and canceled, and what comes later finds the endpoint gone. Before it the organization's row is locked,
which others lock before they publish: the other way round two could wait for each other.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, net
from saas_api.core.access import Principal
from saas_api.core.errors import Conflict, Invalid, NotFound
from saas_api.core.ids import new_id
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.webhooks.models import Endpoint

AT_MOST = 10
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('webhooks.endpoints:' || :organization_id, 0))")

_CANCEL = sa.text("""
WITH canceled AS (
  UPDATE webhook_deliveries SET status = 'canceled', next_at = NULL, lease_token = NULL, finished_at = now()
   WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id
     AND (status = 'queued' OR status = 'sending' AND next_at <= now())
  RETURNING id)
UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now() FROM canceled
 WHERE a.organization_id = :organization_id AND a.delivery_id = canceled.id AND a.outcome = 'started'""")


class NoSuchEndpoint(NotFound):
    """There is no such endpoint, or another organization has it."""


class TooManyEndpoints(Conflict):
    """An organization has at most ten endpoints."""

    code, message = "TOO_MANY_ENDPOINTS", f"There are {AT_MOST} endpoints already; delete one first."


class EndpointDisabled(Conflict):
    """Nothing is sent to an endpoint that is disabled or deleted; enable it first."""

    code, message = "ENDPOINT_DISABLED", "This endpoint is disabled; enable it first."


def create(session: Session, by: Principal, facts: Mapping[str, Any]) -> Endpoint:
    """Make an endpoint; it needs a secret yet.

    facts: `url`, `event_types`, `description`, `payload`
    raises: Invalid on a URL nothing may be sent to, TooManyEndpoints
    """
    _check_url(facts["url"])
    announce(session, by.organization_id)
    session.execute(_LOCK, {"organization_id": str(by.organization_id)})
    if _count(session, by.organization_id) >= AT_MOST:
        raise TooManyEndpoints
    endpoint = Endpoint(organization_id=by.organization_id, id=new_id(), created_at=clock.now(), **_kept(facts))
    session.add(endpoint)
    session.flush()  # its secret refers to it
    note(session, by, endpoint, "created", _facts(endpoint))
    return endpoint


def get(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint that is not deleted.

    raises: NoSuchEndpoint
    """
    return _found(session.scalar(_one(organization_id, endpoint_id)))


def hold(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint, for this transaction to change what publishing does not look at.

    raises: NoSuchEndpoint
    """
    return _found(session.scalar(_one(organization_id, endpoint_id).with_for_update(key_share=True)))


def hold_enabled(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint as `hold` gives it, to which something is to be sent.

    raises: NoSuchEndpoint, EndpointDisabled
    """
    endpoint = hold(session, organization_id, endpoint_id)
    if endpoint.status != "enabled":
        raise EndpointDisabled
    return endpoint


def change(
    session: Session, by: Principal, endpoint_id: UUID, changes: Mapping[str, Any], *, reason: str | None = None
) -> Endpoint:
    """Change an endpoint. Disabling cancels what waits; enabling forgets its failures.

    changes: any of `url`, `event_types`, `description`, `payload`, `is_enabled`
    reason: of an operator
    raises: NoSuchEndpoint, Invalid on a URL nothing may be sent to
    """
    if "url" in changes:
        _check_url(changes["url"])
    endpoint = _seize(session, by.organization_id, endpoint_id)
    before = _facts(endpoint)
    for field, value in _kept(changes).items():
        setattr(endpoint, field, value)
    if changes.get("is_enabled") is True:
        endpoint.status, endpoint.in_flight_limit = "enabled", 1
        endpoint.consecutive_failures, endpoint.first_failure_at = 0, None
    elif changes.get("is_enabled") is False:
        endpoint.status = "disabled_manual" if endpoint.status == "enabled" else endpoint.status
        cancel_queued(session, by.organization_id, endpoint_id)
    after = _facts(endpoint)
    changed = [field for field in after if before[field] != after[field]]
    if changed:
        told: dict[str, Any] = {"before": {f: before[f] for f in changed}, "after": {f: after[f] for f in changed}}
        if reason:
            told["reason"] = reason
        note(session, by, endpoint, "changed", told)
    session.flush()
    return endpoint


def delete(session: Session, by: Principal, endpoint_id: UUID) -> Endpoint:
    """End an endpoint; what waits for it is canceled, what is being sent may still arrive.

    raises: NoSuchEndpoint
    """
    endpoint = _seize(session, by.organization_id, endpoint_id)
    endpoint.deleted_at = clock.now()
    endpoint.status = "disabled_manual" if endpoint.status == "enabled" else endpoint.status
    cancel_queued(session, by.organization_id, endpoint_id)
    note(session, by, endpoint, "deleted", _facts(endpoint))
    session.flush()
    return endpoint


def cancel_queued(session: Session, organization_id: UUID, endpoint_id: UUID) -> None:
    """Cancel what waits for an endpoint that has ended, and what a dead process left behind.

    session: holds the endpoint's row
    """
    session.execute(_CANCEL, {"organization_id": organization_id, "endpoint_id": endpoint_id})


def announce(session: Session, organization_id: UUID) -> None:
    """Tell the gate, which knows what events are asked for by name; to be called before an endpoint is locked."""
    organizations.changed(session, organization_id)


def note(
    session: Session, by: Principal | audit.Actor | None, endpoint: Endpoint, verb: str, data: Mapping[str, Any]
) -> None:
    """Write an act on an endpoint into the log of acts.

    by: None for the platform
    """
    actor = audit.actor_of(by) if isinstance(by, Principal) else by or audit.SYSTEM
    target = ("webhook_endpoint", endpoint.id)
    audit.record(session, endpoint.organization_id, actor, f"webhook_endpoint.{verb}", target, data)


def public_url(endpoint: Endpoint) -> str:
    """Its URL as others may read it: a query may hold somebody's token."""
    parts = urlsplit(endpoint.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _facts(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "url": public_url(endpoint),
        "event_types": endpoint.event_types,
        "description": endpoint.description or "",
        "payload": endpoint.payload or "full",
        "status": endpoint.status or "enabled",
    }


def _kept(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of the facts is a column, event types each once."""
    columns = {field: value for field, value in facts.items() if field != "is_enabled"}
    if columns.get("event_types"):
        columns["event_types"] = sorted(set(columns["event_types"]))
    return columns


def _count(session: Session, organization_id: UUID) -> int:
    existing = sa.and_(Endpoint.organization_id == organization_id, Endpoint.deleted_at.is_(None))
    return session.scalars(sa.select(sa.func.count()).select_from(Endpoint).where(existing)).one()


def _check_url(url: str) -> None:
    try:
        net.check_url(url, setting("WEBHOOK_ALLOWED_NETWORKS"))
    except net.Blocked as reason:
        raise Invalid.at("url", str(reason)) from reason


def _one(organization_id: UUID, endpoint_id: UUID) -> sa.Select[Endpoint]:
    is_it = sa.and_(Endpoint.organization_id == organization_id, Endpoint.id == endpoint_id)
    return sa.select(Endpoint).where(is_it, Endpoint.deleted_at.is_(None)).execution_options(populate_existing=True)


def _seize(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    announce(session, organization_id)
    return _found(session.scalar(_one(organization_id, endpoint_id).with_for_update()))


def _found(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise NoSuchEndpoint
    return endpoint
