"""Claims of due deliveries, and the results of their attempts, in PostgreSQL.

A claim starts the attempts of its deliveries, so that one whose process is killed is seen as interrupted and repeated.
A process claims more than it may send at once, and holds the rest: several attempts share the cost of a transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy, types
from saas_api.core.faults import fault_point
from saas_api.core.jobs import outbox
from saas_api.core.jobs.outbox import Claim, Claimable, DueOwners, RowResult
from saas_api.core.settings import setting
from saas_api.webhooks import endpoints, payload, retries, secrets
from saas_api.webhooks.attempts import RESPONSE_EXCERPT_BYTES, AttemptResult, ClaimedDelivery, EndpointKey
from saas_api.webhooks.models import AttemptOutcome, DeliveryStatus, EndpointStatus
from saas_api.webhooks.retries import MAX_ATTEMPTS, MAX_INTERRUPTIONS

MAX_FAILURE_GAP_HOURS = 72
"""More than the longest time between two attempts of a delivery."""
_GONE = 410

DELIVERIES = Claimable(
    name="webhooks",
    table="webhook_deliveries",
    owner=("organization_id", "endpoint_id"),
    claimed="r.event_id",
    result_columns={"last_status": "int"},
    assignments={"last_status": "v.last_status"},
    max_attempts=MAX_ATTEMPTS,
    max_interruptions=MAX_INTERRUPTIONS,
    is_counted_at_claim=True,
)


@dataclass(frozen=True)
class Capacity:
    """What a process can take of an endpoint.

    threads: requests that it can send at the same time, those under way included
    threads_if_failing: the same for an endpoint whose last attempt failed
    to_hold: deliveries that it takes besides, to send them later
    own_claims: its claims of the endpoint whose results are not all recorded
    own_count: deliveries of those claims that are under way or held
    """

    threads: int
    threads_if_failing: int
    to_hold: int = 0
    own_claims: Sequence[UUID] = ()
    own_count: int = 0


@dataclass(frozen=True)
class ClaimedDeliveries:
    """Claimed deliveries of one endpoint.

    max_in_flight: requests that the process may send to the endpoint at the same time; other processes send the rest
    is_failing: the last attempt failed, so the endpoint receives one request at a time
    is_all: nothing else of the endpoint was due, or none may be sent
    """

    deliveries: Sequence[ClaimedDelivery] = ()
    max_in_flight: int = 0
    is_failing: bool = False
    is_all: bool = True


def list_due_endpoints() -> DueOwners[EndpointKey]:
    """Return endpoints with due deliveries, in a transaction of its own."""
    with tenancy.system_session("webhooks.due") as session:
        return outbox.list_due(session, DELIVERIES)


_LOCK_ENDPOINT = sa.text("""
SELECT url, payload, in_flight_limit, status = 'enabled' AND deleted_at IS NULL AS is_open FROM webhook_endpoints
WHERE organization_id = :org AND id = :endpoint FOR NO KEY UPDATE
""")
# A separate statement after the lock: its snapshot includes what others claimed while they held the lock.
_COUNT_OF_OTHERS = sa.text("""
SELECT count(*) FROM webhook_deliveries
WHERE organization_id = :org AND endpoint_id = :endpoint AND status = 'sending' AND next_at > now()
  AND lease_token <> ALL (CAST(:own_claims AS uuid[]))
""")
_START_ATTEMPTS = sa.text("""
WITH v AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:event_ids AS uuid[]), CAST(:numbers AS int[]))
  AS v (id, event_id, n)),
interrupted AS (UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now() FROM v
  WHERE a.organization_id = :org AND a.delivery_id = ANY (CAST(:interrupted AS uuid[])) AND a.delivery_id = v.id
    AND a.n < v.n AND a.outcome = 'started'),
started AS (INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, outcome, payload_format)
  SELECT :org, id, n, now(), 'started', :payload_format FROM v)
SELECT v.id, e.payload, e.subject_version < 0 AS is_test FROM v
  JOIN events e ON e.organization_id = :org AND e.id = v.event_id
""")


def claim_deliveries(endpoint: EndpointKey, capacity: Capacity) -> ClaimedDeliveries:
    """Claim due deliveries of an endpoint and start their attempts, in a transaction of its own.

    All processes together send no more than the endpoint's `in_flight_limit` at a time: what others have claimed is
    taken from it, be it in flight or held, and what is left is `max_in_flight` of this one until its next claim.
    """
    organization_id, endpoint_id = endpoint
    values = {"org": organization_id, "endpoint": endpoint_id, "own_claims": types.uuid_array(capacity.own_claims)}
    with tenancy.tenant_session(organization_id) as session:
        row = session.execute(_LOCK_ENDPOINT, values).one()
        if not row.is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
            return ClaimedDeliveries()
        max_in_flight = max(0, row.in_flight_limit - session.scalars(_COUNT_OF_OTHERS, values).one())
        is_failing = row.in_flight_limit == 1
        wanted = _wanted(capacity, max_in_flight, is_failing=is_failing)
        if wanted <= 0:  # do not hold the lock of the endpoint any longer
            return ClaimedDeliveries((), max_in_flight, is_failing)
        claim = outbox.claim(session, DELIVERIES, endpoint, limit=wanted)
        events = _start_attempts(session, organization_id, claim, row.payload)
        signing_secrets = tuple(secrets.list_active_secrets(session, organization_id, endpoint_id))
    fault_point("webhook.claimed")
    deliveries = [
        ClaimedDelivery(
            endpoint=endpoint,
            claim=claim,
            id=delivery.id,
            webhook_id=ids.format_id("evt", delivery.event_id),
            url=row.url,
            body=payload.format_payload(events[delivery.id].payload, row.payload).encode(),
            secrets=signing_secrets,
            attempt=delivery.attempts,
            interruptions=delivery.interruptions,
            is_test=events[delivery.id].is_test,
        )
        for delivery in claim.rows
    ]
    return ClaimedDeliveries(deliveries, max_in_flight, is_failing, is_all=len(deliveries) < wanted)


def _wanted(capacity: Capacity, max_in_flight: int, *, is_failing: bool) -> int:
    """How many deliveries to claim; none are held for an endpoint that fails, or that other processes send to."""
    in_flight = min(max_in_flight, capacity.threads_if_failing if is_failing else capacity.threads)
    if in_flight <= 0:
        return 0
    return in_flight - capacity.own_count + (0 if is_failing else capacity.to_hold)


def _start_attempts(session: Session, organization_id: UUID, claim: Claim, payload_format: str) -> dict[UUID, Any]:
    """Write the attempts of claimed deliveries; returns `payload` and `is_test` of their events by delivery."""
    if not claim.rows:
        return {}
    values = {
        "org": organization_id,
        "ids": types.uuid_array([row.id for row in claim.rows]),
        "event_ids": types.uuid_array([row.event_id for row in claim.rows]),
        "numbers": [row.attempts for row in claim.rows],
        "payload_format": payload_format,
        "interrupted": types.uuid_array([row.id for row in claim.rows if row.was_interrupted]),
    }
    return {row.id: row for row in session.execute(_START_ATTEMPTS, values)}


_FINISH_ATTEMPTS = sa.text("""
UPDATE webhook_attempts a SET ended_at = now(), status_code = v.code, duration_ms = v.ms, error = v.text,
  outcome = v.outcome, response_snippet = v.snippet, request_headers = v.headers
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:codes AS int[]), CAST(:durations AS int[]),
  CAST(:texts AS text[]), CAST(:outcomes AS text[]), CAST(:snippets AS text[]), CAST(:headers AS json[]))
  AS v (id, n, code, ms, text, outcome, snippet, headers)
WHERE a.organization_id = :org AND a.delivery_id = v.id AND a.n = v.n AND a.outcome = 'started'
""")
_MARK_HEALTHY = sa.text("""
UPDATE webhook_endpoints SET consecutive_failures = 0, first_failure_at = NULL, last_success_at = now(),
  in_flight_limit = least(max_in_flight, 2 * in_flight_limit)
WHERE organization_id = :org AND id = :endpoint
""")
# Failures of a quiet endpoint that are days apart say nothing about the time between: a new count begins.
_MARK_FAILING = sa.text(f"""
UPDATE webhook_endpoints w SET in_flight_limit = 1, last_failure_at = now(),
  consecutive_failures = CASE WHEN run.goes_on THEN consecutive_failures ELSE 0 END + :failures,
  first_failure_at = CASE WHEN run.goes_on THEN first_failure_at ELSE now() END
FROM (SELECT first_failure_at IS NOT NULL AND last_failure_at > now() - interval '{MAX_FAILURE_GAP_HOURS} h' AS goes_on
  FROM webhook_endpoints WHERE organization_id = :org AND id = :endpoint) run
WHERE w.organization_id = :org AND w.id = :endpoint
""")


def record_results(endpoint: EndpointKey, results: Sequence[AttemptResult]) -> int:
    """Record results of claimed deliveries of one endpoint, in a transaction of its own.

    returns: number of results that are not recorded, because their lease was lost
    """
    organization_id, endpoint_id = endpoint
    with tenancy.tenant_session(organization_id) as session:
        if any(result.status == _GONE for result in results):
            endpoints.announce(session, organization_id)
        row = session.execute(_LOCK_ENDPOINT, {"org": organization_id, "endpoint": endpoint_id}).one()
        rows = outbox.record_together(session, [(result.delivery.claim, _row_result(result)) for result in results])
        recorded_ids = {row.id for row in rows}
        recorded = [result for result in results if result.delivery.id in recorded_ids]
        if recorded:
            session.execute(_FINISH_ATTEMPTS, _attempt_values(organization_id, recorded))
            _update_endpoint_health(session, endpoint, recorded)
        if any(result.status == _GONE for result in recorded):
            endpoints.disable_endpoint(session, organization_id, endpoint_id, EndpointStatus.DISABLED_GONE)
        if not row.is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
    return len(results) - len(recorded)


def _row_result(result: AttemptResult) -> RowResult:
    delivery, values = result.delivery, {"last_status": result.status}
    if result.outcome == AttemptOutcome.OK:
        return RowResult(delivery.id, DeliveryStatus.DELIVERED.value, values=values)
    failed_attempts = delivery.failed_attempts + 1
    is_final = result.status == _GONE or result.outcome == AttemptOutcome.INTERRUPTED
    if is_final or failed_attempts >= DELIVERIES.max_attempts:
        return RowResult(delivery.id, DeliveryStatus.FAILED.value, _error_code(result), values=values)
    status = None if result.outcome == AttemptOutcome.TIMEOUT else result.status or 0
    seconds = retries.retry_delay_seconds(failed_attempts, status, result.retry_after) / setting("TIME_SCALE")
    delay = timedelta(seconds=seconds)
    return RowResult(delivery.id, DeliveryStatus.QUEUED.value, _error_code(result), delay, values)


def _error_code(result: AttemptResult) -> str:
    if result.status:
        return f"http_{result.status}"
    return result.error if result.error == "poisoned" else result.outcome.value


def _attempt_values(organization_id: UUID, results: Sequence[AttemptResult]) -> dict[str, Any]:
    return {
        "org": organization_id,
        "ids": types.uuid_array([result.delivery.id for result in results]),
        "numbers": [result.delivery.attempt for result in results],
        "codes": [result.status for result in results],
        "durations": [result.duration_ms for result in results],
        "texts": [result.error for result in results],
        "outcomes": [result.outcome.value for result in results],
        "snippets": [_response_excerpt(result.body) for result in results],
        "headers": [result.request_headers and orjson.dumps(result.request_headers).decode() for result in results],
    }


def _response_excerpt(body: bytes) -> str | None:
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text.encode()[:RESPONSE_EXCERPT_BYTES].decode("utf-8", "ignore") or None


def _update_endpoint_health(session: Session, endpoint: EndpointKey, results: Sequence[AttemptResult]) -> None:
    failures = sum(result.is_endpoint_failure for result in results)
    values = {"org": endpoint[0], "endpoint": endpoint[1], "failures": failures}
    if any(result.outcome == AttemptOutcome.OK for result in results):
        session.execute(_MARK_HEALTHY, values)
    if failures:
        session.execute(_MARK_FAILING, values)


_FORGET_ATTEMPTS = sa.text("""
DELETE FROM webhook_attempts a USING unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS v (id, n)
WHERE a.organization_id = :org AND a.delivery_id = v.id AND a.n = v.n AND a.outcome = 'started'
""")


def give_back_deliveries(endpoint: EndpointKey, deliveries: Sequence[ClaimedDelivery]) -> None:
    """Make held deliveries of an endpoint due again, in a transaction of its own; they were never sent."""
    organization_id, endpoint_id = endpoint
    with tenancy.tenant_session(organization_id) as session:
        row = session.execute(_LOCK_ENDPOINT, {"org": organization_id, "endpoint": endpoint_id}).one()
        given_back: set[UUID] = set()
        for claim in {held.claim.token: held.claim for held in deliveries}.values():
            rows = outbox.give_back(session, claim, [held.id for held in deliveries if held.claim is claim])
            given_back.update(row.id for row in rows)
        forgotten = [held for held in deliveries if held.id in given_back]
        values = {
            "org": organization_id,
            "ids": types.uuid_array([held.id for held in forgotten]),
            "numbers": [held.attempt for held in forgotten],
        }
        session.execute(_FORGET_ATTEMPTS, values)
        if not row.is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
