"""Benchmark of POST /api/v1/keys/verify, without and with recording, beside a view that does nothing."""

import json
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from flask import Flask
from sqlalchemy import text

from bench import load, report
from bench.application import running_application
from bench.consumption import Engines
from bench.load import Call
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core.db import tenancy
from saas_api.services import services
from saas_api.usage import meters
from tests.support.accounts import create_key, sign_up
from tests.support.web_server import WebServer

ROUNDS = 3
TARGETS = {"verify": 0.6, "verify and record": 0.45}
"""Calls a second as a share of those of the view that does nothing."""
_METER = {"code": "lookups", "name": "Lookups", "unit": "lookup"}
VERIFY = "/api/v1/keys/verify"


@dataclass
class Variant:
    """Calls of one kind.

    web_us, database_us: microseconds of CPU for one call
    """

    calls: int = 0
    seconds: float = 0.0
    web_us: float = 0.0
    database_us: float = 0.0

    def add(self, other: "Variant") -> None:
        """Add calls of another round."""
        calls = self.calls + other.calls
        self.web_us = (self.web_us * self.calls + other.web_us * other.calls) / calls
        self.database_us = (self.database_us * self.calls + other.database_us * other.calls) / calls
        self.calls, self.seconds = calls, self.seconds + other.seconds

    @property
    def per_second(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


def run(seconds: float, connections: int) -> dict[str, Any]:
    """Call each variant in turn, and print a table. Fails when the ledger has not exactly what was recorded."""
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    variants = {name: Variant() for name in ("no-op", *TARGETS)}
    with running_application(**settings) as app:
        headers, key = _prepare(app)
        body = {"key": key, "permission": "usage:read"}
        with load.serving_product(app, settings) as server, load.serving("noop") as no_op:
            calls = {
                "no-op": Call(no_op, "/", json.dumps(body), load.JSON_HEADERS),
                "verify": Call(server, VERIFY, json.dumps(body), headers),
                "verify and record": Call(server, VERIFY, json.dumps({**body, "meter": "lookups"}), headers),
            }
            _check_answer(server, calls["verify"])
            engines = Engines(app)
            rounds = list(calls.items()) * ROUNDS
            with report.progress("verify", len(rounds)) as bar:
                for name, call in rounds:
                    bar.update(1, name)
                    variants[name].add(_measure(engines, call, seconds / ROUNDS, connections))
        recorded = _count_rows(app)
    if recorded != variants["verify and record"].calls:
        raise RuntimeError(f"{variants['verify and record'].calls} calls were recorded, and the ledger has {recorded}")
    return _report(variants)


def _prepare(app: Flask) -> tuple[dict[str, str], str]:
    """Headers of a service, and a customer's key."""
    with app.app_context():
        meters.publish_meter(_METER, SYSTEM_ACTOR)
        with tenancy.system_session("demo.seed") as session:
            token = services.create_service(session, OperatorContext(SYSTEM_ACTOR, "benchmark"), "lookups").token
    client = app.test_client()
    _, key = create_key(client, sign_up(client))
    return {"Authorization": f"Bearer {token}", **load.JSON_HEADERS}, key["X-API-Key"]


def _check_answer(server: WebServer, call: Call) -> None:
    """Check that the key is valid: an invalid key is answered with 200 as well."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{call.path}", call.body.encode(), dict(call.headers)
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310 - a server of our own
        answer = json.load(response)
    if answer["data"]["code"] != "VALID":
        raise RuntimeError(str(answer))


def _measure(engines: Engines, call: Call, seconds: float, connections: int) -> Variant:
    before = engines.read_with(call.server)
    counted = load.send(call, seconds, connections)
    consumed = engines.read_with(call.server) - before
    million = 1e6 / counted.requests
    return Variant(
        counted.requests, counted.seconds, consumed.web_seconds * million, consumed.database_seconds * million
    )


def _count_rows(app: Flask) -> int:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return int(session.scalar(text("SELECT count(*) FROM usage_events")) or 0)


def _report(variants: dict[str, Variant]) -> dict[str, Any]:
    bound, rows, results = variants["no-op"], [], {}
    for name, variant in variants.items():
        ratio = variant.per_second / bound.per_second
        cpu_ratio = (variant.web_us + variant.database_us) / (bound.web_us + bound.database_us)
        missed = "speed" if ratio < TARGETS.get(name, 0) else ""
        cells = [round(variant.per_second), round(variant.web_us), round(variant.database_us)]
        rows.append([name, *cells, f"{ratio:.2f}", f"{cpu_ratio:.1f}", missed])
        results[name] = {**asdict(variant), "ratio": round(ratio, 3), "cpu_ratio": round(cpu_ratio, 2)}
    header = ("calls", "calls/s", "web us", "database us", "ratio of calls/s", "ratio of CPU", "missed")
    report.print_table(header, rows)
    return results
