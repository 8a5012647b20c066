"""What Redis knows of workers and their queues; nothing of it is a fact of the product, and looking changes nothing."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
import rq
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry

from saas_api.core import queue

SHOWN = 50


@dataclass(frozen=True)
class Queue:
    """One queue of wake-ups: how many wait, run and have failed."""

    name: str
    waiting: int
    running: int
    failed: int
    workers: int


@dataclass(frozen=True)
class Worker:
    """One process that works.

    heartbeat_at: of the last sign of life
    """

    name: str
    queue: str
    state: str
    host: str
    pid: int | None
    heartbeat_at: datetime | None
    done: int
    failed: int


@dataclass(frozen=True)
class FailedJob:
    """A wake-up whose work ended with an exception; kept for an hour.

    error: the last line of its traceback
    """

    id: str
    queue: str
    job: str
    error: str
    failed_at: datetime | None


@dataclass(frozen=True)
class Seen:
    """All of it at one moment."""

    queues: Sequence[Queue]
    workers: Sequence[Worker]
    failed: Sequence[FailedJob]
    beats_at: Sequence[datetime]


def look() -> Seen | None:
    """Queues, workers, failures and the schedulers' signs of life; None when Redis does not answer."""
    with closing(queue.patient_client()) as connection:
        try:
            workers = [_worker(worker) for worker in rq.Worker.all(connection=connection)]
            return Seen(
                [_queue(name, connection, workers) for name in queue.queue_names()],
                sorted(workers, key=lambda worker: (worker.queue, worker.name)),
                [job for name in queue.queue_names() for job in _failed(name, connection)],
                _beats(connection),
            )
        except redis.RedisError:
            return None


def _queue(name: str, connection: redis.Redis, workers: Sequence[Worker]) -> Queue:
    return Queue(
        name,
        rq.Queue(name, connection=connection).count,
        StartedJobRegistry(name, connection=connection).get_job_count(cleanup=False),
        FailedJobRegistry(name, connection=connection).get_job_count(cleanup=False),
        sum(worker.queue == name for worker in workers),
    )


def _worker(worker: Any) -> Worker:
    beat = worker.last_heartbeat
    return Worker(
        worker.name,
        ", ".join(worker.queue_names()),
        str(worker.get_state()),
        worker.hostname or "",
        worker.pid,
        beat.replace(tzinfo=UTC) if beat and beat.tzinfo is None else beat,
        worker.successful_job_count,
        worker.failed_job_count,
    )


def _failed(name: str, connection: redis.Redis) -> list[FailedJob]:
    registry = FailedJobRegistry(name, connection=connection)
    ids = registry.get_job_ids(0, SHOWN - 1, desc=True, cleanup=False)
    return [_failure(job, name) for job in Job.fetch_many(ids, connection=connection) if job is not None]


def _failure(job: Job, name: str) -> FailedJob:
    result = job.latest_result()
    trace = (result.exc_string or "").strip().splitlines() if result else []
    return FailedJob(job.id, name, job_name(job), trace[-1][:500] if trace else "", job.ended_at)


def job_name(job: Job) -> str:
    """What a wake-up announces, such as "messages.drain"; its description where it cannot be read."""
    try:
        return str(job.args[0]) if job.args else str(job.func_name)
    except Exception:  # noqa: BLE001 - what was pickled by another version is shown as it is
        return job.description or ""


def find_failed(job_id: str) -> FailedJob | None:
    """A failed wake-up by its id.

    raises: redis.RedisError
    """
    with closing(queue.patient_client()) as connection:
        try:
            job = Job.fetch(job_id, connection=connection)
        except NoSuchJobError:
            return None
        is_failed = connection.zscore(FailedJobRegistry(job.origin, connection=connection).key, job_id) is not None
        return _failure(job, job.origin) if is_failed else None


def _beats(connection: redis.Redis) -> list[datetime]:
    found = []
    for key in connection.scan_iter("rq:scheduler_instance:*", count=1000):
        beat = connection.hget(key, "beat")
        if beat:
            found.append(datetime.fromtimestamp(float(beat), UTC))
    return sorted(found, reverse=True)
