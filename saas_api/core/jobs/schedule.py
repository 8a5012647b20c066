"""ScheduledJob, @scheduled, run_scheduled with its lease, run_due_jobs, run_sweeps, list_last_runs."""

import os
import platform
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import orjson
import sqlalchemy as sa

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.domain import Domain
from saas_api.core.jobs import queue as job_queue
from saas_api.core.jobs.outbox import DueOwners
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.observability import get_logger

log = get_logger(__name__)

Job = TypeVar("Job", bound=Callable[[], Any])

DOMAIN = Domain(name="core.jobs", system_purposes=("queue.runs",))


_CLAIM_NEW_RUN = sa.text("""
INSERT INTO job_runs (job, scheduled_for, host, next_at, lease_token)
VALUES (:job, :slot, :host, now() + interval '2 min', :token) ON CONFLICT DO NOTHING RETURNING attempts
""")
_CLAIM_ABANDONED_RUN = sa.text("""
UPDATE job_runs SET state = 'running', attempts = attempts + 1, host = :host, next_at = now() + interval '2 min',
       lease_token = :token, finished_at = NULL
 WHERE job = :job AND scheduled_for = :slot AND (state = 'failed' OR state = 'running' AND next_at <= now())
RETURNING attempts
""")
_FINISH_RUN = sa.text("""
UPDATE job_runs SET state = :state, stats = CAST(:stats AS jsonb), error = :error, lease_token = NULL, next_at = NULL,
       finished_at = now()
 WHERE job = :job AND scheduled_for = :slot AND lease_token = :token
""")
_SUPERSEDE = sa.text("""
UPDATE job_runs SET state = 'failed', error = coalesce(error, 'superseded'), next_at = NULL, lease_token = NULL,
       finished_at = now()
 WHERE job = :job AND scheduled_for < :slot AND state = 'running' AND next_at <= now()
""")
_LAST = sa.text("""
SELECT DISTINCT ON (job) job, scheduled_for, state, started_at, finished_at, error FROM job_runs
 ORDER BY job, scheduled_for DESC
""")
_NEWEST = sa.text("SELECT extract(epoch FROM now() - max(started_at))::float8 FROM job_runs")


@dataclass(frozen=True)
class JobRun:
    """The newest slot of a job that somebody took."""

    job: str
    scheduled_for: datetime
    state: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None


def run_scheduled(job: str, slot: datetime, host: str) -> bool:
    """Run a job for one slot of its cadence, unless somebody did or does; a failed or killed run is taken up again.

    slot: the instant the cadence names, UTC
    returns: whether it ran here
    """
    token = uuid.uuid4()
    names = {"job": job, "slot": slot.astimezone(UTC), "host": host, "token": token}
    with tenancy.system_session("queue.runs") as session:
        taken = session.execute(_CLAIM_NEW_RUN, names).first() or session.execute(_CLAIM_ABANDONED_RUN, names).first()
        session.execute(_SUPERSEDE, names)
    if taken is None:
        return False
    state, stats, error = "done", None, None
    try:
        stats = job_queue.run_job(job)
    except Exception as cause:
        log.exception("job_failed", job=job)
        state, error = "failed", f"{type(cause).__name__}: {cause}"[:500]
    written = orjson.dumps(stats if isinstance(stats, dict) else {}).decode()
    with tenancy.system_session("queue.runs") as session:
        session.execute(_FINISH_RUN, {**names, "state": state, "stats": written, "error": error})
    return True


def list_last_runs() -> dict[str, JobRun]:
    """The newest run of every job."""
    with tenancy.system_session("queue.runs") as session:
        return {row.job: JobRun(**row._mapping) for row in session.execute(_LAST)}  # noqa: SLF001 - SQLAlchemy's public name


def seconds_since_last_run() -> float | None:
    """How long ago any job was last started; None when never."""
    with tenancy.system_session("queue.runs") as session:
        age: Any = session.scalar(_NEWEST)
        return None if age is None else float(age)


MINUTE, HOUR, DAY = 60, 3600, 86_400


@dataclass(frozen=True)
class ScheduledJob:
    """A job and its cadence.

    every_seconds, offset_seconds: a slot begins at each multiple of the first plus the second, UTC
    after: the job that runs first when both are due
    """

    job: str
    every_seconds: int
    offset_seconds: int
    description: str
    after: str | None = None

    def current_slot(self, at: datetime) -> datetime:
        """The newest slot that has begun."""
        since = int(at.timestamp()) - self.offset_seconds
        return datetime.fromtimestamp(since - since % self.every_seconds + self.offset_seconds, at.tzinfo)

    def next_slot(self, at: datetime) -> datetime:
        """The slot after it."""
        return self.current_slot(at) + timedelta(seconds=self.every_seconds)


class DrainFunction(Protocol):
    """A function that works through due rows until none is left or its time is up."""

    def __call__(self, *, at_most_seconds: float | None = None) -> None:
        """Drain; without `at_most_seconds`, for the usual time of a job."""


@dataclass(frozen=True)
class Drain:
    """A registered drain.

    due: what is due now, without claiming it
    """

    job: str
    due: Callable[[], DueOwners[Any]]
    run: DrainFunction


_scheduled: dict[str, ScheduledJob] = {}
_drains: dict[str, Drain] = {}
_sweeps: list[Callable[[], object]] = []


def scheduled(
    name: str, *, every: int, offset: int = 0, after: str | None = None, description: str
) -> Callable[[Job], Job]:
    """Register a job that runs at fixed times.

    name: `domain.verb`; stored with its runs, so it does not follow the function's name
    every, offset: seconds; the job is due at each multiple of the first plus the second, UTC
    after: the job that runs first when both are due
    raises: ValueError when a job of that name is registered already
    """

    def register(job: Job) -> Job:
        job_queue.register_job(name, job)
        _scheduled[name] = ScheduledJob(name, every, offset, description, after)
        return job

    return register


def drain(
    name: str, *, queue: str = BACKGROUND, due: Callable[[], DueOwners[Any]]
) -> Callable[[DrainFunction], DrainFunction]:
    """Register a job that works through the due rows of a table whenever it is woken.

    queue: BACKGROUND, or the queue that the domain declares
    due: what is due now; sweeps and idle workers look there for work that no wake-up announced
    raises: ValueError when a job of that name is registered already, or no domain declares the queue
    """

    def register(run: DrainFunction) -> DrainFunction:
        job_queue.register_drain(name, run, queue)
        _drains[name] = Drain(name, due, run)
        return run

    return register


def sweep(run: Callable[[], object]) -> Callable[[], object]:
    """Register a function that the scheduler calls every few seconds, before it looks for due work."""
    _sweeps.append(run)
    return run


def scheduled_jobs() -> list[ScheduledJob]:
    """Scheduled jobs in the order of a run: the most frequent first, and each behind the job that it follows."""
    return sorted(_scheduled.values(), key=lambda job: (job.every_seconds, _depth(job), job.offset_seconds, job.job))


def _depth(entry: ScheduledJob) -> int:
    return 1 + _depth(_scheduled[entry.after]) if entry.after else 0


def drains() -> list[Drain]:
    """Registered drains, by name."""
    return [_drains[name] for name in sorted(_drains)]


def sweeps() -> list[Callable[[], object]]:
    """Registered sweeps, in the order of their registration."""
    return list(_sweeps)


TICK_FUNCTION = "saas_api.core.jobs.schedule.run_due_jobs"
_INLINE_DRAIN_SECONDS = 5


def run_due_jobs() -> None:
    """Run every job whose newest slot nobody took; one broken job hinders no other."""
    host = f"{platform.node()}:{os.getpid()}"
    for entry in scheduled_jobs():
        run_scheduled(entry.job, entry.current_slot(clock.now()), host)


def run_sweeps() -> None:
    """Call every sweep, and wake the drains that have due work; without Redis, do some of the work here."""
    for run in sweeps():
        run()
    for drain in drains():
        _wake_if_due(drain)


def _wake_if_due(drain: Drain) -> None:
    if drain.due().owners and not job_queue.wake_workers(drain.job, is_forced=True):
        drain.run(at_most_seconds=_INLINE_DRAIN_SECONDS)
