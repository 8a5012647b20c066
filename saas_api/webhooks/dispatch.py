"""Claim due deliveries, send in a thread pool, record attempts and endpoint health."""

import random
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from rq.timeouts import JobTimeoutException
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.faults import fault_point
from saas_api.core.jobs import counters, queue
from saas_api.core.jobs.outbox import LOOKAHEAD_SECONDS, DueOwners
from saas_api.core.net import client
from saas_api.core.net.client import DeadlineExceeded
from saas_api.core.net.vetting import AddressNotAllowed, ConnectionFailed
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.webhooks import endpoints, payload, retries, secrets
from saas_api.webhooks.events import DRAIN_JOB
from saas_api.webhooks.models import EndpointStatus
from saas_api.webhooks.retries import MAX_ATTEMPTS, MAX_INTERRUPTIONS

log = get_logger(__name__)

MAX_ENDPOINTS_PER_SCAN = 200
# A loose index scan: one step of the index an endpoint, however many rows each has.
_DUE = sa.text("""
WITH RECURSIVE e AS (
  (SELECT organization_id, endpoint_id FROM webhook_deliveries WHERE status IN ('queued', 'sending')
    ORDER BY organization_id, endpoint_id LIMIT 1)
  UNION ALL
  SELECT n.organization_id, n.endpoint_id FROM e CROSS JOIN LATERAL (
    SELECT d.organization_id, d.endpoint_id FROM webhook_deliveries d WHERE d.status IN ('queued', 'sending')
       AND (d.organization_id, d.endpoint_id) > (e.organization_id, e.endpoint_id)
     ORDER BY d.organization_id, d.endpoint_id LIMIT 1) n)
SELECT e.organization_id, e.endpoint_id, extract(epoch FROM first.next_at - now())::float8 AS seconds
  FROM e CROSS JOIN LATERAL (SELECT d.next_at FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
    AND d.endpoint_id = e.endpoint_id AND d.status IN ('queued', 'sending') ORDER BY d.next_at LIMIT 1) first
 WHERE first.next_at < now() + make_interval(secs => :soon)
 ORDER BY greatest(first.next_at, now()), random() LIMIT :limit
""")
_LOCK_ENDPOINT = sa.text("""
SELECT url, payload, in_flight_limit, status = 'enabled' AND deleted_at IS NULL AS is_open FROM webhook_endpoints
WHERE organization_id = :org AND id = :endpoint FOR NO KEY UPDATE
""")
# A statement of its own after the lock: its snapshot sees what others claimed before they let the endpoint go.
_CLAIM = sa.text("""
WITH live AS (SELECT count(*) AS n FROM webhook_deliveries WHERE organization_id = :org AND endpoint_id = :endpoint
  AND status = 'sending' AND next_at > now()),
due AS (SELECT id FROM webhook_deliveries WHERE organization_id = :org AND endpoint_id = :endpoint
  AND status IN ('queued', 'sending') AND next_at <= now() ORDER BY next_at
  LIMIT greatest(0, least(:wanted, :limit - (SELECT n FROM live))) FOR UPDATE SKIP LOCKED),
taken AS (UPDATE webhook_deliveries d SET status = 'sending', attempts = d.attempts + 1,
    interruptions = d.interruptions + (d.status = 'sending')::int, lease_token = :token,
    next_at = now() + make_interval(secs => :lease)
  FROM due WHERE d.organization_id = :org AND d.id = due.id
  RETURNING d.id, d.event_id, d.attempts, d.interruptions),
begun AS (INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, outcome)
  SELECT :org, id, attempts, now(), 'started' FROM taken RETURNING delivery_id)
SELECT t.id, t.event_id, t.attempts, t.interruptions, e.payload FROM taken t
JOIN begun b ON b.delivery_id = t.id JOIN events e ON e.organization_id = :org AND e.id = t.event_id
""")
_INTERRUPTED = sa.text("""
UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now()
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS v (id, n)
WHERE a.organization_id = :org AND a.delivery_id = v.id AND a.n < v.n AND a.outcome = 'started'
""")

Owner = tuple[UUID, UUID]
"""An organization and one of its endpoints."""


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery that is ours for the length of a lease.

    attempt: its number, from 1; tries: those before it that came to an end
    is_slow: the endpoint has failed lately, and gets one at a time
    """

    owner: Owner
    id: UUID
    token: UUID
    webhook_id: str
    url: str
    body: bytes
    secrets: tuple[str, ...]
    attempt: int
    interruptions: int
    is_slow: bool

    @property
    def tries(self) -> int:
        """How many attempts came to an end before this one."""
        return self.attempt - 1 - self.interruptions


def list_due_endpoints() -> DueOwners[Owner]:
    """Endpoints with deliveries that are due, drawn by lot: those that are slow stay due and must not fill the list."""
    with tenancy.system_session("webhooks.due") as session:
        rows = session.execute(_DUE, {"soon": LOOKAHEAD_SECONDS, "limit": MAX_ENDPOINTS_PER_SCAN}).all()
    later = [row.seconds for row in rows if row.seconds > 0]
    return DueOwners([(row[0], row[1]) for row in rows if row.seconds <= 0], min(later, default=None))


def claim_deliveries(owner: Owner, wanted: int, wanted_if_slow: int) -> list[ClaimedDelivery]:
    """Take some of an endpoint's due deliveries; no more than its limit are under way anywhere at once.

    wanted, wanted_if_slow: at most so many; the second of an endpoint that has failed lately
    """
    organization_id, endpoint_id = owner
    token = uuid.uuid4()
    values = {"org": organization_id, "endpoint": endpoint_id, "token": token, "lease": setting("LEASE_SECONDS")}
    with tenancy.tenant_session(organization_id) as session:
        endpoint = session.execute(_LOCK_ENDPOINT, values).one()
        if not endpoint.is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
            return []
        is_slow = endpoint.in_flight_limit == 1
        limits = {"wanted": wanted_if_slow if is_slow else wanted, "limit": endpoint.in_flight_limit}
        rows = session.execute(_CLAIM, {**values, **limits}).all()
        if rows:
            _fail_interrupted(session, organization_id, rows)
        signing_secrets = tuple(secrets.list_active_secrets(session, organization_id, endpoint_id)) if rows else ()
    fault_point("webhook.claimed")
    return [
        ClaimedDelivery(
            owner,
            row.id,
            token,
            ids.format_id("evt", row.event_id),
            endpoint.url,
            (payload.build_thin_payload(row.payload) if endpoint.payload == "thin" else row.payload).encode(),
            signing_secrets,
            row.attempts,
            row.interruptions,
            is_slow,
        )
        for row in rows
    ]


def _fail_interrupted(session: Session, organization_id: UUID, rows: list[Any] | Any) -> None:
    values = {"org": organization_id, "ids": [row.id for row in rows], "numbers": [row.attempts for row in rows]}
    session.execute(_INTERRUPTED, values)


RESPONSE_EXCERPT_BYTES = 8_192
_GONE = 410
_LOCK_ENDPOINT_HEALTH = sa.text("""
SELECT status = 'enabled' AND deleted_at IS NULL FROM webhook_endpoints
WHERE organization_id = :org AND id = :endpoint FOR NO KEY UPDATE
""")
_WRITE = sa.text("""
UPDATE webhook_deliveries d SET status = v.status, last_status = v.code, error_code = v.error, lease_token = NULL,
  next_at = CASE WHEN v.status = 'queued' THEN now() + make_interval(secs => v.delay) END,
  finished_at = CASE WHEN v.status <> 'queued' THEN now() END
FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:codes AS int[]), CAST(:errors AS text[]),
  CAST(:delays AS float8[])) AS v (id, status, code, error, delay)
WHERE d.organization_id = :org AND d.id = v.id AND d.status = 'sending' AND d.lease_token = :token RETURNING d.id
""")
_INSERT_ATTEMPTS = sa.text("""
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
_MARK_FAILING = sa.text("""
UPDATE webhook_endpoints SET consecutive_failures = consecutive_failures + :failures, in_flight_limit = 1,
  first_failure_at = coalesce(first_failure_at, now())
WHERE organization_id = :org AND id = :endpoint
""")


@dataclass(frozen=True)
class AttemptResult:
    """What came of an attempt.

    outcome: "ok", "http_error", "timeout", "connection", "blocked" or "interrupted"
    error: for a person
    """

    claimed: ClaimedDelivery
    outcome: str
    duration_ms: int | None = None
    status: int | None = None
    body: bytes = b""
    retry_after: int | None = None
    error: str | None = None


def record_results(owner: Owner, token: UUID, results: Sequence[AttemptResult]) -> int:
    """Bring deliveries to their next state.

    returns: how many of them were no longer ours
    """
    organization_id, endpoint_id = owner
    is_gone = any(result.status == _GONE for result in results)
    with tenancy.tenant_session(organization_id) as session:
        if is_gone:
            endpoints.announce(session, organization_id)
        is_open = session.scalar(_LOCK_ENDPOINT_HEALTH, {"org": organization_id, "endpoint": endpoint_id})
        kept = set(session.scalars(_WRITE, _states(organization_id, token, results)))
        ours = [result for result in results if result.claimed.id in kept]
        if ours:
            session.execute(_INSERT_ATTEMPTS, _log(organization_id, ours))
            _update_endpoint_health(session, owner, ours)
        if any(result.status == _GONE for result in ours):
            endpoints.disable_endpoint(session, organization_id, endpoint_id, EndpointStatus.DISABLED_GONE)
        if not is_open:
            endpoints.cancel_pending_deliveries(session, organization_id, endpoint_id)
    lost = len(results) - len(kept)
    if lost:
        log.warning("leases_lost", count=lost)
    return lost


def _states(organization_id: UUID, token: UUID, results: Sequence[AttemptResult]) -> dict[str, Any]:
    decided = [_next_state(result) for result in results]
    return {
        "org": organization_id,
        "token": token,
        "ids": [result.claimed.id for result in results],
        "codes": [result.status for result in results],
        "statuses": [status for status, _, _ in decided],
        "errors": [error for _, error, _ in decided],
        "delays": [delay for _, _, delay in decided],
    }


def _next_state(result: AttemptResult) -> tuple[str, str | None, float]:
    """Status, error code, and seconds until the next try."""
    if result.outcome == "ok":
        return "delivered", None, 0.0
    error = f"http_{result.status}" if result.status else result.error if result.error == "poisoned" else result.outcome
    failed = result.claimed.tries + 1
    if result.status == _GONE or result.outcome == "interrupted" or failed >= MAX_ATTEMPTS:
        return "failed", error, 0.0
    status = None if result.outcome == "timeout" else result.status or 0
    seconds = retries.retry_delay_seconds(failed, status, result.retry_after)
    return "queued", error, seconds / setting("TIME_SCALE")


def _log(organization_id: UUID, results: Sequence[AttemptResult]) -> dict[str, Any]:
    return {
        "org": organization_id,
        "ids": [result.claimed.id for result in results],
        "numbers": [result.claimed.attempt for result in results],
        "codes": [result.status for result in results],
        "durations": [result.duration_ms for result in results],
        "texts": [result.error for result in results],
        "outcomes": [result.outcome for result in results],
        "snippets": [_response_excerpt(result.body) for result in results],
    }


def _response_excerpt(body: bytes) -> str | None:
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text.encode()[:RESPONSE_EXCERPT_BYTES].decode("utf-8", "ignore") or None


def _update_endpoint_health(session: Session, owner: Owner, results: Sequence[AttemptResult]) -> None:
    failures = sum(result.outcome != "ok" for result in results)
    values = {"org": owner[0], "endpoint": owner[1], "failures": failures}
    if failures < len(results):
        session.execute(_MARK_HEALTHY, values)
    if failures:
        session.execute(_MARK_FAILING, values)


DEADLINE_SECONDS, CONNECT_SECONDS = 15.0, 5.0
MAX_PARALLEL_PER_ENDPOINT = 50
RESULT_BATCH_SIZE = 200
_POLL_SECONDS, _FLUSH_SECONDS, _BACKOFF_SECONDS = 0.25, 0.05, 60.0


@dataclass
class _DispatchPool:
    """What one drain has under way.

    resting: endpoints that had nothing to give, or as much under way as they may, until when
    """

    pool: ThreadPoolExecutor
    width: int
    allowed: tuple[str, ...]
    under_way: dict[Future[AttemptResult], ClaimedDelivery] = field(default_factory=dict)
    resting: dict[Owner, float] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Threads with nothing to do."""
        return self.width - len(self.under_way)

    @property
    def free_for_slow(self) -> int:
        """Threads that endpoints which have failed lately may still take: half of them all together."""
        return min(self.free, self.width // 2 - sum(one.is_slow for one in self.under_way.values()))


def run_dispatch(*, at_most_seconds: float | None = None) -> None:
    """Deliver until twice nothing is due, or time is up; what is under way then is waited for.

    at_most_seconds: less than a job's usual time, for the scheduler
    """
    queue.allow_next_wake(DRAIN_JOB)
    deadline = time.monotonic() + (at_most_seconds or setting("DRAIN_SECONDS"))
    width = setting("WEBHOOK_CONCURRENCY")
    with ThreadPoolExecutor(width) as pool:
        line = _DispatchPool(pool, width, tuple(setting("WEBHOOK_ALLOWED_NETWORKS")))
        try:
            is_done = _run(line, deadline)
        finally:
            while line.under_way:
                _flush_results(line)
            counters.flush_counters()
    if not is_done:
        queue.wake_workers(DRAIN_JOB, is_forced=True)


def _run(line: _DispatchPool, deadline: float) -> bool:
    """Go on claiming; returns whether nothing was left."""
    empty = 0
    while empty < 2:
        if queue.is_stopping() or time.monotonic() >= deadline:
            return False
        found = list_due_endpoints()
        now = time.monotonic()
        owners = [owner for owner in found.owners if line.resting.get(owner, 0.0) <= now]
        claimed = sum(_start_safely(line, owner) for owner in random.sample(owners, len(owners)))
        if line.under_way:
            _flush_results(line)
        is_soon = found.next_seconds is not None and found.next_seconds <= deadline - time.monotonic()
        if claimed or line.under_way or found.owners:
            empty = 0
            if not claimed:
                time.sleep(0 if line.under_way else _POLL_SECONDS)
        elif is_soon:
            time.sleep(_POLL_SECONDS)
        else:
            empty += 1
            time.sleep(_POLL_SECONDS if empty < 2 else 0)
    return True


def _start_safely(line: _DispatchPool, owner: Owner) -> int:
    wanted = min(line.free, MAX_PARALLEL_PER_ENDPOINT)
    if wanted <= 0:
        return 0
    try:
        claimed = claim_deliveries(owner, wanted, max(0, line.free_for_slow))
    except JobTimeoutException:
        raise
    except Exception:  # one endpoint's trouble must not hold up the others
        log.exception("webhook_claim_failed", endpoint_id=str(owner[1]))
        line.resting[owner] = time.monotonic() + _BACKOFF_SECONDS
        return 0
    if not claimed:
        line.resting[owner] = time.monotonic() + _POLL_SECONDS
    for one in claimed:
        line.under_way[line.pool.submit(_send, one, line.allowed)] = one
    return len(claimed)


def _send(claimed: ClaimedDelivery, allowed: tuple[str, ...]) -> AttemptResult:
    if claimed.interruptions >= MAX_INTERRUPTIONS:
        return AttemptResult(claimed, "interrupted", error="poisoned")
    sent_at = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "saas-api-webhooks/1",
        **payload.signature_headers(claimed.secrets, claimed.webhook_id, sent_at, claimed.body),
    }
    started = time.monotonic()
    try:
        reply = client.post_once(
            claimed.url,
            claimed.body,
            headers,
            deadline=DEADLINE_SECONDS,
            connect=CONNECT_SECONDS,
            max_response=RESPONSE_EXCERPT_BYTES,
            allowed=allowed,
        )
    except AddressNotAllowed as error:
        return AttemptResult(claimed, "blocked", _elapsed_ms(started), error=str(error))
    except DeadlineExceeded as error:
        return AttemptResult(claimed, "timeout", _elapsed_ms(started), error=str(error))
    except ConnectionFailed as error:
        return AttemptResult(claimed, "connection", _elapsed_ms(started), error=str(error))
    fault_point("webhook.after_response")
    kind = "ok" if 200 <= reply.status < 300 else "http_error"
    lower = {name.lower(): value for name, value in reply.headers.items()}
    asked = retries.parse_retry_after(lower.get("retry-after"), time.time())
    return AttemptResult(claimed, kind, _elapsed_ms(started), reply.status, reply.body, asked)


def _elapsed_ms(started: float) -> int:
    return round(1000 * (time.monotonic() - started))


def _flush_results(line: _DispatchPool) -> None:
    wait(line.under_way, timeout=_FLUSH_SECONDS, return_when=FIRST_COMPLETED)
    finished = [future for future in line.under_way if future.done()][:RESULT_BATCH_SIZE]
    by_endpoint: defaultdict[tuple[Owner, UUID], list[AttemptResult]] = defaultdict(list)
    for future in finished:
        claimed = line.under_way.pop(future)
        line.resting.pop(claimed.owner, None)
        try:
            result = future.result()
        except Exception as error:
            log.exception("webhook_send_failed", delivery_id=str(claimed.id))
            result = AttemptResult(claimed, "connection", error=type(error).__name__)
        by_endpoint[claimed.owner, claimed.token].append(result)
        counters.increment("webhook_attempts_total", result.outcome)
    for (owner, token), results in by_endpoint.items():
        try:
            lost = record_results(owner, token, results)
        except JobTimeoutException:
            raise
        except Exception:  # the leases expire, and the deliveries are due again
            log.exception("webhook_record_failed", endpoint_id=str(owner[1]))
        else:
            counters.increment("lease_lost_total", "webhooks", lost)
