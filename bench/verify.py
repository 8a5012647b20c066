"""Benchmark of POST /api/v1/keys/verify, without and with recording, beside a view that does nothing."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import text

from bench import load, report
from bench.application import running_application
from bench.consumption import read_consumption
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core.db import tenancy
from saas_api.services import services
from saas_api.usage import meters
from tests.support import web_server
from tests.support.accounts import create_key, sign_up
from tests.support.web_server import WebServer

ROUNDS = 3
TARGETS = {"verify": 0.6, "verify and record": 0.45}
"""Calls a second as a share of those of the view that does nothing."""
_METER = {"code": "lookups", "name": "Lookups", "unit": "lookup"}
_JSON = {"Content-Type": "application/json"}


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
        bodies = {
            "verify": {"key": key, "permission": "usage:read"},
            "verify and record": {"key": key, "permission": "usage:read", "meter": "lookups"},
        }
        served = {**settings, "WEB_CONCURRENCY": str(load.WEB_PROCESSES), "LOG_LEVEL": "error"}
        served["RATE_LIMIT_PER_MINUTE"] = str(settings["RATE_LIMIT_PER_MINUTE"])
        directory = Path(app.config["INSTANCE"])
        with web_server.serve(app.config, directory, **served) as server, load.running_no_op() as no_op:
            callers = {name: _caller(server, "/api/v1/keys/verify", body, headers) for name, body in bodies.items()}
            callers["no-op"] = _caller(no_op, "/", bodies["verify"], headers)
            rounds = [(name, variant) for _ in range(ROUNDS) for name, variant in variants.items()]
            bar = report.progress("Verify", len(rounds))
            for name, variant in rounds:
                target = no_op if name == "no-op" else server
                variant.add(_measure(app, target, callers[name], seconds / ROUNDS, connections))
                bar.update(1)
            bar.render_finish()
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
    return {"Authorization": f"Bearer {token}"}, key["X-API-Key"]


def _caller(
    server: WebServer, path: str, body: dict[str, str], headers: dict[str, str]
) -> Callable[[], Callable[[], int]]:
    def open_counted() -> Callable[[], int]:
        call = load.open_caller(server, path, json.dumps(body).encode(), {**_JSON, **headers})

        def counted() -> int:
            answer = json.loads(call())
            if path != "/" and answer["data"]["code"] != "VALID":
                raise RuntimeError(str(answer))
            return 1

        return counted

    return open_counted


def _measure(
    app: Flask, server: WebServer, caller: Callable[[], Callable[[], int]], seconds: float, connections: int
) -> Variant:
    before = read_consumption(app, server)
    calls, elapsed = load.call_in_parallel(seconds, connections, caller)
    after = read_consumption(app, server)
    web_us = (after.web_seconds - before.web_seconds) / calls * 1e6
    return Variant(calls, elapsed, web_us, (after.database_seconds - before.database_seconds) / calls * 1e6)


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
