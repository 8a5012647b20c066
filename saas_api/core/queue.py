"""Wake-ups: RQ carries no facts, only the news that there may be work; PostgreSQL says what it is.

A job is registered under a name by the `jobs.py` of its package; whoever wakes it knows the name alone.
"""

import contextlib
import functools
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
import rq
from flask import Flask, current_app
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.exceptions import StopRequested
from rq.job import Job
from sqlalchemy.orm import Session

from saas_api.core import limits, observe
from saas_api.core.db import after_commit, dispose
from saas_api.core.domain import registry
from saas_api.core.settings import setting

log = observe.get_logger(__name__)

BACKGROUND = "background"
GRACE_SECONDS = 40
KEPT_FAILURE_SECONDS = 3600
_DEBOUNCE_SECONDS = 0.05
_WAKE_KEPT_MS = 1000

_stopping = threading.Event()
_woken: dict[str, float] = {}
_jobs: dict[str, Callable[[], Any]] = {}
_drain_queues: dict[str, str] = {}


def register_job(name: str, call: Callable[[], Any]) -> None:
    """Register a function that workers run by its name, `domain.verb`.

    raises: ValueError when the name is registered already
    """
    if name in _jobs:
        raise ValueError(f"The job {name} is registered already.")
    _jobs[name] = call


def register_drain(name: str, call: Callable[[], Any], queue: str) -> None:
    """Register a job that empties a table, which its queue wakes from time to time without being told.

    queue: BACKGROUND, or one that a domain declares
    raises: ValueError when the name is registered already or the queue is unknown
    """
    if queue not in queue_names():
        raise ValueError(f"No domain declares the queue {queue}.")
    register_job(name, call)
    _drain_queues[name] = queue


def job_names() -> list[str]:
    """Names of all registered jobs, sorted."""
    return sorted(_jobs)


def queue_names() -> list[str]:
    """Names of all queues, sorted."""
    return sorted({BACKGROUND, *registry.queues})


def queue_of(job: str) -> str:
    """Name of the queue that carries a job."""
    return _drain_queues.get(job, BACKGROUND)


def enqueue(session: Session, job: str) -> None:
    """Wake a job once this session has committed."""
    after_commit(session, functools.partial(wake, job))


def wake(job: str, *, is_forced: bool = False) -> bool:
    """Tell the workers that there may be work; never raises, and a dead Redis costs at most 100 ms.

    A wake-up within a second of another is dropped: the drain it announced has yet to look.
    is_forced: pass even so, for sweeps
    returns: False when Redis could not be told
    """
    now = time.monotonic()
    if not is_forced and now - _woken.get(job, 0.0) < _DEBOUNCE_SECONDS:
        return True
    _woken[job] = now
    try:
        limits.storage().run(_push, job, is_forced)
    except (limits.Away, redis.RedisError):
        log.warning("wake_failed", job=job)
        return False
    return True


def started(job: str) -> None:
    """Let the next wake-up of a job through; a drain calls it before its first look."""
    try:
        limits.storage().run(client().delete, _wake_key(job))
    except (limits.Away, redis.RedisError):
        log.warning("wake_not_cleared", job=job)


def perform(job: str) -> Any:
    """Run a job by its name, in an application's context.

    raises: LookupError when no job of that name is registered
    """
    if job not in _jobs:
        raise LookupError(f"There is no job {job}.")
    call = _jobs[job]
    observe.clear()
    observe.bind(job=job)
    try:
        return call()
    finally:
        observe.clear()


def client() -> redis.Redis:
    """A client that gives up after 50 ms: for wake-ups, inside requests too."""
    extensions = current_app.extensions
    if "redis" not in extensions:
        extensions["redis"] = redis.Redis(connection_pool=limits.hot_pool(setting("REDIS_URL")))
    found: redis.Redis = extensions["redis"]
    return found


def patient_client() -> redis.Redis:
    """A client for workers and the scheduler, which may wait half a second; RQ lets its own wait for 20."""
    return redis.Redis.from_url(
        setting("REDIS_URL"), socket_connect_timeout=0.25, socket_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )


def is_stopping() -> bool:
    """Whether this work horse was told to finish what it holds and take no more."""
    return _stopping.is_set()


class Worker(rq.Worker):
    """An RQ worker on one queue whose stop reaches its work horse, and which looks for work nobody announced."""

    app: Flask
    max_connection_wait_time = 5.0

    def __init__(self, app: Flask, queue: str, connection: redis.Redis, parent_pid: int) -> None:
        super().__init__(
            [queue],
            name=f"{queue}-{uuid.uuid4().hex}",
            connection=connection,
            worker_ttl=25,
            maintenance_interval=setting("SWEEP_SECONDS"),
        )
        self.app = app
        self.parent_pid = parent_pid

    def heartbeat(self, *arguments: Any, **options: Any) -> None:
        """Besides RQ's own sign of life, stop when the supervisor is gone."""
        if os.getpid() == self.pid and os.getppid() != self.parent_pid:
            self._stop_requested = True
            if not self.horse_pid:
                raise StopRequested
        super().heartbeat(*arguments, **options)

    def run_maintenance_tasks(self) -> None:
        """Besides RQ's own cleaning, wake the own queue."""
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]  # RQ is not annotated here
        for job, queue in _drain_queues.items():
            if queue in self.queue_names():
                with self.app.app_context():
                    wake(job, is_forced=True)

    def main_work_horse(self, job: Job, queue: rq.Queue) -> None:
        """Begin the fork with connections of its own."""
        _stopping.clear()
        with self.app.app_context():
            dispose(close=False)
            self.app.extensions.pop("redis", None)
            limits.storage().storage.connection_pool.reset()
            super().main_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """SIGUSR1 asks the horse to finish what it holds."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # RQ is not annotated here
        signal.signal(signal.SIGUSR1, lambda _number, _frame: _stopping.set())

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Pass a warm stop on to the horse."""
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGUSR1)
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ is not annotated here


def work_off() -> None:
    """Perform every queued job in this process until none is left; for tests."""
    connection = patient_client()
    queues = [rq.Queue(name, connection=connection) for name in queue_names()]
    while any(queue.get_job_ids() for queue in queues):
        for queue in queues:
            for job_id in queue.get_job_ids():
                job = Job.fetch(job_id, connection=connection)
                queue.remove(job_id)
                perform(*job.args)
    connection.close()


def _push(job: str, is_forced: bool) -> None:
    connection = client()
    if not connection.set(_wake_key(job), 1, nx=True, px=_WAKE_KEPT_MS) and not is_forced:
        return
    rq.Queue(queue_of(job), connection=connection).enqueue_call(
        perform,
        args=(job,),
        timeout=setting("DRAIN_SECONDS") + GRACE_SECONDS,
        result_ttl=0,
        failure_ttl=KEPT_FAILURE_SECONDS,
    )


def _wake_key(job: str) -> str:
    return f"wake:{job}"
