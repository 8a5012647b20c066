"""Dispatch of deliveries: claim due ones, send them from a thread pool, record attempts and endpoint health."""

import random
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from rq.timeouts import JobTimeoutException
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.faults import fault_point
from saas_api.core.jobs import counters, outbox, queue
from saas_api.core.jobs.outbox import Claim, Claimable, DueOwners, RowResult
from saas_api.core.net import client
from saas_api.core.net.client import DeadlineExceeded
from saas_api.core.net.vetting import AddressNotAllowed, ConnectionFailed
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.webhooks import endpoints, payload, retries, secrets
from saas_api.webhooks.events import DRAIN_JOB
from saas_api.webhooks.models import AttemptOutcome, DeliveryStatus, EndpointStatus, PayloadFormat
from saas_api.webhooks.retries import MAX_ATTEMPTS, MAX_INTERRUPTIONS

log = get_logger(__name__)

DEADLINE_SECONDS, CONNECT_SECONDS = 15.0, 5.0
MAX_PARALLEL_PER_ENDPOINT = 50
RESULT_BATCH_SIZE = 200
MAX_FAILURE_GAP_HOURS = 72
"""More than the longest time between two attempts of a delivery."""
RESPONSE_EXCERPT_BYTES = 8_192
_GONE = 410
_POLL_SECONDS, _FLUSH_SECONDS, _BACKOFF_SECONDS = 0.25, 0.05, 60.0

DELIVERIES = Claimable(
    name="webhooks",
    table="webhook_deliveries",
    owner=("organization_id", "endpoint_id"),
    claimed="""r.event_id, (SELECT e.payload FROM events e WHERE e.organization_id = r.organization_id
      AND e.id = r.event_id) AS payload, (SELECT e.subject_version < 0 FROM events e
      WHERE e.organization_id = r.organization_id AND e.id = r.event_id) AS is_test""",
    result_columns={"last_status": "int"},
    assignments={"last_status": "v.last_status"},
    max_attempts=MAX_ATTEMPTS,
    max_interruptions=MAX_INTERRUPTIONS,
    is_counted_at_claim=True,
)

Owner = tuple[UUID, UUID]
"""An organization and one of its endpoints."""


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery to send before the lease of its claim ends.

    attempt: number of the attempt, from 1
    interruptions: earlier attempts without a result
    is_slow: the last attempt to the endpoint failed, so it receives one request at a time
    is_test: the event is a test event, whose failure says nothing about the endpoint's health
    """

    owner: Owner
    claim: Claim
    id: UUID
    webhook_id: str
    url: str
    body: bytes
    secrets: tuple[str, ...]
    attempt: int
    interruptions: int
    is_slow: bool
    is_test: bool

    @property
    def failed_attempts(self) -> int:
        """Earlier attempts with a result."""
        return self.attempt - 1 - self.interruptions


@dataclass(frozen=True)
class AttemptResult:
    """Result of one attempt.

    status: of the response
    retry_after: seconds that the endpoint asked for
    error: a text for display; "poisoned" for a delivery that was interrupted too often
    """

    delivery: ClaimedDelivery
    outcome: AttemptOutcome
    duration_ms: int | None = None
    status: int | None = None
    body: bytes = b""
    retry_after: int | None = None
    error: str | None = None

    @property
    def is_endpoint_failure(self) -> bool:
        """Whether the endpoint did not accept a real event; an interruption is ours."""
        is_failed = self.outcome not in (AttemptOutcome.OK, AttemptOutcome.INTERRUPTED)
        return is_failed and not self.delivery.is_test


def list_due_endpoints() -> DueOwners[Owner]:
    """Return endpoints with due deliveries, in a transaction of its own."""
    with tenancy.system_session("webhooks.due") as session:
        return outbox.list_due(session, DELIVERIES)


_LOCK_ENDPOINT = sa.text("""
SELECT url, payload, in_flight_limit, status = 'enabled' AND deleted_at IS NULL AS is_open FROM webhook_endpoints
WHERE organization_id = :org AND id = :endpoint FOR NO KEY UPDATE
""")
# A separate statement after the lock: its snapshot includes what others claimed while they held the lock.
_COUNT_IN_FLIGHT = sa.text("""
SELECT count(*) FROM webhook_deliveries
WHERE organization_id = :org AND endpoint_id = :endpoint AND status = 'sending' AND next_at > now()
""")
_START_ATTEMPTS = sa.text("""
WITH v AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS v (id, n)),
interrupted AS (UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now() FROM v
  WHERE a.organization_id = :org AND a.delivery_id = v.id AND a.n < v.n AND a.outcome = 'started')
INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, outcome)
SELECT :org, id, n, now(), 'started' FROM v
""")


def claim_deliveries(owner: Owner, limit: int, slow_limit: int) -> list[ClaimedDelivery]:
    """Claim due deliveries of an endpoint and start their attempts, in a transaction of its own.

    All workers together send no more than the endpoint's `in_flight_limit` at a time.
    slow_limit: in place of `limit` when the last attempt to the endpoint failed
    """
    organization_id, endpoint_id = owner
    values = {"org": organization_id, "endpoint": endpoint_id}
    with tenancy.tenant_session(organization_id) as session:
        endpoint = session.execute(_LOCK_ENDPOINT, values).one()
        if not endpoint.is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
            return []
        is_slow = endpoint.in_flight_limit == 1
        free = endpoint.in_flight_limit - session.scalars(_COUNT_IN_FLIGHT, values).one()
        claim_limit = min(slow_limit if is_slow else limit, free)
        if claim_limit <= 0:  # do not hold the lock of the endpoint any longer
            return []
        claim = outbox.claim(session, DELIVERIES, owner, limit=claim_limit)
        if not claim.rows:
            return []
        started = {"ids": [row.id for row in claim.rows], "numbers": [row.attempts for row in claim.rows]}
        session.execute(_START_ATTEMPTS, {"org": organization_id, **started})
        signing_secrets = tuple(secrets.list_active_secrets(session, organization_id, endpoint_id))
    fault_point("webhook.claimed")
    return [
        ClaimedDelivery(
            owner=owner,
            claim=claim,
            id=row.id,
            webhook_id=ids.format_id("evt", row.event_id),
            url=endpoint.url,
            body=_body(endpoint.payload, row.payload),
            secrets=signing_secrets,
            attempt=row.attempts,
            interruptions=row.interruptions,
            is_slow=is_slow,
            is_test=row.is_test,
        )
        for row in claim.rows
    ]


def _body(payload_format: str, text: str) -> bytes:
    return (payload.build_thin_payload(text) if payload_format == PayloadFormat.THIN else text).encode()


_FINISH_ATTEMPTS = sa.text("""
UPDATE webhook_attempts a SET ended_at = now(), status_code = v.code, duration_ms = v.ms, error = v.text,
  outcome = v.outcome, response_snippet = v.snippet
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:codes AS int[]), CAST(:durations AS int[]),
  CAST(:texts AS text[]), CAST(:outcomes AS text[]), CAST(:snippets AS text[]))
  AS v (id, n, code, ms, text, outcome, snippet)
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


def record_results(owner: Owner, claim: Claim, results: Sequence[AttemptResult]) -> int:
    """Record results of deliveries of one claim, in a transaction of its own.

    returns: number of results that are not recorded, because their lease was lost
    """
    organization_id, endpoint_id = owner
    with tenancy.tenant_session(organization_id) as session:
        if any(result.status == _GONE for result in results):
            endpoints.announce(session, organization_id)
        endpoint = session.execute(_LOCK_ENDPOINT, {"org": organization_id, "endpoint": endpoint_id}).one()
        rows = outbox.record(session, claim, [_delivery_result(result) for result in results])
        recorded_ids = {row.id for row in rows}
        recorded = [result for result in results if result.delivery.id in recorded_ids]
        if recorded:
            session.execute(_FINISH_ATTEMPTS, _attempt_values(organization_id, recorded))
            _update_endpoint_health(session, owner, recorded)
        if any(result.status == _GONE for result in recorded):
            endpoints.disable_endpoint(session, organization_id, endpoint_id, EndpointStatus.DISABLED_GONE)
        if not endpoint.is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
    return len(results) - len(recorded)


def _delivery_result(result: AttemptResult) -> RowResult:
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
        "ids": [result.delivery.id for result in results],
        "numbers": [result.delivery.attempt for result in results],
        "codes": [result.status for result in results],
        "durations": [result.duration_ms for result in results],
        "texts": [result.error for result in results],
        "outcomes": [result.outcome.value for result in results],
        "snippets": [_response_excerpt(result.body) for result in results],
    }


def _response_excerpt(body: bytes) -> str | None:
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text.encode()[:RESPONSE_EXCERPT_BYTES].decode("utf-8", "ignore") or None


def _update_endpoint_health(session: Session, owner: Owner, results: Sequence[AttemptResult]) -> None:
    failures = sum(result.is_endpoint_failure for result in results)
    values = {"org": owner[0], "endpoint": owner[1], "failures": failures}
    if any(result.outcome == AttemptOutcome.OK for result in results):
        session.execute(_MARK_HEALTHY, values)
    if failures:
        session.execute(_MARK_FAILING, values)


@dataclass
class _Dispatcher:
    """Threads of one drain, and the deliveries that they send.

    paused_until: monotonic time of endpoints that had nothing to claim or whose claim failed
    """

    pool: ThreadPoolExecutor
    thread_count: int
    allowed_networks: tuple[str, ...]
    in_flight: dict[Future[AttemptResult], ClaimedDelivery] = field(default_factory=dict)
    paused_until: dict[Owner, float] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Idle threads."""
        return self.thread_count - len(self.in_flight)

    @property
    def free_for_slow(self) -> int:
        """Idle threads for endpoints whose last attempt failed; together they use half of the threads."""
        slow_count = sum(delivery.is_slow for delivery in self.in_flight.values())
        return max(0, min(self.free, self.thread_count // 2 - slow_count))


def run_dispatch(*, at_most_seconds: float | None = None) -> None:
    """Send due deliveries until two scans find none or the time is up, then wait for those in flight.

    at_most_seconds: DRAIN_SECONDS when absent; the scheduler gives less
    """
    queue.allow_next_wake(DRAIN_JOB)
    deadline = time.monotonic() + (at_most_seconds or setting("DRAIN_SECONDS"))
    thread_count = setting("WEBHOOK_CONCURRENCY")
    with ThreadPoolExecutor(thread_count) as pool:
        dispatcher = _Dispatcher(pool, thread_count, tuple(setting("WEBHOOK_ALLOWED_NETWORKS")))
        try:
            is_drained = _run_rounds(dispatcher, deadline)
        finally:
            while dispatcher.in_flight:
                _flush_results(dispatcher)
            counters.flush_counters()
    if not is_drained:
        queue.wake_workers(DRAIN_JOB, is_forced=True)


def _run_rounds(dispatcher: _Dispatcher, deadline: float) -> bool:
    """Scan and send until nothing is due; returns False when the time was up before."""
    empty_scans = 0
    while empty_scans < 2:
        if queue.is_stopping() or time.monotonic() >= deadline:
            return False
        scan = list_due_endpoints()
        now = time.monotonic()
        owners = [owner for owner in scan.owners if dispatcher.paused_until.get(owner, 0.0) <= now]
        claimed_count = sum(_start_safely(dispatcher, owner) for owner in random.sample(owners, len(owners)))
        if dispatcher.in_flight:
            _flush_results(dispatcher)
        is_next_soon = scan.next_seconds is not None and scan.next_seconds <= deadline - time.monotonic()
        if claimed_count or dispatcher.in_flight or scan.owners:
            empty_scans = 0
            if not claimed_count:
                time.sleep(0 if dispatcher.in_flight else _POLL_SECONDS)
        elif is_next_soon:
            time.sleep(_POLL_SECONDS)
        else:
            empty_scans += 1
            time.sleep(_POLL_SECONDS if empty_scans < 2 else 0)
    return True


def _start_safely(dispatcher: _Dispatcher, owner: Owner) -> int:
    """Claim deliveries of an endpoint and hand them to the threads; returns how many."""
    limit = min(dispatcher.free, MAX_PARALLEL_PER_ENDPOINT)
    if limit <= 0:
        return 0
    try:
        claimed = claim_deliveries(owner, limit, dispatcher.free_for_slow)
    except JobTimeoutException:
        raise
    except Exception:  # a failure of one endpoint must not delay the others
        log.exception("webhook_claim_failed", endpoint_id=str(owner[1]))
        dispatcher.paused_until[owner] = time.monotonic() + _BACKOFF_SECONDS
        return 0
    if not claimed:
        dispatcher.paused_until[owner] = time.monotonic() + _POLL_SECONDS
    for delivery in claimed:
        dispatcher.in_flight[dispatcher.pool.submit(_send, delivery, dispatcher.allowed_networks)] = delivery
    return len(claimed)


def _send(delivery: ClaimedDelivery, allowed_networks: tuple[str, ...]) -> AttemptResult:
    if delivery.interruptions >= DELIVERIES.max_interruptions:
        return AttemptResult(delivery, AttemptOutcome.INTERRUPTED, error="poisoned")
    sent_at = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "saas-api-webhooks/1",
        **payload.signature_headers(delivery.secrets, delivery.webhook_id, sent_at, delivery.body),
    }
    started = time.monotonic()
    try:
        response = client.post_once(
            delivery.url,
            delivery.body,
            headers,
            deadline=DEADLINE_SECONDS,
            connect=CONNECT_SECONDS,
            max_response=RESPONSE_EXCERPT_BYTES,
            allowed=allowed_networks,
        )
    except AddressNotAllowed as error:
        return AttemptResult(delivery, AttemptOutcome.BLOCKED, _elapsed_ms(started), error=str(error))
    except DeadlineExceeded as error:
        return AttemptResult(delivery, AttemptOutcome.TIMEOUT, _elapsed_ms(started), error=str(error))
    except ConnectionFailed as error:
        return AttemptResult(delivery, AttemptOutcome.CONNECTION, _elapsed_ms(started), error=str(error))
    fault_point("webhook.after_response")
    outcome = AttemptOutcome.OK if 200 <= response.status < 300 else AttemptOutcome.HTTP_ERROR
    response_headers = {name.lower(): value for name, value in response.headers.items()}
    retry_after = retries.parse_retry_after(response_headers.get("retry-after"), time.time())
    return AttemptResult(delivery, outcome, _elapsed_ms(started), response.status, response.body, retry_after)


def _elapsed_ms(started: float) -> int:
    return round(1000 * (time.monotonic() - started))


def _flush_results(dispatcher: _Dispatcher) -> None:
    """Wait a moment for results, and record those that are there."""
    wait(dispatcher.in_flight, timeout=_FLUSH_SECONDS, return_when=FIRST_COMPLETED)
    finished = [future for future in dispatcher.in_flight if future.done()][:RESULT_BATCH_SIZE]
    results_by_token: dict[UUID, list[AttemptResult]] = {}
    for future in finished:
        delivery = dispatcher.in_flight.pop(future)
        dispatcher.paused_until.pop(delivery.owner, None)
        try:
            result = future.result()
        except Exception as error:
            log.exception("webhook_send_failed", delivery_id=str(delivery.id))
            result = AttemptResult(delivery, AttemptOutcome.CONNECTION, error=type(error).__name__)
        results_by_token.setdefault(delivery.claim.token, []).append(result)
        counters.increment("webhook_attempts_total", result.outcome.value)
    for results in results_by_token.values():
        owner, claim = results[0].delivery.owner, results[0].delivery.claim
        try:
            record_results(owner, claim, results)
        except JobTimeoutException:
            raise
        except Exception:  # the leases expire, and the deliveries are due again
            log.exception("webhook_record_failed", endpoint_id=str(owner[1]))
