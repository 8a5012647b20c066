"""RQ's jobs in Redis: JSON, and the functions of a list only.

RQ pickles its jobs and runs whatever function a job names, so a process that can write to Redis could run any code in a
worker. With these classes it can start work of the product at most.
"""

from typing import Any

import redis
import rq
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

FUNCTIONS = frozenset(
    {
        "saas_api.core.jobs.queue.run_job",
        "saas_api.core.jobs.schedule.run_due_jobs",
        "saas_api.core.jobs.schedule.run_requested",
    }
)


class JobRefused(Exception):
    """A job in Redis names a function that workers do not run."""


class RedisJob(Job):
    """A job as JSON, whose function is one of FUNCTIONS; it has neither callbacks nor webhooks."""

    def __init__(self, id: str | None = None, connection: redis.Redis | None = None, serializer: Any = None) -> None:  # noqa: A002 - RQ's name
        del serializer
        super().__init__(id, connection=connection, serializer=JSONSerializer)

    @property
    def func(self) -> Any:
        """The function of the job.

        raises: JobRefused
        """
        if self.func_name not in FUNCTIONS or self.instance is not None:
            raise JobRefused(f"Workers do not run {self.func_name}.")
        return super().func

    @property
    def success_callback(self) -> None:
        """None: RQ would import what the job names."""

    @property
    def failure_callback(self) -> None:
        """None: RQ would import what the job names."""

    @property
    def stopped_callback(self) -> None:
        """None: RQ would import what the job names."""

    def send_webhooks(self, *_arguments: Any, **_options: Any) -> None:
        """Send nothing: RQ would call addresses that the job names."""


class RedisQueue(rq.Queue):
    """A queue of these jobs."""

    job_class = RedisJob

    def __init__(self, name: str, connection: redis.Redis, **options: Any) -> None:
        super().__init__(name, connection, **{**options, "job_class": RedisJob, "serializer": JSONSerializer})


class RedisScheduler(Scheduler):  # type: ignore[misc]  # rq-scheduler is not annotated
    """rq-scheduler with these jobs, which go to its own queue only."""

    job_class = RedisJob
    queue_class = RedisQueue

    def get_queue_for_job(self, job: RedisJob) -> RedisQueue:
        """The queue of the scheduler; rq-scheduler would import the class that the job names.

        raises: JobRefused
        """
        if job.func_name not in FUNCTIONS:
            raise JobRefused(f"The schedule does not run {job.func_name}.")
        return RedisQueue(self.queue_name, self.connection)
