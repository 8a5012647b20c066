"""What a process that can write to Redis cannot make the workers do."""

import json
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from rq.utils import now as rq_now
from rq.utils import utcformat

from saas_api.core.jobs import queue
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.redis_jobs import JobRefused, RedisJob, RedisQueue, RedisScheduler
from saas_api.core.jobs.worker import QueueWorker


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def connection(context: Flask) -> Iterator[redis.Redis]:
    with queue.worker_redis() as made:
        yield made


def plant(connection: redis.Redis, data: bytes, **fields: str) -> str:
    """Write a job to Redis by hand, and queue it."""
    job_id = uuid.uuid4().hex
    values = {"data": data, "created_at": utcformat(rq_now()), "status": "queued", "origin": BACKGROUND, **fields}
    connection.hset(f"rq:job:{job_id}", mapping=values)
    connection.sadd("rq:queues", f"rq:queue:{BACKGROUND}")
    connection.rpush(f"rq:queue:{BACKGROUND}", job_id)
    return job_id


def work_off(app: Flask, connection: redis.Redis) -> None:
    QueueWorker(app, BACKGROUND, connection, os.getppid()).work(burst=True, logging_level="CRITICAL")


def call(function: str, *arguments: str, instance: str | None = None) -> bytes:
    return json.dumps([function, instance, arguments, {}]).encode()


def test_worker_neither_unpickles_nor_runs_other_functions(
    context: Flask, connection: redis.Redis, tmp_path: Path
) -> None:
    """R12: pickled jobs, other functions, methods and callbacks that a job names do nothing in a worker."""
    paths = [tmp_path / name for name in ("pickled", "function", "meta", "callback")]
    planted = [
        plant(connection, pickle.dumps(("os.mkdir", None, (str(paths[0]),), {"x": Payload(paths[0])}))),
        plant(connection, call("os.mkdir", str(paths[1]))),
        plant(connection, call("upper", instance="text")),
        plant(connection, call("os.mkdir", str(paths[2])), meta=pickle.dumps(Payload(paths[2])).decode("latin-1")),
    ]
    harmless = plant(
        connection,
        call("saas_api.core.jobs.queue.run_job", "mail.drain"),
        success_callback_name="tests.core.jobs.test_redis_jobs.leave_trace",
        description=str(paths[3]),
    )
    work_off(context, connection)
    assert list(tmp_path.iterdir()) == []
    failed = RedisQueue(BACKGROUND, connection).failed_job_registry.get_job_ids()
    assert set(failed) == set(planted)
    assert harmless not in failed


def leave_trace(job: RedisJob, *_: object) -> None:
    """The callback of the test above; it must not run."""
    Path(str(job.description)).mkdir()


def test_job_of_the_product_is_stored_as_json(context: Flask, connection: redis.Redis) -> None:
    queue.wake_workers("mail.drain", is_forced=True)
    [job] = RedisQueue(queue.queue_for_job("mail.drain"), connection).jobs
    assert job is not None
    assert json.loads(job.data) == ["saas_api.core.jobs.queue.run_job", None, ["mail.drain"], {}]


@pytest.mark.filterwarnings("ignore::FutureWarning:rq_scheduler")
def test_schedule_queues_only_functions_of_the_product(connection: redis.Redis) -> None:
    """R12: rq-scheduler neither imports a class that an entry names nor queues other functions."""
    scheduler = RedisScheduler(queue_name=BACKGROUND, connection=connection)
    job = RedisJob.create("os.mkdir", args=("x",), connection=connection, meta={"queue_class_name": "os.system"})
    with pytest.raises(JobRefused):
        scheduler.enqueue_job(job)
    assert RedisQueue(BACKGROUND, connection).count == 0
