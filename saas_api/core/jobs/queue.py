"""Jobs by name, their queues, and the wake-ups that announce work to the workers.

A wake-up says that there may be work; the work itself is in PostgreSQL.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from flask import current_app
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.orm import Session

from saas_api.core import domain, redis_url, request_context, tracing
from saas_api.core.db import cells, engine
from saas_api.core.jobs.redis_jobs import RedisQueue
from saas_api.core.limits import circuit_breaker, direct_connections
from saas_api.core.limits.circuit_breaker import CircuitBreaker, RedisUnavailable
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

BACKGROUND = "background"
JOB_TIMEOUT_GRACE_SECONDS = 40
FAILURE_TTL_SECONDS = 3600
_DEBOUNCE_SECONDS = 0.05
_WAKE_TTL_MS = 1000

stop_requested = threading.Event()
_last_wake_at: dict[tuple[str, str | None], float] = {}
_jobs: dict[str, Callable[[], Any]] = {}
_drain_queues: dict[str, str] = {}


def register_job(name: str, call: Callable[[], Any]) -> None:
    """Register a function that workers run by its job name, `domain.verb`.

    raises: ValueError when the name is registered already
    """
    if name in _jobs:
        raise ValueError(f"The job {name} is registered already.")
    _jobs[name] = call


def register_drain(name: str, call: Callable[[], Any], queue: str) -> None:
    """Register a job that works through the due rows of a table; idle workers of its queue wake it too.

    queue: BACKGROUND, or one that a domain declares
    raises: ValueError when the name is registered already or the queue is unknown
    """
    if queue not in queue_names():
        raise ValueError(f"No domain declares the queue {queue}.")
    register_job(name, call)
    _drain_queues[name] = queue


def queue_names() -> list[str]:
    """Return the names of all queues, sorted."""
    return sorted({BACKGROUND, *domain.registry.queues})


def drains_of_queue(queue: str) -> list[str]:
    """Return the names of the drains that a queue carries."""
    return [job for job, drain_queue in _drain_queues.items() if drain_queue == queue]


def queue_for_job(job: str) -> str:
    """Return the queue of a job."""
    return _drain_queues.get(job, BACKGROUND)


def enqueue(session: Session, job: str) -> None:
    """Wake a job after the session commits."""
    engine.after_commit(session, functools.partial(wake_workers, job))


def wake_workers(job: str, *, is_forced: bool = False) -> bool:
    """Announce to the workers that a job may have work in the current cell.

    It does not raise, and waits at most 100 ms for Redis.

    A wake-up within a second of another is dropped, because the drain of the first has not scanned yet.
    is_forced: send it anyway, as sweeps do
    returns: False when Redis is unavailable
    """
    now, target = time.monotonic(), (job, cells.current())
    if not is_forced and now - _last_wake_at.get(target, 0.0) < _DEBOUNCE_SECONDS:
        return True
    _last_wake_at[target] = now
    try:
        _breaker().call(_push, job, is_forced)
    except RedisUnavailable:
        log.warning("wake_failed", job=job)
        return False
    return True


def allow_next_wake(job: str) -> None:
    """Send the next wake-up of a job again; a drain calls this before its first scan."""
    try:
        _breaker().call(fast_redis().delete, _wake_key(job))
    except RedisUnavailable:
        log.warning("wake_not_cleared", job=job)


def run_job(job: str, cell: str | None = None) -> Any:
    """Run a job inside an application context.

    cell: where it works; None for home
    raises: LookupError when no job of that name is registered
    """
    if job not in _jobs:
        raise LookupError(f"There is no job {job}.")
    call = _jobs[job]
    request_context.clear_context()
    request_context.bind_context(job=job)
    try:
        with tracing.span(f"job {job}", "consumer"), cells.use(cell), cells.hold_moves():
            return call()
    finally:
        request_context.clear_context()


def fast_redis() -> redis.Redis:
    """Return a client with a time-out of 50 ms, for wake-ups inside requests."""
    extensions = current_app.extensions
    if "redis" not in extensions:
        extensions["redis"] = redis.Redis(connection_pool=direct_connections.low_latency_pool(setting("REDIS_URL")))
    client: redis.Redis = extensions["redis"]
    return client


def worker_redis() -> redis.Redis:
    """Return a client for workers and the scheduler, with a time-out of half a second; RQ's own would wait for 20."""
    return redis.Redis.from_url(
        setting("REDIS_URL"), socket_connect_timeout=0.25, socket_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )


def is_stopping() -> bool:
    """Whether this process was asked to finish its claimed work and claim no more."""
    return stop_requested.is_set()


def _breaker() -> CircuitBreaker:
    """The breaker of the queue's Redis, which is that of the limits where these are counted there."""
    return circuit_breaker.breaker_of(redis_url.parse(setting("REDIS_URL")).name)


def _push(job: str, is_forced: bool) -> None:
    connection = fast_redis()
    if not connection.set(_wake_key(job), 1, nx=True, px=_WAKE_TTL_MS) and not is_forced:
        return
    cell = cells.current()
    RedisQueue(queue_for_job(job), connection).enqueue_call(
        run_job,
        args=(job,) if cell is None else (job, cell),
        timeout=setting("DRAIN_SECONDS") + JOB_TIMEOUT_GRACE_SECONDS,
        result_ttl=0,
        failure_ttl=FAILURE_TTL_SECONDS,
    )


def _wake_key(job: str) -> str:
    cell = cells.current()
    return f"wake:{job}" if cell is None else f"wake:{job}:{cell}"
