"""Sending what is due: a pipeline of threads over all endpoints, so that a slow one holds up nobody else."""

import random
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from uuid import UUID

from rq.timeouts import JobTimeoutException

from saas_api.core import lease, net, observe, queue
from saas_api.core.settings import setting
from saas_api.webhooks import rules
from saas_api.webhooks.service.claiming import Claimed, Owner, claim, due
from saas_api.webhooks.service.publishing import DRAIN
from saas_api.webhooks.service.recording import SNIPPET_BYTES, Result, record

log = observe.get_logger(__name__)

DEADLINE_SECONDS, CONNECT_SECONDS = 15.0, 5.0
AT_ONCE = 50
WRITTEN_AT_ONCE = 200
_LOOK_SECONDS, _WRITE_SECONDS, _TROUBLE_SECONDS = 0.25, 0.05, 60.0


@dataclass
class _Line:
    """What one drain has under way.

    resting: endpoints that had nothing to give, or as much under way as they may, until when
    """

    pool: ThreadPoolExecutor
    width: int
    allowed: tuple[str, ...]
    under_way: dict[Future[Result], Claimed] = field(default_factory=dict)
    resting: dict[Owner, float] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Threads with nothing to do."""
        return self.width - len(self.under_way)

    @property
    def free_for_slow(self) -> int:
        """Threads that endpoints which have failed lately may still take: half of them all together."""
        return min(self.free, self.width // 2 - sum(one.is_slow for one in self.under_way.values()))


def deliver_due(*, at_most_seconds: float | None = None) -> None:
    """Deliver until twice nothing is due, or time is up; what is under way then is waited for.

    at_most_seconds: less than a job's usual time, for the scheduler
    """
    queue.started(DRAIN)
    deadline = time.monotonic() + (at_most_seconds or setting("DRAIN_SECONDS"))
    width = setting("WEBHOOK_CONCURRENCY")
    with ThreadPoolExecutor(width) as pool:
        line = _Line(pool, width, tuple(setting("WEBHOOK_ALLOWED_NETWORKS")))
        try:
            is_done = _run(line, deadline)
        finally:
            while line.under_way:
                _write_finished(line)
            lease.write_tally()
    if not is_done:
        queue.wake(DRAIN, is_forced=True)


def _run(line: _Line, deadline: float) -> bool:
    """Go on claiming; returns whether nothing was left."""
    empty = 0
    while empty < 2:
        if queue.is_stopping() or time.monotonic() >= deadline:
            return False
        found = due()
        now = time.monotonic()
        owners = [owner for owner in found.organizations if line.resting.get(owner, 0.0) <= now]
        claimed = sum(_start_safely(line, owner) for owner in random.sample(owners, len(owners)))
        if line.under_way:
            _write_finished(line)
        is_soon = found.next_seconds is not None and found.next_seconds <= deadline - time.monotonic()
        if claimed or line.under_way or found.organizations:
            empty = 0
            if not claimed:
                time.sleep(0 if line.under_way else _LOOK_SECONDS)
        elif is_soon:
            time.sleep(_LOOK_SECONDS)
        else:
            empty += 1
            time.sleep(_LOOK_SECONDS if empty < 2 else 0)
    return True


def _start_safely(line: _Line, owner: Owner) -> int:
    wanted = min(line.free, AT_ONCE)
    if wanted <= 0:
        return 0
    try:
        claimed = claim(owner, wanted, max(0, line.free_for_slow))
    except JobTimeoutException:
        raise
    except Exception:  # one endpoint's trouble must not hold up the others
        log.exception("webhook_claim_failed", endpoint_id=str(owner[1]))
        line.resting[owner] = time.monotonic() + _TROUBLE_SECONDS
        return 0
    if not claimed:
        line.resting[owner] = time.monotonic() + _LOOK_SECONDS
    for one in claimed:
        line.under_way[line.pool.submit(_send, one, line.allowed)] = one
    return len(claimed)


def _send(claimed: Claimed, allowed: tuple[str, ...]) -> Result:
    if claimed.interruptions >= rules.POISONED_AFTER:
        return Result(claimed, "interrupted", error="poisoned")
    sent_at = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "saas-api-webhooks/1",
        **rules.headers(claimed.secrets, claimed.webhook_id, sent_at, claimed.body),
    }
    started = time.monotonic()
    try:
        reply = net.post(
            claimed.url,
            claimed.body,
            headers,
            deadline=DEADLINE_SECONDS,
            connect=CONNECT_SECONDS,
            max_response=SNIPPET_BYTES,
            allowed=allowed,
        )
    except net.Blocked as error:
        return Result(claimed, "blocked", _since(started), error=str(error))
    except net.TimedOut as error:
        return Result(claimed, "timeout", _since(started), error=str(error))
    except net.Unreachable as error:
        return Result(claimed, "connection", _since(started), error=str(error))
    observe.fault("webhook.after_response")
    kind = "ok" if 200 <= reply.status < 300 else "http_error"
    lower = {name.lower(): value for name, value in reply.headers.items()}
    asked = rules.asked_seconds(lower.get("retry-after"), time.time())
    return Result(claimed, kind, _since(started), reply.status, reply.body, asked)


def _since(started: float) -> int:
    return round(1000 * (time.monotonic() - started))


def _write_finished(line: _Line) -> None:
    wait(line.under_way, timeout=_WRITE_SECONDS, return_when=FIRST_COMPLETED)
    finished = [future for future in line.under_way if future.done()][:WRITTEN_AT_ONCE]
    by_endpoint: defaultdict[tuple[Owner, UUID], list[Result]] = defaultdict(list)
    for future in finished:
        claimed = line.under_way.pop(future)
        line.resting.pop(claimed.owner, None)
        try:
            result = future.result()
        except Exception as error:
            log.exception("webhook_send_failed", delivery_id=str(claimed.id))
            result = Result(claimed, "connection", error=type(error).__name__)
        by_endpoint[claimed.owner, claimed.token].append(result)
        lease.tally("webhook_attempts_total", result.outcome)
    for (owner, token), results in by_endpoint.items():
        try:
            lost = record(owner, token, results)
        except JobTimeoutException:
            raise
        except Exception:  # the leases expire, and the deliveries are due again
            log.exception("webhook_record_failed", endpoint_id=str(owner[1]))
        else:
            lease.tally("lease_lost_total", "webhooks", lost)
