"""Benchmark of webhooks that one worker process delivers: to one endpoint, to ten, and to a slow receiver."""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from flask import Flask
from sqlalchemy import text

from bench import report
from bench.application import running_application
from bench.consumption import Engines, tree_seconds
from bench.receiver import Receiver, running_receiver
from bench.worker import running_worker, superuser_cursor
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import queue
from saas_api.webhooks import secrets
from saas_api.webhooks.events import DRAIN_JOB
from saas_api.webhooks.models import Endpoint
from tests.support.billing import BillingOrganization, create_organization

MIN_PER_SECOND = 1_200
_ROUNDS = 3
_EVENT = """{"id": "evt_018f3c6a9d2e7a018b4c5d6e7f809101", "type": "message.delivered", "mode": "live",
 "timestamp": "2026-03-01T12:00:00.000Z", "organization_id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90",
 "data": {"object": "message", "message_id": "msg_018f3c6a9d2e7a018b4c5d6e7f80aa01", "to": "+15005550006",
  "type": "sms", "subject": null, "status": "delivered", "segments": 1, "cost": "0.01", "currency": "USD",
  "mode": "live", "attempts": 1, "error_code": null, "created_at": "2026-03-02T09:00:00.000Z"}}"""
_PUBLISH = """
INSERT INTO events (organization_id, id, type, payload, subject_id, subject_version)
SELECT %(org)s, uuidv7(), 'message.delivered', %(payload)s, gen_random_uuid(), 1 FROM generate_series(1, %(count)s);
INSERT INTO webhook_deliveries (organization_id, id, event_id, endpoint_id, next_at)
SELECT e.organization_id, uuidv7(), e.id, w.id, now() FROM events e, webhook_endpoints w
 WHERE e.organization_id = %(org)s AND e.created_at = now() AND w.organization_id = e.organization_id;
ANALYZE webhook_deliveries"""
_SLOW_PER_SECOND = 300
_RESULT = text("""
SELECT count(*) AS deliveries, extract(epoch FROM max(finished_at) - min(finished_at))::float8 AS seconds,
  (SELECT count(*) FROM webhook_attempts WHERE started_at >= :since AND outcome = 'ok') AS attempts
FROM webhook_deliveries WHERE created_at >= :since AND status = 'delivered' AND attempts = 1 AND interruptions = 0""")


@dataclass(frozen=True)
class Scenario:
    """Endpoints of one organization, and the receiver behind them.

    seconds: that the receiver takes for each request
    """

    name: str
    endpoints: int
    seconds: float = 0.0

    @property
    def min_per_second(self) -> int:
        """The target; 0 for none: a slow receiver is bounded by the requests that it may receive at the same time."""
        return 0 if self.seconds else MIN_PER_SECOND


SCENARIOS = (
    Scenario("one endpoint", 1),
    Scenario("ten endpoints", 10),
    Scenario("ten endpoints, 100 ms", 10, seconds=0.1),
)


@dataclass(frozen=True)
class Measurement:
    """What a webhook costs.

    per_second: of one worker process; minimum, median and maximum of the rounds
    worker_us, database_us: microseconds of CPU for one webhook
    connections: for one thousand webhooks
    most_at_once: requests to the receiver at the same time
    """

    scenario: str
    per_second: tuple[int, int, int]
    worker_us: float
    database_us: float
    connections: float
    most_at_once: int
    is_missed: bool


def run(seconds: float, connections: int) -> dict[str, Any]:  # noqa: ARG001 - an endpoint limits its connections
    """Deliver webhooks for some seconds a round, and print a table. Fails unless each is received exactly once."""
    with running_application(APP_URL="http://localhost", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8") as app:
        measurements = []
        for scenario in SCENARIOS:
            with (
                running_receiver(scenario.seconds) as receiver,
                running_worker(app, "webhooks", WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8") as worker,
            ):
                measurements.append(_measure(app, worker, receiver, scenario, seconds))
    _print(measurements)
    return {"measurements": [asdict(measurement) for measurement in measurements]}


def _measure(app: Flask, worker: psutil.Process, receiver: Receiver, scenario: Scenario, seconds: float) -> Measurement:
    organization = create_endpoints(app, scenario, receiver.port)
    count = round(seconds * (_SLOW_PER_SECOND if scenario.seconds else MIN_PER_SECOND)) // scenario.endpoints
    postgres, per_second = Engines(app).postgres, []
    with report.progress(f"Webhooks, {scenario.name}", _ROUNDS) as bar:
        deliver(app, organization, count // 5, scenario)
        receiver.take_counts()
        before = tree_seconds(worker), tree_seconds(postgres)
        for _ in range(_ROUNDS):
            per_second.append(deliver(app, organization, count, scenario))
            bar.update(1, f"{per_second[-1]} a second")
        after = tree_seconds(worker), tree_seconds(postgres)
    received, total = receiver.take_counts(), _ROUNDS * count * scenario.endpoints
    if (received.requests, received.distinct) != (total, total):
        raise RuntimeError(f"{total} webhooks were due, and {received} arrived")
    median = round(statistics.median(per_second))
    worker_us, database_us = ((end - start) / total * 1e6 for start, end in zip(before, after, strict=True))
    return Measurement(
        scenario=scenario.name,
        per_second=(min(per_second), median, max(per_second)),
        worker_us=round(worker_us, 1),
        database_us=round(database_us, 1),
        connections=round(1000 * received.connections / total, 1),
        most_at_once=received.most_at_once,
        is_missed=median < scenario.min_per_second,
    )


def create_endpoints(app: Flask, scenario: Scenario, port: int) -> BillingOrganization:
    """Create an organization with endpoints at a receiver."""
    with app.app_context():
        organization = create_organization(f"Acme{ids.new_id().hex}", clock.now())
        clock.freeze_time(None)
        with tenancy.tenant_session(organization.id) as session:
            for number in range(scenario.endpoints):
                url = f"http://127.0.0.1:{port}/{number}"
                endpoint = Endpoint(organization_id=organization.id, id=ids.new_id(), url=url)
                session.add(endpoint)
                session.flush()  # its secret refers to it
                secrets.create_secret(session, endpoint)
    return organization


def deliver(app: Flask, organization: BillingOrganization, count: int, scenario: Scenario) -> int:
    """Publish events and wait until every endpoint has them; returns the deliveries a second."""
    with superuser_cursor(app) as cursor:
        cursor.execute("SELECT now()")
        [since] = cursor.fetchone()
        cursor.execute(_PUBLISH, {"org": str(organization.id), "payload": _EVENT, "count": count})
        with app.app_context():
            queue.wake_workers(DRAIN_JOB, is_forced=True)
        while _is_any_open(cursor):
            time.sleep(0.2)
    with app.app_context(), tenancy.tenant_session(organization.id) as session:
        result = session.execute(_RESULT, {"since": since}).one()
    expected = count * scenario.endpoints
    if (result.deliveries, result.attempts) != (expected, expected):
        raise RuntimeError(f"{expected} deliveries were due, and {result} were delivered")
    return round(expected / result.seconds)


def _is_any_open(cursor: Any) -> bool:
    cursor.execute("SELECT EXISTS (SELECT FROM webhook_deliveries WHERE status IN ('queued', 'sending'))")
    return bool(cursor.fetchone()[0])


def _print(measurements: list[Measurement]) -> None:
    header = (
        "webhooks",
        "a second, min",
        "median",
        "max",
        "worker us",
        "database us",
        "connections",
        "at once",
        "missed",
    )
    rows = [
        (
            measurement.scenario,
            *measurement.per_second,
            measurement.worker_us,
            measurement.database_us,
            measurement.connections,
            measurement.most_at_once,
            "missed" if measurement.is_missed else "",
        )
        for measurement in measurements
    ]
    report.print_table(header, rows)
