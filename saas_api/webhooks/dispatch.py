"""Dispatch of deliveries: claim due ones, send them from a thread pool, and record the results in groups."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from rq.timeouts import JobTimeoutException

from saas_api.core.jobs import counters, queue
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.webhooks import attempts, claims
from saas_api.webhooks.attempts import AttemptResult, ClaimedDelivery, EndpointKey
from saas_api.webhooks.claims import Capacity, ClaimedDeliveries
from saas_api.webhooks.events import DRAIN_JOB
from saas_api.webhooks.models import AttemptOutcome

log = get_logger(__name__)

MAX_PARALLEL_PER_ENDPOINT = 50
MAX_HELD = 100
RESULT_BATCH_SIZE = 20
HELD_SECONDS = 0.25
"""Time for which the held deliveries of an endpoint last."""
MAX_HELD_SHARE = 0.4
"""Part of a lease in which a held delivery may be sent; the rest is more than its deadline."""
_POLL_SECONDS, _BACKOFF_SECONDS = 0.25, 60.0
_SCAN_SECONDS, _GATHER_SECONDS = 0.1, 0.2


class _Endpoint:
    """Deliveries of one endpoint that this process has claimed: held, under way, and sent but not recorded.

    max_in_flight: requests that may be under way, as the last claim said
    is_failing: the last attempt failed, so the endpoint receives one request at a time
    has_more: the last claim took as many deliveries as it asked for
    paused_until: monotonic time before which nothing is claimed
    """

    def __init__(self, key: EndpointKey, changed: threading.Event) -> None:
        self.key = key
        self.max_in_flight = 0
        self.is_failing = self.has_more = False
        self.paused_until = 0.0
        self._changed = changed
        self._lock = threading.Lock()  # threads and the drain share what follows
        self._held: deque[tuple[ClaimedDelivery, float]] = deque()
        self._in_flight: dict[UUID, ClaimedDelivery] = {}
        self._results: list[AttemptResult] = []
        self._is_failure_unrecorded = False
        self._mean_seconds = 0.0

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._in_flight)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, under way or to be recorded."""
        with self._lock:
            return not (self._held or self._in_flight or self._results)

    @property
    def needs_more(self) -> bool:
        """Whether a claim is worth its transaction: threads are idle, or soon will be."""
        with self._lock:
            if self.is_failing:  # its limit in PostgreSQL holds once the failure is recorded
                return not (self._held or self._in_flight or self._results)
            has_room = self.in_flight < max(1, self.max_in_flight)
            return len(self._held) < max(int(has_room), self._to_hold() // 2)

    def capacity(self, free: int, free_for_failing: int) -> Capacity:
        """What a claim may take, when so many threads are free."""
        with self._lock:
            own = [*(held for held, _ in self._held), *self._in_flight.values(), *(r.delivery for r in self._results)]
            return Capacity(
                threads=min(self.in_flight + free, MAX_PARALLEL_PER_ENDPOINT),
                threads_if_failing=self.in_flight + free_for_failing,
                to_hold=self._to_hold(),
                own_claims=list({delivery.claim.token for delivery in own}),
                own_count=self.in_flight + len(self._held),
            )

    def hold(self, claimed: ClaimedDeliveries, until: float) -> None:
        """Hold claimed deliveries until threads send them, at the latest at a monotonic time."""
        with self._lock:
            if not self._is_failure_unrecorded:  # of a request that ended during the claim, which could not know
                self.max_in_flight, self.is_failing = claimed.max_in_flight, claimed.is_failing
            self.has_more = not claimed.is_all
            self._held.extend((delivery, until) for delivery in claimed.deliveries)

    def take_next(self) -> ClaimedDelivery | None:
        """The next delivery to send, which is under way then; None when there is none or one more is too many."""
        with self._lock:
            return self._take_next()

    def finish(self, result: AttemptResult) -> ClaimedDelivery | None:
        """Keep the result of a request for `take_results`; returns the next delivery as `take_next` does."""
        with self._lock:
            del self._in_flight[result.delivery.id]
            self._results.append(result)
            self.paused_until = 0.0
            if result.is_endpoint_failure:  # what is held is given back
                self.max_in_flight, self.is_failing = 0, True
                self._is_failure_unrecorded = True
            if result.duration_ms is not None:
                seconds = max(0.001, result.duration_ms / 1000)
                self._mean_seconds = 0.9 * self._mean_seconds + 0.1 * seconds if self._mean_seconds else seconds
            following = self._take_next()
            if self._is_group() or len(self._held) == self._to_hold() // 2:
                self._changed.set()
            return following

    def take_results(self, *, is_late: bool) -> list[AttemptResult]:
        """Results to record now: a group, all of them when no other follows, and when it is late anyway."""
        with self._lock:
            if not (is_late or self._is_group()):
                return []
            taken, self._results = self._results, []
            self._is_failure_unrecorded = False
            return taken

    def take_held(self) -> list[ClaimedDelivery]:
        """Deliveries that this process will not send."""
        with self._lock:
            taken = [delivery for delivery, _ in self._held]
            self._held.clear()
            return taken

    @property
    def is_stuck(self) -> bool:
        """Whether held deliveries cannot leave in time: the endpoint fails, or has become slow."""
        with self._lock:
            return bool(self._held) and (self.max_in_flight == 0 or time.monotonic() >= self._held[0][1])

    def _take_next(self) -> ClaimedDelivery | None:
        if not self._held or self.in_flight >= self.max_in_flight or time.monotonic() >= self._held[0][1]:
            return None
        delivery, _ = self._held.popleft()
        self._in_flight[delivery.id] = delivery
        return delivery

    def _is_group(self) -> bool:
        return len(self._results) >= RESULT_BATCH_SIZE or self.is_failing or not (self._in_flight or self._held)

    def _to_hold(self) -> int:
        if not self._mean_seconds or self.is_failing:
            return 0
        return min(MAX_HELD, round(HELD_SECONDS * self.max_in_flight / self._mean_seconds))


class _Dispatcher:
    """Threads of one drain, and the endpoints that they send to."""

    def __init__(self, pool: ThreadPoolExecutor, thread_count: int, allowed_networks: tuple[str, ...]) -> None:
        self.pool = pool
        self.thread_count = thread_count
        self.allowed_networks = allowed_networks
        self.endpoints: dict[EndpointKey, _Endpoint] = {}
        self.changed = threading.Event()
        self._gathered_at = time.monotonic()
        self._busy_lock = threading.Lock()
        self._busy = 0

    @property
    def free(self) -> int:
        """Idle threads."""
        return self.thread_count - self._busy

    @property
    def free_for_failing(self) -> int:
        """Idle threads for endpoints whose last attempt failed; together they use half of the threads."""
        busy = sum(endpoint.in_flight for endpoint in self.endpoints.values() if endpoint.is_failing)
        return max(0, min(self.free, self.thread_count // 2 - busy))

    @property
    def is_idle(self) -> bool:
        """Whether no endpoint has anything held, under way or to be recorded."""
        return all(endpoint.is_idle for endpoint in self.endpoints.values())

    def find(self, key: EndpointKey) -> _Endpoint:
        """The endpoint of a key."""
        return self.endpoints.setdefault(key, _Endpoint(key, self.changed))

    def claim(self, endpoint: _Endpoint) -> int:
        """Claim deliveries of an endpoint and hand them to the threads; returns how many."""
        now = time.monotonic()
        if self.free <= 0 or endpoint.paused_until > now or not endpoint.needs_more:
            return 0
        endpoint.has_more = False
        try:
            claimed = claims.claim_deliveries(endpoint.key, endpoint.capacity(self.free, self.free_for_failing))
        except JobTimeoutException:
            raise
        except Exception:  # a failure of one endpoint must not delay the others
            log.exception("webhook_claim_failed", endpoint_id=str(endpoint.key[1]))
            endpoint.paused_until = time.monotonic() + _BACKOFF_SECONDS
            return 0
        if not claimed.deliveries:
            endpoint.paused_until = time.monotonic() + _POLL_SECONDS
        endpoint.hold(claimed, now + MAX_HELD_SHARE * setting("LEASE_SECONDS"))
        self.send_held(endpoint)
        return len(claimed.deliveries)

    def send_held(self, endpoint: _Endpoint) -> None:
        """Start threads for held deliveries; each sends one after the other until it may take no more."""
        while self.free > 0 and (delivery := endpoint.take_next()):
            with self._busy_lock:
                self._busy += 1
            self.pool.submit(self._send_all, endpoint, delivery)

    def settle(self, seconds: float) -> None:
        """Wait some time for results, record those that are due, and give back what cannot be sent."""
        self.changed.wait(seconds)
        self.changed.clear()
        now = time.monotonic()
        is_late = now >= self._gathered_at + _GATHER_SECONDS
        if is_late:
            self._gathered_at = now
        for endpoint in list(self.endpoints.values()):
            _record(endpoint, endpoint.take_results(is_late=is_late))
            if endpoint.is_stuck:
                _give_back(endpoint)
            self.send_held(endpoint)

    def finish(self) -> None:
        """Give back what is held, wait for the requests under way, and record their results."""
        for endpoint in self.endpoints.values():
            _give_back(endpoint)
        while not self.is_idle:
            self.settle(_SCAN_SECONDS)

    def _send_all(self, endpoint: _Endpoint, first: ClaimedDelivery) -> None:
        delivery: ClaimedDelivery | None = first
        while delivery:
            delivery = endpoint.finish(self._send(delivery))
        with self._busy_lock:
            self._busy -= 1

    def _send(self, delivery: ClaimedDelivery) -> AttemptResult:
        try:
            return attempts.send(delivery, self.allowed_networks)
        except Exception as error:
            log.exception("webhook_send_failed", delivery_id=str(delivery.id))
            return AttemptResult(delivery, AttemptOutcome.CONNECTION, error=type(error).__name__)


def run_dispatch(*, at_most_seconds: float | None = None) -> None:
    """Send due deliveries until two scans find none or the time is up, then wait for those under way.

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
            dispatcher.finish()
            counters.flush_counters()
    if not is_drained:
        queue.wake_workers(DRAIN_JOB, is_forced=True)


def _run_rounds(dispatcher: _Dispatcher, deadline: float) -> bool:
    """Scan and send until nothing is due; returns False when the time was up before."""
    empty_scans = 0
    while empty_scans < 2:
        if queue.is_stopping() or time.monotonic() >= deadline:
            return False
        scan = claims.list_due_endpoints()
        due = {dispatcher.find(key) for key in scan.owners}
        is_next_soon = scan.next_seconds is not None and scan.next_seconds <= deadline - time.monotonic()
        claimed_count = sum(dispatcher.claim(endpoint) for endpoint in _shuffle(due))
        if not dispatcher.is_idle:
            empty_scans = 0
            _send_until_next_scan(dispatcher)
        elif due or claimed_count or is_next_soon:
            empty_scans = 0
            time.sleep(_POLL_SECONDS)
        else:
            empty_scans += 1
            time.sleep(_POLL_SECONDS if empty_scans < 2 else 0)
    return True


def _send_until_next_scan(dispatcher: _Dispatcher) -> None:
    """Record results, and claim more of the endpoints that have more, until it is time to look for others."""
    scan_at = time.monotonic() + _SCAN_SECONDS
    while not dispatcher.is_idle and (seconds := scan_at - time.monotonic()) > 0:
        dispatcher.settle(seconds)
        for endpoint in _shuffle(endpoint for endpoint in dispatcher.endpoints.values() if endpoint.has_more):
            if not queue.is_stopping():
                dispatcher.claim(endpoint)


def _shuffle(endpoints: Iterable[_Endpoint]) -> list[_Endpoint]:
    """Endpoints in random order: the first ones must not take all threads each time."""
    listed = list(endpoints)
    return random.sample(listed, len(listed))


def _record(endpoint: _Endpoint, results: list[AttemptResult]) -> None:
    for result in results:
        counters.increment("webhook_attempts_total", result.outcome.value)
    try:
        if results:
            claims.record_results(endpoint.key, results)
    except JobTimeoutException:
        raise
    except Exception:  # the leases expire, and the deliveries are due again
        log.exception("webhook_record_failed", endpoint_id=str(endpoint.key[1]))


def _give_back(endpoint: _Endpoint) -> None:
    held = endpoint.take_held()
    try:
        if held:
            claims.give_back_deliveries(endpoint.key, held)
    except JobTimeoutException:
        raise
    except Exception:  # as above
        log.exception("webhook_give_back_failed", endpoint_id=str(endpoint.key[1]))
