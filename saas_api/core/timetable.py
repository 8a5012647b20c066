"""Scheduled jobs, drains and sweeps, as the `jobs.py` of every domain registers them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from saas_api.core import lease
from saas_api.core.queue import BACKGROUND, register_drain, register_job

MINUTE, HOUR, DAY = 60, 3600, 86_400

Job = TypeVar("Job", bound=Callable[[], Any])


@dataclass(frozen=True)
class Entry:
    """A job and its cadence.

    every_seconds, offset_seconds: a slot begins at each multiple of the first plus the second, UTC
    after: the job that runs first when both are due
    """

    job: str
    every_seconds: int
    offset_seconds: int
    description: str
    after: str | None = None

    def slot(self, at: datetime) -> datetime:
        """The newest slot that has begun."""
        since = int(at.timestamp()) - self.offset_seconds
        return datetime.fromtimestamp(since - since % self.every_seconds + self.offset_seconds, at.tzinfo)

    def next_slot(self, at: datetime) -> datetime:
        """The slot after it."""
        return self.slot(at) + timedelta(seconds=self.every_seconds)


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
    due: Callable[[], lease.Due[Any]]
    run: DrainFunction


_scheduled: dict[str, Entry] = {}
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
        register_job(name, job)
        _scheduled[name] = Entry(name, every, offset, description, after)
        return job

    return register


def drain(
    name: str, *, queue: str = BACKGROUND, due: Callable[[], lease.Due[Any]]
) -> Callable[[DrainFunction], DrainFunction]:
    """Register a job that works through the due rows of a table whenever it is woken.

    queue: BACKGROUND, or the queue that the domain declares
    due: what is due now; sweeps and idle workers look there for work that no wake-up announced
    raises: ValueError when a job of that name is registered already, or no domain declares the queue
    """

    def register(run: DrainFunction) -> DrainFunction:
        register_drain(name, run, queue)
        _drains[name] = Drain(name, due, run)
        return run

    return register


def sweep(run: Callable[[], object]) -> Callable[[], object]:
    """Register a function that the scheduler calls every few seconds, before it looks for due work."""
    _sweeps.append(run)
    return run


def scheduled_jobs() -> list[Entry]:
    """Scheduled jobs in the order of a run: the most frequent first, and each behind the job that it follows."""
    return sorted(_scheduled.values(), key=lambda job: (job.every_seconds, _depth(job), job.offset_seconds, job.job))


def _depth(entry: Entry) -> int:
    return 1 + _depth(_scheduled[entry.after]) if entry.after else 0


def drains() -> list[Drain]:
    """Registered drains, by name."""
    return [_drains[name] for name in sorted(_drains)]


def sweeps() -> list[Callable[[], object]]:
    """Registered sweeps, in the order of their registration."""
    return list(_sweeps)
