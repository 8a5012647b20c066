"""Endpoints with health: list, create, update, disable, delete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.core.net import vetting
from saas_api.core.net.vetting import AddressNotAllowed
from saas_api.core.settings import setting
from saas_api.mail import mails
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject
from saas_api.webhooks.models import Endpoint

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
class EndpointHealth:
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
class EndpointView:
    """An endpoint as its organization sees it.

    secret: of a new one, this once
    """

    endpoint: Endpoint
    health: EndpointHealth
    secret: str | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether anything is sent to it."""
        return self.endpoint.status == "enabled" and self.endpoint.deleted_at is None


def list_endpoints(session: Session, organization_id: UUID, query: Mapping[str, Any]) -> Page:
    """A page of endpoints that are not deleted, newest first.

    query: `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = sa.select(Endpoint).where(Endpoint.organization_id == organization_id, Endpoint.deleted_at.is_(None))
    if query["cursor"]:
        statement = statement.where(Endpoint.id < pagination.decode_id(query["cursor"]))
    rows = session.scalars(statement.order_by(Endpoint.id.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = pagination.encode_cursor(kept[-1].id.hex) if len(rows) > query["limit"] else None
    return Page(list_endpoint_views(session, organization_id, kept), following, query["limit"])


def list_endpoint_views(session: Session, organization_id: UUID, endpoints: Sequence[Endpoint]) -> list[EndpointView]:
    """Endpoints with their health, in the same order."""
    ids = [endpoint.id for endpoint in endpoints]
    values = {"organization_id": organization_id, "ids": ids}
    counts = {row.id: row for row in session.execute(_HEALTH, values)} if ids else {}
    return [EndpointView(endpoint, _health(endpoint, counts[endpoint.id])) for endpoint in endpoints]


def find_endpoint_organization(session: Session, endpoint_id: UUID) -> UUID | None:
    """Whose endpoint it is, unless it was deleted.

    session: of the system
    """
    return session.scalar(
        sa.select(Endpoint.organization_id).where(Endpoint.id == endpoint_id, Endpoint.deleted_at.is_(None))
    )


def _health(endpoint: Endpoint, counts: Any) -> EndpointHealth:
    return EndpointHealth(
        counts.delivered,
        counts.failed,
        counts.waiting,
        endpoint.consecutive_failures,
        endpoint.first_failure_at,
        endpoint.last_success_at,
    )


DISABLE_AFTER = timedelta(days=5)
_FAILING = sa.text("""
SELECT organization_id, id FROM webhook_endpoints WHERE status = 'enabled' AND deleted_at IS NULL
  AND first_failure_at < :since AND (last_success_at IS NULL OR last_success_at < first_failure_at)
""")
_STILL_FAILS = sa.text(f"{_FAILING.text.rstrip()} AND organization_id = :org AND id = :endpoint FOR UPDATE")


def disable_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID, status: str) -> None:
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
    cancel_pending_deliveries(session, organization_id, endpoint_id)
    record_endpoint_event(
        session, None, endpoint, "disabled", {"status": status, "failing_since": str(endpoint.first_failure_at)}
    )
    event_data = {"endpoint": endpoint, "redacted_url": redacted_url(endpoint)}
    data = event_types.dump_data("webhook_endpoint.disabled", event_data)
    events.publish(session, organization_id, "webhook_endpoint.disabled", EventSubject(endpoint_id, _version()), data)
    organization = organizations.get(session, organization_id)
    for person in members.list_recipients(session, organization_id, ("owner", "admin")):
        mails.enqueue(
            session,
            "webhook_disabled",
            person.email,
            organization_id=organization_id,
            name=person.name,
            organization=organization.name,
            url=redacted_url(endpoint),
            is_gone=status == "disabled_gone",
        )


def _version() -> int:
    """Rises from one disabling of an endpoint to the next."""
    return int(clock.now().timestamp())


def disable_failing_endpoints() -> int:
    """Disable every endpoint that has failed for five days without one success.

    returns: how many
    """
    values = {"since": clock.now() - DISABLE_AFTER}
    with tenancy.system_session("webhooks.clean") as session:
        failing = session.execute(_FAILING, values).all()
    return sum(_disable_failing(row.organization_id, row.id, values) for row in failing)


def _disable_failing(organization_id: UUID, endpoint_id: UUID, since: Mapping[str, Any]) -> bool:
    with tenancy.tenant_session(organization_id) as session:
        announce(session, organization_id)
        values = {**since, "org": organization_id, "endpoint": endpoint_id}
        if not session.execute(_STILL_FAILS, values).first():  # it has recovered, or was enabled anew, a moment ago
            return False
        disable_endpoint(session, organization_id, endpoint_id, "disabled_failing")
    return True


MAX_ENDPOINTS = 10
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('webhooks.endpoints:' || :organization_id, 0))")

_CANCEL = sa.text("""
WITH canceled AS (
  UPDATE webhook_deliveries SET status = 'canceled', next_at = NULL, lease_token = NULL, finished_at = now()
   WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id
     AND (status = 'queued' OR status = 'sending' AND next_at <= now())
  RETURNING id)
UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now() FROM canceled
 WHERE a.organization_id = :organization_id AND a.delivery_id = canceled.id AND a.outcome = 'started'""")


class EndpointNotFound(NotFound):
    """There is no such endpoint, or another organization has it."""


class TooManyEndpoints(Conflict):
    """An organization has at most ten endpoints."""

    code, message = "TOO_MANY_ENDPOINTS", f"There are {MAX_ENDPOINTS} endpoints already; delete one first."


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
    if _count(session, by.organization_id) >= MAX_ENDPOINTS:
        raise TooManyEndpoints
    endpoint = Endpoint(
        organization_id=by.organization_id, id=ids.new_id(), created_at=clock.now(), **_stored_events(facts)
    )
    session.add(endpoint)
    session.flush()  # its secret refers to it
    record_endpoint_event(session, by, endpoint, "created", _audit_data(endpoint))
    return endpoint


def get(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint that is not deleted.

    raises: NoSuchEndpoint
    """
    return _get(session.scalar(_find(organization_id, endpoint_id)))


def lock_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint, for this transaction to change what publishing does not look at.

    raises: NoSuchEndpoint
    """
    return _get(session.scalar(_find(organization_id, endpoint_id).with_for_update(key_share=True)))


def lock_enabled_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """An endpoint as `hold` gives it, to which something is to be sent.

    raises: NoSuchEndpoint, EndpointDisabled
    """
    endpoint = lock_endpoint(session, organization_id, endpoint_id)
    if endpoint.status != "enabled":
        raise EndpointDisabled
    return endpoint


def update_endpoint(
    session: Session, by: Principal, endpoint_id: UUID, changes: Mapping[str, Any], *, reason: str | None = None
) -> Endpoint:
    """Change an endpoint. Disabling cancels what waits; enabling forgets its failures.

    changes: any of `url`, `event_types`, `description`, `payload`, `is_enabled`
    reason: of an operator
    raises: NoSuchEndpoint, Invalid on a URL nothing may be sent to
    """
    if "url" in changes:
        _check_url(changes["url"])
    endpoint = _lock_for_change(session, by.organization_id, endpoint_id)
    before = _audit_data(endpoint)
    for field, value in _stored_events(changes).items():
        setattr(endpoint, field, value)
    if changes.get("is_enabled") is True:
        endpoint.status, endpoint.in_flight_limit = "enabled", 1
        endpoint.consecutive_failures, endpoint.first_failure_at = 0, None
    elif changes.get("is_enabled") is False:
        endpoint.status = "disabled_manual" if endpoint.status == "enabled" else endpoint.status
        cancel_pending_deliveries(session, by.organization_id, endpoint_id)
    after = _audit_data(endpoint)
    changed = [field for field in after if before[field] != after[field]]
    if changed:
        told: dict[str, Any] = {"before": {f: before[f] for f in changed}, "after": {f: after[f] for f in changed}}
        if reason:
            told["reason"] = reason
        record_endpoint_event(session, by, endpoint, "changed", told)
    session.flush()
    return endpoint


def delete(session: Session, by: Principal, endpoint_id: UUID) -> Endpoint:
    """End an endpoint; what waits for it is canceled, what is being sent may still arrive.

    raises: NoSuchEndpoint
    """
    endpoint = _lock_for_change(session, by.organization_id, endpoint_id)
    endpoint.deleted_at = clock.now()
    endpoint.status = "disabled_manual" if endpoint.status == "enabled" else endpoint.status
    cancel_pending_deliveries(session, by.organization_id, endpoint_id)
    record_endpoint_event(session, by, endpoint, "deleted", _audit_data(endpoint))
    session.flush()
    return endpoint


def cancel_pending_deliveries(session: Session, organization_id: UUID, endpoint_id: UUID) -> None:
    """Cancel what waits for an endpoint that has ended, and what a dead process left behind.

    session: holds the endpoint's row
    """
    session.execute(_CANCEL, {"organization_id": organization_id, "endpoint_id": endpoint_id})


def announce(session: Session, organization_id: UUID) -> None:
    """Tell the gate, which knows what events are asked for by name; to be called before an endpoint is locked."""
    organizations.bump_generation(session, organization_id)


def record_endpoint_event(
    session: Session, by: Principal | Actor | None, endpoint: Endpoint, verb: str, data: Mapping[str, Any]
) -> None:
    """Write an act on an endpoint into the log of acts.

    by: None for the platform
    """
    actor = audit.actor_for(by) if isinstance(by, Principal) else by or SYSTEM_ACTOR
    target = ("webhook_endpoint", endpoint.id)
    audit.record_event(session, endpoint.organization_id, actor, f"webhook_endpoint.{verb}", target, data)


def redacted_url(endpoint: Endpoint) -> str:
    """Its URL as others may read it: a query may hold somebody's token."""
    parts = urlsplit(endpoint.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _audit_data(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "url": redacted_url(endpoint),
        "event_types": endpoint.event_types,
        "description": endpoint.description or "",
        "payload": endpoint.payload or "full",
        "status": endpoint.status or "enabled",
    }


def _stored_events(facts: Mapping[str, Any]) -> dict[str, Any]:
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
        vetting.validate_url(url, setting("WEBHOOK_ALLOWED_NETWORKS"))
    except AddressNotAllowed as reason:
        raise ValidationFailed.at_field("url", str(reason)) from reason


def _find(organization_id: UUID, endpoint_id: UUID) -> sa.Select[Endpoint]:
    is_it = sa.and_(Endpoint.organization_id == organization_id, Endpoint.id == endpoint_id)
    return sa.select(Endpoint).where(is_it, Endpoint.deleted_at.is_(None)).execution_options(populate_existing=True)


def _lock_for_change(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    announce(session, organization_id)
    return _get(session.scalar(_find(organization_id, endpoint_id).with_for_update()))


def _get(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise EndpointNotFound
    return endpoint
