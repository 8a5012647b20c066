"""Benchmark of POST /api/v1/events: batches of 1,000 to the web as it is served, beside a view that does nothing."""

import json
from typing import Any

import click
from flask import Flask
from sqlalchemy import text

from bench import load, report, turns
from bench.application import running_application
from bench.consumption import Engines
from bench.load import Call
from bench.turns import Turns, Variant
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.services import services
from saas_api.usage import meters
from tests.support.billing import create_organization

BATCH_SIZE, ORGANIZATIONS = 1_000, 10
EVENTS = "/api/v1/events"
_METER = {"code": "lookups", "name": "Lookups", "unit": "lookup", "dimensions": ["model"]}


def run(seconds: float, connections: int) -> dict[str, Any]:
    """Send batches in turn with calls of a view that does nothing, and print tables.

    raises: RuntimeError when an answer is not 2xx, or when the ledger has not exactly what was accepted
    returns: also *_us, the microseconds of CPU for one event, and web_mb, the web's memory before and after
    """
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none"}
    with running_application(**settings) as app:
        headers, body = prepare(app)
        with load.serving_product(app, settings) as server, load.serving("noop") as no_op:
            variants = {
                "no-op": Variant(Call(no_op, "/", "{}", load.JSON_HEADERS)),
                "batch": Variant(Call(server, EVENTS, body, headers), lambda: [_count_batches(app)]),
            }
            engines = Engines(app)
            calls = Turns("events", engines, variants)
            calls.warm_up()
            before = engines.read_with(server)
            measurements = calls.measure(seconds, [connections])
            after = engines.read_with(server)
            calls.check_rows()
    batches = turns.summarize(measurements)
    [batch] = [summary for summary in batches if summary["variant"] == "batch"]
    results = {
        "calls": batches,
        "events_per_second": round(batch["per_second"][1] * BATCH_SIZE),
        "web_us": round(batch["web_us"][1] / BATCH_SIZE, 1),
        "database_us": round(batch["database_us"][1] / BATCH_SIZE, 1),
        "web_mb": [round(consumed.web_bytes / 1e6) for consumed in (before, after)],
    }
    click.echo(turns.table_of(batches))
    report.print_table(("events/s", "web us", "database us", "web MB"), [tuple(results.values())[1:]])
    return results


def prepare(app: Flask) -> tuple[dict[str, str], str]:
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


def _count_batches(app: Flask) -> int:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        batches, rest = divmod(session.scalar(text("SELECT count(*) FROM usage_events")) or 0, BATCH_SIZE)
    if rest:
        raise RuntimeError(f"the ledger has {rest} events of a batch of {BATCH_SIZE}")
    return batches
