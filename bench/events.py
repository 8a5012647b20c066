"""Benchmark of POST /api/v1/events: batches of 1,000 to the web as it is served, beside a view that does nothing."""

import http.client
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import text

from bench import load, report
from bench.application import running_application
from bench.consumption import Consumption, read_consumption
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.services import services
from saas_api.usage import meters
from tests.support import web_server
from tests.support.billing import create_organization
from tests.support.web_server import WebServer

BATCH_SIZE, ORGANIZATIONS = 1_000, 10
MIN_EVENTS_PER_SECOND, MAX_DATABASE_MICROSECONDS = 30_000, 35
_METER = {"code": "lookups", "name": "Lookups", "unit": "lookup", "dimensions": ["model"]}
_PLACE_OF_NUMBER = b"0" * 16


@dataclass(frozen=True)
class Measurement:
    """What events cost.

    *_us: microseconds of CPU for one event
    web_mb: resident memory of the web before and after
    no_op_ratio: batches a second as a share of the calls a second of a view that does nothing
    """

    events: int
    events_per_second: int
    database_us: float
    web_us: float
    web_mb: tuple[int, int]
    no_op_per_second: int
    no_op_ratio: float

    @property
    def missed_targets(self) -> str:
        """Names of the missed targets."""
        targets = {
            "speed": self.events_per_second < MIN_EVENTS_PER_SECOND,
            "database": self.database_us > MAX_DATABASE_MICROSECONDS,
        }
        return " ".join(name for name, is_missed in targets.items() if is_missed)


def run(seconds: float, connections: int) -> dict[str, Any]:
    """Send events for some seconds, and print a table. Fails when the ledger has not exactly what was accepted."""
    with running_application(APP_URL="http://localhost", DEFAULT_SPEND_CAP="none") as app:
        headers, body = _prepare(app)
        settings = {"WEB_CONCURRENCY": str(load.WEB_PROCESSES), "DEFAULT_SPEND_CAP": "none", "LOG_LEVEL": "error"}
        with web_server.serve(app.config, Path(app.config["INSTANCE"]), **settings) as server:
            no_ops, elapsed = _no_ops(seconds / 3, connections)
            no_op_per_second = round(no_ops / elapsed)
            numbers = itertools.count()
            warm_up, _ = load.call_in_parallel(2, connections, lambda: _sender(server, headers, body, numbers))
            before = read_consumption(app, server)
            accepted, elapsed = load.call_in_parallel(
                seconds, connections, lambda: _sender(server, headers, body, numbers)
            )
            after = read_consumption(app, server)
        recorded = _count_rows(app)
    if recorded != warm_up + accepted:
        raise RuntimeError(f"{warm_up + accepted} events were accepted, and the ledger has {recorded}")
    measurement = _compare(before, after, accepted, elapsed, no_op_per_second)
    _print(measurement)
    return asdict(measurement)


def _prepare(app: Flask) -> tuple[dict[str, str], bytes]:
    """Headers of a service, and a batch with a place for a number in the id of each event."""
    with app.app_context():
        meters.publish_meter(_METER, SYSTEM_ACTOR)
        with tenancy.system_session("demo.seed") as session:
            operator = OperatorContext(SYSTEM_ACTOR, "benchmark")
            token = services.create_service(session, operator, "lookups").token
        owners = [create_organization(f"Acme{number}", clock.now()).id for number in range(ORGANIZATIONS)]
        clock.freeze_time(None)
        events = [
            {
                "specversion": "1.0",
                "id": f"{_PLACE_OF_NUMBER.decode()}-{number}",
                "type": "lookups",
                "subject": ids.format_id("org", owners[number % ORGANIZATIONS]),
                "data": {"quantity": "1.5", "model": "large", "region": "eu-west-1"},
            }
            for number in range(BATCH_SIZE)
        ]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents-batch+json"}
    return headers, json.dumps(events).encode()


def _no_ops(seconds: float, connections: int) -> tuple[int, float]:
    """Calls of the view that does nothing, and the elapsed time."""
    with load.running_no_op() as server:
        return load.call_in_parallel(seconds, connections, lambda: _no_op_caller(server))


def _no_op_caller(server: WebServer) -> Callable[[], int]:
    call = load.open_caller(server, "/", b"{}", {"Content-Type": "application/json"})
    return lambda: len(call()) // 2 and 1


def _sender(
    server: WebServer, headers: dict[str, str], body: bytes, numbers: "itertools.count[int]"
) -> Callable[[], int]:
    connection = http.client.HTTPConnection("localhost", server.port)

    def send() -> int:
        batch = body.replace(_PLACE_OF_NUMBER, f"{next(numbers):016}".encode())
        connection.request("POST", "/api/v1/events", batch, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200 or answer["data"]["accepted"] != BATCH_SIZE:
            raise RuntimeError(f"{response.status}: {answer}")
        return BATCH_SIZE

    return send


def _count_rows(app: Flask) -> int:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return int(session.scalar(text("SELECT count(*) FROM usage_events")) or 0)


def _compare(
    before: Consumption, after: Consumption, events: int, elapsed: float, no_op_per_second: int
) -> Measurement:
    per_second = events / elapsed
    return Measurement(
        events=events,
        events_per_second=round(per_second),
        database_us=round((after.database_seconds - before.database_seconds) / events * 1e6, 1),
        web_us=round((after.web_seconds - before.web_seconds) / events * 1e6, 1),
        web_mb=(round(before.web_bytes / 1e6), round(after.web_bytes / 1e6)),
        no_op_per_second=no_op_per_second,
        no_op_ratio=round(per_second / BATCH_SIZE / no_op_per_second, 3),
    )


def _print(measurement: Measurement) -> None:
    header = ("events", "events/s", "database us", "web us", "web MB", "no-op/s", "ratio", "missed")
    row = (
        measurement.events,
        measurement.events_per_second,
        measurement.database_us,
        measurement.web_us,
        "{} to {}".format(*measurement.web_mb),
        measurement.no_op_per_second,
        measurement.no_op_ratio,
        measurement.missed_targets,
    )
    report.print_table(header, [row])
