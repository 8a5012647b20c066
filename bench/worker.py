"""Benchmark of messages that one worker process delivers, while the table holds few finished messages and many."""

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from flask import Flask
from sqlalchemy import text

from bench import report
from bench.application import running_application
from bench.consumption import Engines, tree_seconds
from saas_api.cli.dev import engines
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.jobs import queue
from saas_api.messages.messages import DRAIN_JOB
from saas_api.settings.instance import DATABASE_NAME
from tests.support import forks
from tests.support.billing import create_organization

STORED_MESSAGES = (100_000, 10_000_000)
MIN_PER_SECOND = 3_000
_ORGANIZATIONS, _ROUNDS, _ROWS_AT_ONCE = 10, 3, 250_000
_COLUMNS = "organization_id, id, mode, channel, recipient, body, accepted_at, expires_at"
# In the order of their ids, as messages arrive.
_STORE = f"""
INSERT INTO messages ({_COLUMNS}, status, attempts, sent_at, finished_at, cost, currency, provider_reference)
SELECT (%(owners)s::uuid[])[1 + n %% 10], uuidv7((n - 100000000) * interval '10 ms'), 'live', 'sms', '+2348012345678',
  'Your code is ' || n, now() - interval '1 h', now(), 'delivered', 1, now(), now(), 0.04, 'USD', 'mock-' || n
FROM generate_series(%(first)s, %(last)s) n"""
_QUEUE = f"""
INSERT INTO messages ({_COLUMNS}, next_at, cost, currency)
SELECT (%(owners)s::uuid[])[1 + n %% 10], uuidv7(), 'live', 'sms', '+2348012345678', 'Your code is ' || n, now(),
  now() + interval '1 d', now(), 0.04, 'USD' FROM generate_series(1, %(count)s) n"""
_RESULT = text("""
SELECT count(*) AS messages, extract(epoch FROM max(finished_at) - min(finished_at))::float8 AS seconds FROM messages
 WHERE accepted_at >= :since AND status = 'delivered' AND attempts = 1 AND interruptions = 0""")


@dataclass(frozen=True)
class Measurement:
    """What a message costs.

    stored: finished messages in the table
    per_second: of one worker process; minimum, median and maximum of the rounds
    worker_us, database_us: microseconds of CPU for one message
    """

    stored: int
    per_second: tuple[int, int, int]
    worker_us: float
    database_us: float


def run(seconds: float, connections: int) -> dict[str, Any]:  # noqa: ARG001 - a worker has one connection
    """Deliver messages for some seconds a round, and print a table. Fails unless each is delivered at one attempt."""
    with running_application(APP_URL="http://localhost", MOCK_LATENCY_MS="0") as app:
        owners = _create_organizations(app)
        measurements = []
        with running_worker(app, "messages") as worker:
            for stored in STORED_MESSAGES:
                _store(app, owners, stored)
                measurements.append(_measure(app, worker, owners, stored, round(seconds * MIN_PER_SECOND)))
    _print(measurements)
    return {"measurements": [asdict(measurement) for measurement in measurements]}


@contextlib.contextmanager
def running_worker(app: Flask, queue_name: str, **settings: str) -> Iterator[psutil.Process]:
    """Run one worker process of a queue, under its supervisor, until the end of the block.

    settings: added to its environment
    """
    environment = {**forks.engines_of(app.config), "LOG_LEVEL": "error", "TZ": "UTC", **settings}
    process = forks.start_flask("worker", "--queue", f"{queue_name}:1", environment=environment)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join(60)


@contextlib.contextmanager
def superuser_cursor(app: Flask) -> Iterator[Any]:
    """A cursor that writes past triggers and foreign keys; each statement commits."""
    connection = engines.Engines(Path(app.config["INSTANCE"])).postgres.superuser(DATABASE_NAME)
    connection.autocommit = True
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        yield cursor


def _create_organizations(app: Flask) -> list[str]:
    with app.app_context():
        owners = [create_organization(f"Acme{number}", clock.now()).id for number in range(_ORGANIZATIONS)]
        clock.freeze_time(None)
    return [str(owner) for owner in owners]


def _store(app: Flask, owners: list[str], count: int) -> None:
    with superuser_cursor(app) as cursor:
        cursor.execute("SELECT count(*) FROM messages")
        firsts = range(cursor.fetchone()[0], count, _ROWS_AT_ONCE)
        with report.progress(f"Store {count:,} messages", len(firsts)) as bar:
            for first in firsts:
                last = min(first + _ROWS_AT_ONCE, count) - 1
                cursor.execute(_STORE, {"owners": owners, "first": first, "last": last})
                bar.update(1)
        cursor.execute("VACUUM (ANALYZE) messages")
        cursor.execute("CHECKPOINT")


def _measure(app: Flask, worker: psutil.Process, owners: list[str], stored: int, count: int) -> Measurement:
    postgres = Engines(app).postgres
    per_second = []
    with report.progress(f"Worker, {stored:,} stored", _ROUNDS) as bar:
        _deliver(app, owners, count // 10)
        before = tree_seconds(worker), tree_seconds(postgres)
        for _ in range(_ROUNDS):
            per_second.append(_deliver(app, owners, count))
            bar.update(1, f"{per_second[-1]} a second")
        after = tree_seconds(worker), tree_seconds(postgres)
    worker_us, database_us = ((end - start) / (_ROUNDS * count) * 1e6 for start, end in zip(before, after, strict=True))
    spread = min(per_second), round(statistics.median(per_second)), max(per_second)
    return Measurement(stored, spread, round(worker_us, 1), round(database_us, 1))


def _deliver(app: Flask, owners: list[str], count: int) -> int:
    """Queue messages and wait until they are delivered; returns how many a second."""
    with superuser_cursor(app) as cursor:
        cursor.execute("SELECT now()")
        [since] = cursor.fetchone()
        cursor.execute(_QUEUE, {"owners": owners, "count": count})
        with app.app_context():
            queue.wake_workers(DRAIN_JOB, is_forced=True)
        while is_any_open(cursor):
            time.sleep(0.2)
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        result = session.execute(_RESULT, {"since": since}).one()
    if result.messages != count:
        raise RuntimeError(f"{count} messages were queued, and {result.messages} were delivered at the first attempt")
    return round(count / result.seconds)


def is_any_open(cursor: Any) -> bool:
    """Whether a message has no final status yet."""
    cursor.execute("SELECT EXISTS (SELECT FROM messages WHERE status IN ('queued', 'sending'))")
    return bool(cursor.fetchone()[0])


def _print(measurements: list[Measurement]) -> None:
    header = ("stored messages", "messages/s min", "median", "max", "worker us", "database us", "")
    rows = [
        (
            f"{measurement.stored:,}",
            *measurement.per_second,
            measurement.worker_us,
            measurement.database_us,
            "missed" if measurement.per_second[1] < MIN_PER_SECOND else "",
        )
        for measurement in measurements
    ]
    report.print_table(header, rows)
