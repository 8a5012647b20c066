"""Endpoints of an organization, with their health: lists, creation, changes, disabling and deletion."""

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
from saas_api.accounts.notices import Notice
from saas_api.core import access, clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.core.net import vetting
from saas_api.core.net.vetting import AddressNotAllowed
from saas_api.core.roles import ADMIN_ROLES
from saas_api.core.settings import setting
from saas_api.mail import mails
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject, NewEvent
from saas_api.webhooks.models import Endpoint, EndpointStatus, PayloadFormat

MAX_ENDPOINTS = 10
LATENCY_DELIVERIES = 500
DISABLE_AFTER, LAST_FAILURE_WITHIN = timedelta(days=5), timedelta(days=1)


class EndpointNotFound(NotFound):
    """There is no such endpoint, or another organization has it."""


class TooManyEndpoints(Conflict):
    """An organization has at most ten endpoints in each mode."""

    code, message = "TOO_MANY_ENDPOINTS", f"There are {MAX_ENDPOINTS} endpoints in this mode already; delete one first."


class EndpointDisabled(Conflict):
    """Nothing is sent to an endpoint that is disabled or deleted; enable it first."""

    code, message = "ENDPOINT_DISABLED", "This endpoint is disabled; enable it first."


@dataclass(frozen=True)
class HourlyOutcomes:
    """Final deliveries that were created within one hour."""

    delivered: int = 0
    failed: int = 0

    @property
    def success_rate(self) -> float | None:
        """Percentage of the final deliveries, with one decimal; None without any."""
        final = self.delivered + self.failed
        return round(100 * self.delivered / final, 1) if final else None


@dataclass(frozen=True)
class EndpointHealth:
    """Counts of deliveries created within the last 24 hours, of pending ones, and the latest results.

    average_ms, p95_ms: duration of the attempts of the latest LATENCY_DELIVERIES of them, None without any
    hours: of the last 24, the oldest first
    """

    delivered_24h: int
    failed_24h: int
    waiting: int
    consecutive_failures: int
    first_failure_at: datetime | None
    last_success_at: datetime | None
    average_ms: int | None
    p95_ms: int | None
    hours: Sequence["HourlyOutcomes"]

    @property
    def success_rate_24h(self) -> float | None:
        """Percentage of the final deliveries, with one decimal; None without any."""
        return HourlyOutcomes(self.delivered_24h, self.failed_24h).success_rate


@dataclass(frozen=True)
class EndpointView:
    """An endpoint as its organization reads it.

    secret: of a new endpoint only
    """

    endpoint: Endpoint
    health: EndpointHealth
    secret: str | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether events are sent to the endpoint."""
        return self.endpoint.status == EndpointStatus.ENABLED and self.endpoint.deleted_at is None


_HEALTH = sa.text("""
SELECT w.id, day.hours, waiting.count AS waiting, latency.average_ms, latency.p95_ms
  FROM webhook_endpoints w
 CROSS JOIN LATERAL (SELECT json_agg(json_build_array(hours_ago, delivered, failed)) AS hours FROM (
   SELECT least(23, floor(extract(epoch FROM now() - d.created_at) / 3600))::int AS hours_ago,
       count(*) FILTER (WHERE status = 'delivered') AS delivered, count(*) FILTER (WHERE status = 'failed') AS failed
     FROM webhook_deliveries d WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id
      AND d.created_at > now() - interval '24 h' GROUP BY 1) by_hour) day
 CROSS JOIN LATERAL (SELECT count(*) FROM webhook_deliveries d
   WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id AND d.status IN ('queued', 'sending')) waiting
 CROSS JOIN LATERAL (SELECT round(avg(a.duration_ms))::int AS average_ms,
     percentile_disc(0.95) WITHIN GROUP (ORDER BY a.duration_ms) AS p95_ms
   FROM (SELECT d.id FROM webhook_deliveries d WHERE d.organization_id = w.organization_id AND d.endpoint_id = w.id
          AND d.created_at > now() - interval '24 h' ORDER BY d.created_at DESC LIMIT :latest) d
   JOIN webhook_attempts a ON a.organization_id = w.organization_id AND a.delivery_id = d.id) latency
 WHERE w.organization_id = :organization_id AND w.id = ANY (:ids)""")


def list_endpoints(session: Session, organization_id: UUID, request: PageRequest, *, mode: str | None = None) -> Page:
    """Return a page of `EndpointView`, newest first, without deleted endpoints.

    mode: "live" or "test"; both when absent
    raises: ValidationFailed for a cursor of another list
    """
    statement = sa.select(Endpoint).where(Endpoint.organization_id == organization_id, Endpoint.deleted_at.is_(None))
    if mode:
        statement = statement.where(Endpoint.mode == mode)
    page = pagination.paginate(session, statement, Endpoint.id.desc(), request=request)
    return Page(list_endpoint_views(session, organization_id, page.items), page.next_cursor, page.limit)


def list_endpoint_views(session: Session, organization_id: UUID, endpoints: Sequence[Endpoint]) -> list[EndpointView]:
    """Return endpoints with their health, in the same order."""
    values = {
        "organization_id": organization_id,
        "ids": [endpoint.id for endpoint in endpoints],
        "latest": LATENCY_DELIVERIES,
    }
    counts = {row.id: row for row in session.execute(_HEALTH, values)} if endpoints else {}
    return [EndpointView(endpoint, _health(endpoint, counts[endpoint.id])) for endpoint in endpoints]


def get_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """Return an endpoint that is not deleted.

    raises: EndpointNotFound
    """
    return _require(session.scalar(_select(organization_id, endpoint_id)))


def find_endpoint_organization(session: SystemSession, endpoint_id: UUID) -> UUID | None:
    """Return the organization of an endpoint, or None when there is no such endpoint or it is deleted."""
    return session.scalar(
        sa.select(Endpoint.organization_id).where(Endpoint.id == endpoint_id, Endpoint.deleted_at.is_(None))
    )


def lock_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """Return an endpoint, locked for changes that publishing does not read.

    raises: EndpointNotFound
    """
    return _require(session.scalar(_select(organization_id, endpoint_id).with_for_update(key_share=True)))


def lock_enabled_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    """Return an enabled endpoint, locked as by `lock_endpoint`.

    raises: EndpointNotFound, EndpointDisabled
    """
    endpoint = lock_endpoint(session, organization_id, endpoint_id)
    if endpoint.status != EndpointStatus.ENABLED:
        raise EndpointDisabled
    return endpoint


def redacted_url(endpoint: Endpoint) -> str:
    """Return the URL without its query, which may contain a token."""
    parts = urlsplit(endpoint.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _select(organization_id: UUID, endpoint_id: UUID) -> sa.Select[Endpoint]:
    is_match = sa.and_(Endpoint.organization_id == organization_id, Endpoint.id == endpoint_id)
    return sa.select(Endpoint).where(is_match, Endpoint.deleted_at.is_(None)).execution_options(populate_existing=True)


def _require(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise EndpointNotFound
    return endpoint


def _health(endpoint: Endpoint, counts: Any) -> EndpointHealth:
    by_hour = {hours_ago: HourlyOutcomes(*outcomes) for hours_ago, *outcomes in counts.hours or ()}
    hours = [by_hour.get(hours_ago, HourlyOutcomes()) for hours_ago in reversed(range(24))]
    return EndpointHealth(
        sum(hour.delivered for hour in hours),
        sum(hour.failed for hour in hours),
        counts.waiting,
        endpoint.consecutive_failures,
        endpoint.first_failure_at,
        endpoint.last_success_at,
        counts.average_ms,
        counts.p95_ms,
        hours,
    )


_LOCK_ORGANIZATION = sa.text(
    "SELECT pg_advisory_xact_lock(hashtextextended('webhooks.endpoints:' || :organization_id, 0))"
)


def create_endpoint(session: Session, by: Principal, fields: Mapping[str, Any]) -> Endpoint:
    """Create an endpoint. The caller creates its secret in the same transaction.

    fields: `url`, `mode`, `event_types`, `description`, `payload`
    raises: FreshLoginRequired, ValidationFailed for a URL that is not allowed, TooManyEndpoints
    """
    access.require_fresh_login(by)
    fields = {**fields, "url": _check_url(fields["url"])}
    announce(session, by.organization_id)
    session.execute(_LOCK_ORGANIZATION, {"organization_id": str(by.organization_id)})
    if _count(session, by.organization_id, fields["mode"]) >= MAX_ENDPOINTS:
        raise TooManyEndpoints
    endpoint = Endpoint(
        organization_id=by.organization_id, id=ids.new_id(), created_at=clock.now(), **_column_values(fields)
    )
    session.add(endpoint)
    session.flush()  # its secret refers to it
    record_endpoint_event(session, by, endpoint, "created", _audit_data(endpoint))
    notify(session, by, endpoint, "A webhook endpoint was created")
    return endpoint


def update_endpoint(
    session: Session, by: Principal, endpoint_id: UUID, changes: Mapping[str, Any], *, reason: str | None = None
) -> Endpoint:
    """Change an endpoint. Disabling cancels its pending deliveries; enabling resets its failures.

    changes: any of `url`, `event_types`, `description`, `payload`, `is_enabled`
    reason: of an operator, for the audit log
    raises: EndpointNotFound, ValidationFailed for a URL that is not allowed; FreshLoginRequired for another URL
    """
    if "url" in changes:
        changes = {**changes, "url": _check_url(changes["url"])}
    endpoint = _lock_for_change(session, by.organization_id, endpoint_id)
    if changes.get("url", endpoint.url) != endpoint.url:
        access.require_fresh_login(by)
    before = _audit_data(endpoint)
    for column, value in _column_values(changes).items():
        setattr(endpoint, column, value)
    if changes.get("is_enabled") is True:
        endpoint.status, endpoint.in_flight_limit = EndpointStatus.ENABLED, 1
        endpoint.consecutive_failures, endpoint.first_failure_at = 0, None
    elif changes.get("is_enabled") is False:
        _disable_manually(session, endpoint)
    after = _audit_data(endpoint)
    changed = [field for field in after if before[field] != after[field]]
    if changed:
        data: dict[str, Any] = {"before": {f: before[f] for f in changed}, "after": {f: after[f] for f in changed}}
        if reason:
            data["reason"] = reason
        record_endpoint_event(session, by, endpoint, "changed", data)
        notify(session, by, endpoint, "A webhook endpoint was changed", f"Changed: {', '.join(changed)}")
    session.flush()
    return endpoint


def delete(session: Session, by: Principal, endpoint_id: UUID) -> Endpoint:
    """Delete an endpoint and cancel its pending deliveries; a request in progress may still arrive.

    raises: EndpointNotFound
    """
    endpoint = _lock_for_change(session, by.organization_id, endpoint_id)
    endpoint.deleted_at = clock.now()
    _disable_manually(session, endpoint)
    record_endpoint_event(session, by, endpoint, "deleted", _audit_data(endpoint))
    notify(session, by, endpoint, "A webhook endpoint was deleted")
    session.flush()
    return endpoint


_CANCEL_PENDING = sa.text("""
WITH canceled AS (
  UPDATE webhook_deliveries SET status = 'canceled', next_at = NULL, lease_token = NULL, finished_at = now()
   WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id
     AND (status = 'queued' OR status = 'sending' AND next_at <= now())
  RETURNING id)
UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now() FROM canceled
 WHERE a.organization_id = :organization_id AND a.delivery_id = canceled.id AND a.outcome = 'started'""")


def cancel_pending_deliveries(session: Session, organization_id: UUID, endpoint_id: UUID) -> None:
    """Cancel the queued deliveries of an endpoint, and those whose lease has expired.

    session: holds the lock of the endpoint's row
    """
    session.execute(_CANCEL_PENDING, {"organization_id": organization_id, "endpoint_id": endpoint_id})


def announce(session: Session, organization_id: UUID) -> None:
    """Make the gate read again which event types endpoints name. Call it before an endpoint is locked."""
    organizations.bump_generation(session, organization_id)


def record_endpoint_event(
    session: Session, by: Principal | Actor | None, endpoint: Endpoint, verb: str, data: Mapping[str, Any]
) -> None:
    """Write an action on an endpoint into the audit log.

    by: None for the platform
    """
    actor = audit.actor_for(by) if isinstance(by, Principal) else by or SYSTEM_ACTOR
    target = ("webhook_endpoint", endpoint.id)
    audit.record_event(session, endpoint.organization_id, actor, f"webhook_endpoint.{verb}", target, data)


def notify(session: Session, by: Principal, endpoint: Endpoint, subject: str, *facts: str) -> None:
    """Mail the owner and the caller a notice of a change of an endpoint."""
    advice = "Change your password, restore the endpoint, and rotate its signing secret."
    page = "" if endpoint.deleted_at else f"/{ids.format_id('whe', endpoint.id)}"
    notice = Notice(subject, [f"Endpoint: {redacted_url(endpoint)}", *facts], advice, f"/dashboard/webhooks{page}")
    members.enqueue_notice(session, endpoint.organization_id, audit.actor_for(by), notice)


def _lock_for_change(session: Session, organization_id: UUID, endpoint_id: UUID) -> Endpoint:
    announce(session, organization_id)
    return _require(session.scalar(_select(organization_id, endpoint_id).with_for_update()))


def _disable_manually(session: Session, endpoint: Endpoint) -> None:
    if endpoint.status == EndpointStatus.ENABLED:
        endpoint.status = EndpointStatus.DISABLED_MANUAL
    cancel_pending_deliveries(session, endpoint.organization_id, endpoint.id)


def _audit_data(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "url": redacted_url(endpoint),
        "mode": endpoint.mode,
        "event_types": endpoint.event_types,
        "description": endpoint.description or "",
        "payload": endpoint.payload or PayloadFormat.FULL,
        "status": endpoint.status or EndpointStatus.ENABLED,
    }


def _column_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of columns among request fields, with each event type once."""
    values = {name: value for name, value in fields.items() if name != "is_enabled"}
    if values.get("event_types"):
        values["event_types"] = sorted(set(values["event_types"]))
    return values


def _count(session: Session, organization_id: UUID, mode: str) -> int:
    is_existing = sa.and_(Endpoint.organization_id == organization_id, Endpoint.deleted_at.is_(None))
    of_mode = sa.select(sa.func.count()).select_from(Endpoint).where(is_existing, Endpoint.mode == mode)
    return session.scalars(of_mode).one()


def _check_url(url: str) -> str:
    """Return the URL with its host in ASCII.

    raises: ValidationFailed
    """
    try:
        return vetting.validate_url(url, setting("WEBHOOK_ALLOWED_NETWORKS"))
    except AddressNotAllowed as error:
        raise ValidationFailed.at_field("url", str(error)) from error


_FAILING = sa.text("""
SELECT organization_id, id FROM webhook_endpoints WHERE status = 'enabled' AND deleted_at IS NULL
  AND first_failure_at < :since AND last_failure_at > :fresh_since
  AND (last_success_at IS NULL OR last_success_at < first_failure_at)
""")
_LOCK_IF_FAILING = sa.text(f"{_FAILING.text.rstrip()} AND organization_id = :org AND id = :endpoint FOR UPDATE")


def disable_failing_endpoints() -> int:
    """Disable endpoints that failed for DISABLE_AFTER without a success, each in a transaction of its own.

    The last failure is at most LAST_FAILURE_WITHIN ago. Failures of test events do not count.
    returns: number of disabled endpoints
    """
    now = clock.now()
    bounds = {"since": now - DISABLE_AFTER, "fresh_since": now - LAST_FAILURE_WITHIN}
    with tenancy.system_session("webhooks.clean") as session:
        failing = session.execute(_FAILING, bounds).all()
    return sum(_disable_failing(row.organization_id, row.id, bounds) for row in failing)


def _disable_failing(organization_id: UUID, endpoint_id: UUID, bounds: Mapping[str, datetime]) -> bool:
    with tenancy.tenant_session(organization_id) as session:
        announce(session, organization_id)
        values = {**bounds, "org": organization_id, "endpoint": endpoint_id}
        if not session.execute(_LOCK_IF_FAILING, values).first():  # it recovered or was enabled since the scan
            return False
        disable_endpoint(session, organization_id, endpoint_id, EndpointStatus.DISABLED_FAILING)
    return True


def disable_endpoint(session: Session, organization_id: UUID, endpoint_id: UUID, status: EndpointStatus) -> None:
    """Disable an enabled endpoint, cancel its pending deliveries, publish the event and mail owners and admins.

    An endpoint that is disabled or deleted already stays as it is.
    session: `announce` was called in it
    status: DISABLED_FAILING or DISABLED_GONE
    """
    statement = sa.select(Endpoint).where(Endpoint.organization_id == organization_id, Endpoint.id == endpoint_id)
    endpoint = session.scalars(statement.with_for_update().execution_options(populate_existing=True)).one()
    if endpoint.status != EndpointStatus.ENABLED or endpoint.deleted_at:
        return
    endpoint.status = status
    session.flush()  # before publishing, so that the endpoint does not receive its own event
    cancel_pending_deliveries(session, organization_id, endpoint_id)
    audit_data = {"status": status, "failing_since": str(endpoint.first_failure_at)}
    record_endpoint_event(session, None, endpoint, "disabled", audit_data)
    resource = {"endpoint": endpoint, "is_enabled": False, "redacted_url": redacted_url(endpoint)}
    data = event_types.dump_data("webhook_endpoint.disabled", resource)
    version = int(clock.now().timestamp())  # rises from one disabling of an endpoint to the next
    disabled = NewEvent("webhook_endpoint.disabled", EventSubject(endpoint_id, version), data, endpoint.mode)
    events.publish_many(session, organization_id, [disabled])
    _email_disabled(session, endpoint)


def _email_disabled(session: Session, endpoint: Endpoint) -> None:
    organization = organizations.get_organization(session, endpoint.organization_id)
    for recipient in members.list_recipients(session, organization.id, ADMIN_ROLES):
        mails.enqueue(
            session,
            "webhook_disabled",
            recipient.email,
            organization_id=organization.id,
            name=recipient.name,
            organization=organization.name,
            endpoint_id=ids.format_id("whe", endpoint.id),
            url=redacted_url(endpoint),
            is_gone=endpoint.status == EndpointStatus.DISABLED_GONE,
        )
