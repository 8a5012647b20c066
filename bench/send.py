"""Benchmark of POST /api/v1/messages/send, beside a view that does nothing and the same endpoint by the textbook.

Every variant is measured in turn, several times, with closed loops of some numbers of connections; then at half of its
own peak rate, with requests due at a fixed rate. PostgreSQL is durable: fsync and synchronous_commit are on.
"""

import contextlib
import json
import secrets
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import click
import sqlalchemy as sa
from flask import Flask

from bench import load, turns
from bench.application import running_application
from bench.consumption import Engines
from bench.load import Call
from bench.turns import Measurements, Turns, Variant
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import create_key, sign_up
from tests.support.messages import SEND, SMS
from tests.support.web_server import WebServer

VARIANTS = ("no-op", "textbook", "product", "granian", "spend cap", "test mode", "idempotent")
"""In the order of their turns; `granian` is `product` served by granian, and gunicorn serves all others."""
CONNECTIONS = (1, 16, 64)
HALF_PEAK_CONNECTIONS = 32
_BODY = json.dumps({**SMS, "message": "Your code is 123456"})


def run(seconds: float, connections: Sequence[int] = CONNECTIONS, names: Sequence[str] = VARIANTS) -> dict[str, Any]:
    """Send each variant for some seconds with each number of connections, and print tables.

    raises: RuntimeError when an answer is not 2xx, or when the rows are not exactly those of the answers
    """
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    with running_application(**settings) as app, _serving(app, settings, names) as variants:
        sends = Turns("send", Engines(app), variants)
        sends.warm_up()
        peaks = sends.measure(seconds, connections)
        halves = sends.measure(seconds, [HALF_PEAK_CONNECTIONS], _half_rates(peaks))
        sends.check_rows()
    peak, half_peak = turns.summarize(peaks), turns.summarize(halves)
    click.echo(turns.table_of(peak))
    click.echo(turns.table_of(half_peak))
    return {"peak": peak, "half_peak": half_peak, "rows": sends.accepted}


def _half_rates(peaks: Measurements) -> dict[str, float]:
    """Half of the highest rate of each variant."""
    rates = dict.fromkeys((name for name, _ in peaks), 0.0)
    for (name, _), rounds in peaks.items():
        rates[name] = max(rates[name], statistics.median(each.per_second for each in rounds) / 2)
    return rates


@contextlib.contextmanager
def _serving(app: Flask, settings: dict[str, Any], names: Sequence[str]) -> Iterator[dict[str, Variant]]:
    """Serve the variants in the order of their names."""
    with contextlib.ExitStack() as stack:
        variants = {}
        if "no-op" in names:
            server = stack.enter_context(load.serving("noop"))
            variants["no-op"] = Variant(Call(server, "/", _BODY, load.JSON_HEADERS))
        if "textbook" in names:
            variants["textbook"] = _textbook(app, stack)
        servers = {}
        for name in [name for name in names if name in VARIANTS[2:]]:
            choice = "granian" if name == "granian" else "gunicorn"
            if choice not in servers:
                served = load.serving_product(app, {**settings, "SERVER": choice})
                servers[choice] = stack.enter_context(served)
            variants[name] = _product(app, servers[choice], name)
        yield {name: variants[name] for name in names}


def _textbook(app: Flask, stack: contextlib.ExitStack) -> Variant:
    """The textbook, with tables of its own on the same PostgreSQL, and on the same Redis."""
    key = secrets.token_urlsafe()
    owner_url = app.config["DATABASE_OWNER_URL"]
    environment = {"DATABASE_URL": owner_url, "REDIS_URL": app.config["REDIS_URL"], "API_KEY": key}
    load.run_module("textbook", **environment)
    server = stack.enter_context(load.serving("textbook", **environment))

    def count_rows() -> tuple[int, int]:
        counts = "SELECT (SELECT count(*) FROM textbook.messages), (SELECT count(*) FROM textbook.usage_events)"
        with sa.create_engine(owner_url).connect() as connection:
            messages, events = connection.execute(sa.text(counts)).one()
        return messages, events

    return Variant(Call(server, "/send", _BODY, {**load.JSON_HEADERS, "X-API-Key": key}), count_rows)


def _product(app: Flask, server: WebServer, name: str) -> Variant:
    """The product, with an organization of its own for each variant."""
    client = app.test_client()
    user = sign_up(client, f"alice@{name.replace(' ', '-')}.example", name)
    _, key = create_key(client, user, mode="test" if name == "test mode" else "live")
    if name == "spend cap":
        user.call("PUT", "/billing/spend-cap", amount="900000.00", action="block")
    headers = {**load.JSON_HEADERS, **key}
    if name == "idempotent":
        headers["Idempotency-Key"] = load.PLACE_OF_NUMBER
    organization_id = ids.parse_id("org", user.organization_id)
    ledger = "test_usage_events" if name == "test mode" else "usage_events"

    def count_rows() -> tuple[int, int]:
        count = "SELECT count(*) FROM {} WHERE organization_id = :id"
        with app.app_context(), tenancy.system_session("demo.seed") as session:
            messages, events = (
                session.scalar(sa.text(count.format(table)), {"id": organization_id}) for table in ("messages", ledger)
            )
        return messages, events

    return Variant(Call(server, SEND, _BODY, headers), count_rows)
