"""Benchmark of POST /api/v1/keys/verify, without and with recording, beside a view that does nothing."""

import json
import urllib.request
from typing import Any

import click
from flask import Flask
from sqlalchemy import text

from bench import load, turns
from bench.application import running_application
from bench.consumption import Engines
from bench.load import Call
from bench.turns import Turns, Variant
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core.db import tenancy
from saas_api.services import services
from saas_api.usage import meters
from tests.support.accounts import create_key, sign_up

_METER = {"code": "lookups", "name": "Lookups", "unit": "lookup"}
VERIFY = "/api/v1/keys/verify"


def run(seconds: float, connections: int) -> dict[str, Any]:
    """Call each variant in turn, and print a table.

    raises: RuntimeError when an answer is not 2xx, or when the ledger has not exactly what was recorded
    """
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    with running_application(**settings) as app:
        headers, key = _prepare(app)
        body = {"key": key, "permission": "usage:read"}
        with load.serving_product(app, settings) as server, load.serving("noop") as no_op:
            verification = Call(server, VERIFY, json.dumps(body), headers)
            recording = Call(server, VERIFY, json.dumps({**body, "meter": "lookups"}), headers)
            variants = {
                "no-op": Variant(Call(no_op, "/", verification.body, load.JSON_HEADERS)),
                "verify": Variant(verification),
                "verify and record": Variant(recording, lambda: [_count_rows(app)]),
            }
            _check_answer(verification)
            calls = Turns("verify", Engines(app), variants)
            calls.warm_up()
            measurements = calls.measure(seconds, [connections])
            calls.check_rows()
    summaries = turns.summarize(measurements)
    click.echo(turns.table_of(summaries))
    return {"calls": summaries}


def _prepare(app: Flask) -> tuple[dict[str, str], str]:
    """Headers of a service, and a customer's key."""
    with app.app_context():
        meters.publish_meter(_METER, SYSTEM_ACTOR)
        with tenancy.system_session("demo.seed") as session:
            token = services.create_service(session, OperatorContext(SYSTEM_ACTOR, "benchmark"), "lookups").token
    client = app.test_client()
    _, key = create_key(client, sign_up(client))
    return {"Authorization": f"Bearer {token}", **load.JSON_HEADERS}, key["X-API-Key"]


def _check_answer(call: Call) -> None:
    """Check that the key is valid: an invalid key is answered with 200 as well."""
    url = f"http://127.0.0.1:{call.server.port}{call.path}"
    request = urllib.request.Request(url, call.body.encode(), dict(call.headers))
    with urllib.request.urlopen(request) as response:  # noqa: S310 - a server of our own
        answer = json.load(response)
    if answer["data"]["code"] != "VALID":
        raise RuntimeError(str(answer))


def _count_rows(app: Flask) -> int:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return int(session.scalar(text("SELECT count(*) FROM usage_events")) or 0)
