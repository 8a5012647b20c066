"""Scheduled jobs, their runs, drains and sweeps.

A slot is an instant at which a scheduled job is due. Its row in job_runs makes it run once; a failed run, or one whose
lease has ended, is repeated.
"""

import functools
import os
import platform
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import orjson
import sqlalchemy as sa

from saas_api.core import clock
from saas_api.core.db import cells, engine, tenancy
from saas_api.core.domain import Domain
from saas_api.core.jobs import queue as job_queue
from saas_api.core.jobs.outbox import DueOwners
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.observability import get_logger

log = get_logger(__name__)

JobFunction = Callable[[], Mapping[str, int] | None]
"""A job; it returns the numbers that its run stores, or None."""
Job = TypeVar("Job", bound=JobFunction)

DOMAIN = Domain(name="core.jobs", system_purposes=("queue.runs",))

MINUTE, HOUR, DAY = 60, 3600, 86_400
_INLINE_DRAIN_SECONDS = 5
_LAST_RUNS = sa.text("""
SELECT DISTINCT ON (job) job, scheduled_for, state, started_at, finished_at, error FROM job_runs
 ORDER BY job, scheduled_for DESC
""")
_SECONDS_SINCE_LAST_RUN = sa.text("SELECT extract(epoch FROM now() - max(started_at))::float8 FROM job_runs")


_sweeps: list[Callable[[], object]] = []


@dataclass(frozen=True)
class JobRun:
    """The newest run of a job."""

    job: str
    scheduled_for: datetime
    state: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None


@dataclass(frozen=True)
class ScheduledJob:
    """A job and its times.

    every_seconds, offset_seconds: its slots are the multiples of the first plus the second, UTC
    after: name of a job that runs before it when both are due
    """

    job: str
    every_seconds: int
    offset_seconds: int
    description: str
    after: str | None = None

    def current_slot(self, at: datetime) -> datetime:
        """Return the newest slot that is not after an instant."""
        since = int(at.timestamp()) - self.offset_seconds
        return datetime.fromtimestamp(since - since % self.every_seconds + self.offset_seconds, at.tzinfo)

    def next_slot(self, at: datetime) -> datetime:
        """Return the oldest slot that is after an instant."""
        return self.current_slot(at) + timedelta(seconds=self.every_seconds)


class DrainFunction(Protocol):
    """A function that works through due rows until none is left or the time is up."""

    def __call__(self, *, at_most_seconds: float | None = None) -> None:
        """Drain for `at_most_seconds`, or for DRAIN_SECONDS."""


@dataclass(frozen=True)
class Drain:
    """A registered drain.

    due: lists the owners of due rows without claiming any
    """

    job: str
    due: Callable[[], DueOwners[Any]]
    run: DrainFunction


_scheduled: dict[str, ScheduledJob] = {}
_drains: dict[str, Drain] = {}


def scheduled(
    name: str, *, every: int, offset: int = 0, after: str | None = None, description: str
) -> Callable[[Job], Job]:
    """Register a job that runs at fixed times.

    name: `domain.verb`; stored with its runs, so it does not follow the function's name
    every, offset: seconds; the job is due at the multiples of the first plus the second, UTC
    after: name of a job that runs before it when both are due
    raises: ValueError when the name is registered already
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
    due: lists the owners of due rows; sweeps use it to find work that no wake-up announced
    raises: ValueError when the name is registered already, or no domain declares the queue
    """

    def register(run: DrainFunction) -> DrainFunction:
        job_queue.register_drain(name, run, queue)
        _drains[name] = Drain(name, due, run)
        return run

    return register


def sweep(run: Callable[[], object]) -> Callable[[], object]:
    """Register a function that the scheduler calls every few seconds, before it scans for due work."""
    _sweeps.append(run)
    return run


def scheduled_jobs() -> list[ScheduledJob]:
    """Return the scheduled jobs, the most frequent first and each behind the job that it follows."""
    return sorted(_scheduled.values(), key=lambda job: (job.every_seconds, _depth(job), job.offset_seconds, job.job))


def drains() -> list[Drain]:
    """Return the registered drains, sorted by name."""
    return [_drains[name] for name in sorted(_drains)]


def sweeps() -> list[Callable[[], object]]:
    """Return the registered sweeps, in the order of registration."""
    return list(_sweeps)


def list_last_runs() -> dict[str, JobRun]:
    """Return the newest run of every job."""
    with tenancy.system_session("queue.runs") as session:
        return {row.job: JobRun(**row._mapping) for row in session.execute(_LAST_RUNS)}  # noqa: SLF001 - SQLAlchemy's public name


def seconds_since_last_run() -> float | None:
    """Return the seconds since a job was started last; None when none ever was."""
    with tenancy.system_session("queue.runs") as session:
        age: Any = session.scalar(_SECONDS_SINCE_LAST_RUN)
        return None if age is None else float(age)


def run_due_jobs() -> None:
    """Run every job whose newest slot has not run, in each cell. A job that fails does not stop the others."""
    host = f"{platform.node()}:{os.getpid()}"

    def run_in_cell() -> None:
        for entry in scheduled_jobs():
            run_scheduled(entry.job, entry.current_slot(clock.now()), host)

    cells.run_in_each(run_in_cell)


def run_requested(job: str, slot: str) -> None:
    """Run a job that an operator has queued, in each cell.

    slot: when it was asked for, as ISO 8601
    """
    cells.run_in_each(lambda: run_scheduled(job, datetime.fromisoformat(slot), "operator console"))


def run_sweeps() -> None:
    """Call every sweep and wake the drains with due work, in each cell.

    Without Redis, drain for a few seconds in this process.
    """
    cells.run_in_each(_sweep_cell)


def _sweep_cell() -> None:
    """Call each sweep and wake each drain of a cell; one that fails is logged and stops no other.

    raises: DBAPIError when the database does not respond
    """
    steps = [(run.__qualname__, run) for run in sweeps()]
    steps += [(drain.job, functools.partial(_wake_if_due, drain)) for drain in drains()]
    with cells.hold_moves():
        for name, run in steps:
            try:
                run()
            except Exception as error:
                if engine.is_unavailable(error):
                    raise
                log.exception("sweep_failed", sweep=name, cell=cells.display_name(cells.current()))


_CLAIM_NEW_RUN = sa.text("""
INSERT INTO job_runs (job, scheduled_for, host, next_at, lease_token)
VALUES (:job, :slot, :host, now() + interval '2 min', :token) ON CONFLICT DO NOTHING RETURNING attempts
""")
_CLAIM_ENDED_RUN = sa.text("""
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


def run_scheduled(job: str, slot: datetime, host: str) -> bool:
    """Run a job for one slot, unless another process has run it or is running it; repeat a failed or killed run.

    returns: whether this call ran it
    """
    token = uuid.uuid4()
    values = {"job": job, "slot": slot.astimezone(UTC), "host": host, "token": token}
    with tenancy.system_session("queue.runs") as session:
        run = session.execute(_CLAIM_NEW_RUN, values).first() or session.execute(_CLAIM_ENDED_RUN, values).first()
        session.execute(_SUPERSEDE, values)
    if run is None:
        return False
    state, stats, error = "done", None, None
    try:
        stats = job_queue.run_job(job, cells.current())
    except Exception as cause:
        log.exception("job_failed", job=job)
        state, error = "failed", f"{type(cause).__name__}: {cause}"[:500]
    stats_json = orjson.dumps(dict(stats or {})).decode()
    with tenancy.system_session("queue.runs") as session:
        session.execute(_FINISH_RUN, {**values, "state": state, "stats": stats_json, "error": error})
    return True


def _depth(entry: ScheduledJob) -> int:
    return 1 + _depth(_scheduled[entry.after]) if entry.after else 0


def _wake_if_due(drain: Drain) -> None:
    if drain.due().owners and not job_queue.wake_workers(drain.job, is_forced=True):
        drain.run(at_most_seconds=_INLINE_DRAIN_SECONDS)
