"""Benchmark of POST /api/v1/events: batches of 1,000 to the web as it is served, beside a view that does nothing."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from flask import Flask
from sqlalchemy import text

from bench import load, report
from bench.application import running_application
from bench.consumption import Consumption, Engines
from bench.load import Call, Load
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.services import services
from saas_api.usage import meters
from tests.support.billing import create_organization

BATCH_SIZE, ORGANIZATIONS = 1_000, 10
MIN_EVENTS_PER_SECOND, MAX_DATABASE_MICROSECONDS = 30_000, 35
_METER = {"code": "lookups", "name": "Lookups", "unit": "lookup", "dimensions": ["model"]}
EVENTS = "/api/v1/events"


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
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none"}
    with running_application(**settings) as app, report.progress("events", 3) as bar:
        headers, body = _prepare(app)
        with load.serving_product(app, settings) as server:
            bar.update(1, "no-op")
            with load.serving("noop") as no_op:
                no_ops = load.send(Call(no_op, "/", "{}", load.JSON_HEADERS), seconds / 3, connections)
            call, engines = Call(server, EVENTS, body, headers), Engines(app)
            bar.update(1, "warm-up")
            warm_up = load.send(call, 2, connections)
            bar.update(1, "batches")
            before = engines.read_with(server)
            accepted = load.send(call, seconds, connections)
            after = engines.read_with(server)
        recorded = _count_rows(app)
    answered = (warm_up.requests + accepted.requests) * BATCH_SIZE
    if recorded != answered:
        raise RuntimeError(f"{answered} events were accepted, and the ledger has {recorded}")
    measurement = _compare(before, after, accepted, no_ops)
    _print(measurement)
    return asdict(measurement)


def _prepare(app: Flask) -> tuple[dict[str, str], str]:
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
                "id": f"{load.PLACE_OF_NUMBER}-{number}",
                "type": "lookups",
                "subject": ids.format_id("org", owners[number % ORGANIZATIONS]),
                "data": {"quantity": "1.5", "model": "large", "region": "eu-west-1"},
            }
            for number in range(BATCH_SIZE)
        ]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents-batch+json"}
    return headers, json.dumps(events)


def _count_rows(app: Flask) -> int:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return int(session.scalar(text("SELECT count(*) FROM usage_events")) or 0)


def _compare(before: Consumption, after: Consumption, accepted: Load, no_ops: Load) -> Measurement:
    consumed, events = after - before, accepted.requests * BATCH_SIZE
    return Measurement(
        events=events,
        events_per_second=round(events / accepted.seconds),
        database_us=round(consumed.database_seconds / events * 1e6, 1),
        web_us=round(consumed.web_seconds / events * 1e6, 1),
        web_mb=(round(before.web_bytes / 1e6), round(after.web_bytes / 1e6)),
        no_op_per_second=round(no_ops.per_second),
        no_op_ratio=round(accepted.per_second / no_ops.per_second, 3),
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
