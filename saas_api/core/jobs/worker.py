"""The RQ worker: it stops without losing claimed work, and wakes itself for work that no wake-up announced."""

import contextlib
import os
import signal
import uuid
from types import FrameType
from typing import Any

import redis
import rq
from flask import Flask
from rq.exceptions import StopRequested
from rq.job import Job

from saas_api.core.db import cells, engine
from saas_api.core.jobs import queue as job_queue
from saas_api.core.jobs.redis_jobs import RedisJob, RedisQueue
from saas_api.core.settings import setting


class QueueWorker(rq.Worker):
    """An RQ worker on one queue, which passes a stop on to its work horse."""

    app: Flask
    job_class = RedisJob
    queue_class = RedisQueue  # type: ignore[assignment]  # RQ declares the base class itself, not its subclasses
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
        """Send RQ's heartbeat, and stop when the supervisor has ended."""
        if os.getpid() == self.pid and os.getppid() != self.parent_pid:
            self._stop_requested = True
            if not self.horse_pid:
                raise StopRequested
        super().heartbeat(*arguments, **options)

    def run_maintenance_tasks(self) -> None:
        """Run RQ's maintenance and wake the drains of the queue."""
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]  # RQ is not annotated here
        with self.app.app_context():
            for cell in cells.names():
                with cells.use(cell):
                    self._wake_drains()

    def _wake_drains(self) -> None:
        for queue in self.queue_names():
            for job in job_queue.drains_of_queue(queue):
                job_queue.wake_workers(job, is_forced=True)

    def main_work_horse(self, job: Job, queue: rq.Queue) -> None:
        """Run a job in the forked process, on connections of its own."""
        job_queue.stop_requested.clear()
        with self.app.app_context():
            engine.dispose_connections(close=False)
            self.app.extensions.pop("redis", None)
            super().main_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """Let SIGUSR1 ask the work horse to finish its claimed work."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # RQ is not annotated here
        signal.signal(signal.SIGUSR1, lambda _number, _frame: job_queue.stop_requested.set())

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Pass a warm stop on to the work horse."""
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGUSR1)
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ is not annotated here
