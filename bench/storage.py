"""Benchmark of storage: bytes of a message, a usage event and a webhook in PostgreSQL, its log and a backup."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import redis
from flask import Flask

from bench import capacity, events, load, report, webhooks
from bench.application import running_application
from bench.receiver import running_receiver
from bench.worker import is_any_open, running_worker, superuser_cursor
from saas_api.cli import backups
from tests.support.accounts import Headers, create_key, sign_up
from tests.support.messages import SEND, SMS

_ORGANIZATIONS, _MESSAGES, _BATCHES, _WEBHOOKS = 50, 5_000, 60, 3_000
_SIZES = """SELECT relname, pg_total_relation_size(oid) FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"""
_LOGGED = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
_OF_THE_MOCK = "mock_sends"


@dataclass(frozen=True)
class Measurement:
    """Bytes that one thing takes.

    tables: with indexes, by table
    log: of PostgreSQL's write-ahead log
    backup: of what `flask backup` writes, which is compressed
    """

    name: str
    count: int
    tables: Mapping[str, int]
    log: int
    backup: int


def run(_seconds: float, _connections: int) -> dict[str, Any]:
    """Fill the tables through the API and the workers, and print a table.

    returns: also redis_bytes, what Redis keeps for an organization with one key that is used
    """
    settings = {"DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    with (
        running_application(APP_URL="http://localhost", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8", **settings) as app,
        report.progress("storage", 3) as bar,
    ):
        keys = _create_keys(app)
        before = _redis_bytes(app)
        measurements = [_measure(app, "message", _MESSAGES, _send_messages(app, keys))]
        redis_bytes = (_redis_bytes(app) - before) // len(keys)
        bar.update(1, "messages")
        count = _BATCHES * events.BATCH_SIZE
        measurements.append(_measure(app, "usage event", count, _report_events(app)))
        bar.update(1, "events")
        measurements.append(_measure(app, "webhook", _WEBHOOKS, _deliver_webhooks(app)))
        bar.update(1, "webhooks")
    results = {"measurements": [asdict(measurement) for measurement in measurements], "redis_bytes": redis_bytes}
    click.echo(capacity.bytes_of_one({"storage": results}))
    return results


def _measure(app: Flask, name: str, count: int, filling: Iterator[None]) -> Measurement:
    """What is added by a generator that prepares up to its `yield`, and adds afterwards."""
    next(filling)
    sizes, log, backup = _sizes(app), _log_bytes(app), _backup_bytes(app)
    next(filling, None)
    written = _log_bytes(app) - log
    added = {table: round((size - sizes[table]) / count) for table, size in _sizes(app).items()}
    tables = {
        table: size
        for table, size in sorted(added.items(), key=lambda item: -item[1])
        if size > 0 and table != _OF_THE_MOCK
    }
    return Measurement(name, count, tables, round(written / count), round((_backup_bytes(app) - backup) / count))


def _sizes(app: Flask) -> dict[str, int]:
    with superuser_cursor(app) as cursor:
        cursor.execute("VACUUM")
        cursor.execute("CHECKPOINT")
        cursor.execute(_SIZES)
        return dict(cursor.fetchall())


def _log_bytes(app: Flask) -> int:
    with superuser_cursor(app) as cursor:
        cursor.execute(_LOGGED)
        return int(cursor.fetchone()[0])


def _backup_bytes(app: Flask) -> int:
    with app.app_context(), tempfile.TemporaryDirectory() as directory:
        return backups.create_backup(Path(directory) / "backup").bytes


def _redis_bytes(app: Flask) -> int:
    with redis.Redis.from_url(app.config["REDIS_URL"]) as client:
        return sum(client.memory_usage(key) or 0 for key in client.scan_iter())  # without the buffers of clients


def _create_keys(app: Flask) -> list[Headers]:
    client = app.test_client()
    return [
        create_key(client, sign_up(client, f"alice@sender{number}.example", f"Acme {number}"))[1]
        for number in range(_ORGANIZATIONS)
    ]


def _send_messages(app: Flask, keys: list[Headers]) -> Iterator[None]:
    client = app.test_client()
    for number in range(len(keys) + _MESSAGES):
        if number == len(keys):  # the first of each has opened its account
            yield
        body = {**SMS, "message": f"Your code is {number:06}"}
        response = client.post(SEND, json=body, headers=keys[number % len(keys)])
        _require(response.status_code == 202, response.text)
    with running_worker(app, "messages"), superuser_cursor(app) as cursor:
        while is_any_open(cursor):
            time.sleep(0.2)


def _report_events(app: Flask) -> Iterator[None]:
    headers, body = events.prepare(app)
    client = app.test_client()
    yield
    for number in range(_BATCHES):
        response = client.post(events.EVENTS, data=body.replace(load.PLACE_OF_NUMBER, f"{number}"), headers=headers)
        _require(response.status_code == 200, response.text)


def _deliver_webhooks(app: Flask) -> Iterator[None]:
    [scenario] = [scenario for scenario in webhooks.SCENARIOS if scenario.endpoints == 1]
    with running_receiver(scenario.seconds) as receiver:
        organization = webhooks.create_endpoints(app, scenario, receiver.port)
        yield
        with running_worker(app, "webhooks", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8"):
            webhooks.deliver(app, organization, _WEBHOOKS, scenario)


def _require(is_right: bool, text: str) -> None:
    if not is_right:
        raise RuntimeError(text)
