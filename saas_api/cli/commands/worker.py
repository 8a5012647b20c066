"""`flask worker`: the process that works on the queues, with a child process for each worker."""

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess

import click
import redis
from flask import Flask, current_app
from flask.cli import with_appcontext

from saas_api.cli import errors
from saas_api.cli.errors import Command
from saas_api.core.jobs import queue
from saas_api.core.jobs.worker import QueueWorker
from saas_api.core.observability import get_logger

log = get_logger(__name__)

STOP_SECONDS = 25  # a container gets thirty seconds
_FORK = multiprocessing.get_context("fork")
_DEFAULT_QUEUES = "messages:2,webhooks:1,background:1"


@dataclass
class WorkerProcess:
    """One worker process of a queue.

    deaths: in a row, each within a minute after the start
    """

    app: Flask
    queue: str
    process: ForkProcess | None = None
    deaths: int = 0
    start_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0

    def ensure_running(self) -> None:
        """Start the process unless it is running; after each early death it waits a second longer, at most five."""
        now = time.monotonic()
        if self.process is not None and not self.process.is_alive():
            log.warning("worker_died", queue=self.queue, code=self.process.exitcode)
            self.deaths = self.deaths + 1 if now - self.started_at < 60 else 1
            self.start_at = now + min(self.deaths, 5)
            self.process = None
        if self.process is None and now >= self.start_at:
            self.process = _FORK.Process(target=_run_child, args=(self.app, self.queue, os.getpid()))
            self.process.start()
            self.started_at = now


def parse_queues(_context: click.Context, _parameter: click.Parameter, text: str) -> dict[str, int]:
    """Number of processes by queue, from text such as `messages:2,background:1`."""
    processes: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if name not in queue.queue_names() or not (count or "1").isdecimal():
            raise click.BadParameter(f"{part!r} is not QUEUE or QUEUE:PROCESSES with QUEUE in {queue.queue_names()}")
        processes[name] = int(count or 1)
    return processes


@click.command("worker", cls=Command)
@click.option(
    "--queue",
    "queues",
    metavar="QUEUE[:PROCESSES],...",
    default=_DEFAULT_QUEUES,
    show_default=True,
    callback=parse_queues,
    help="Queues and number of processes, e.g. messages:2,background:1.",
)
@click.option("--only", hidden=True)
@click.option("--parent", type=int, default=os.getppid, hidden=True)
@with_appcontext
def worker(queues: dict[str, int], only: str | None, parent: int) -> None:
    """Deliver messages and run background work, until stopped.

    Example: flask worker --queue messages:4,webhooks:2,background:1
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - a worker outlives this context
    errors.require_safe_database()
    if only:
        _work(app, only, parent)
    else:
        _supervise([WorkerProcess(app, name) for name, count in queues.items() for _ in range(count)])


def _run_child(app: Flask, name: str, parent: int) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _work(app, name, parent)


def _work(app: Flask, name: str, parent: int) -> None:
    try:
        QueueWorker(app, name, queue.worker_redis(), parent).work(logging_level="WARNING")
    except redis.RedisError as error:
        log.warning("worker_lost_redis", queue=name, kind=type(error).__name__)
        raise SystemExit(1) from error


def _supervise(children: list[WorkerProcess]) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    log.info("worker_started", pid=os.getpid(), queues=[child.queue for child in children])
    while not stop.is_set():
        for child in children:
            child.ensure_running()
        stop.wait(0.2)
    running = [child.process for child in children if child.process]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        process.join(max(0.1, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
    log.info("worker_stopped")
