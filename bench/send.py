"""Benchmark of POST /api/v1/messages/send, beside a view that does nothing and the same endpoint by the textbook.

Every variant is measured in turn, several times, with closed loops of some numbers of connections; then at half of its
own peak rate, with requests due at a fixed rate. PostgreSQL is durable: fsync and synchronous_commit are on.
"""

import contextlib
import json
import secrets
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import sqlalchemy as sa
from flask import Flask

from bench import load, report
from bench.application import running_application
from bench.consumption import Consumption, Engines
from bench.load import Call, Load
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import create_key, sign_up
from tests.support.messages import SEND, SMS
from tests.support.web_server import WebServer

VARIANTS = ("no-op", "textbook", "product", "spend cap", "test mode", "idempotent")
CONNECTIONS = (1, 16, 64)
ROUNDS = 5
WARM_UP_SECONDS = 2
HALF_PEAK_CONNECTIONS = 32
_GROUPS = ("web", "database", "redis", "load")
_BODY = json.dumps({**SMS, "message": "Your code is 123456"})


@dataclass(frozen=True)
class Measurement:
    """One load on one variant.

    p50_ms, p99_ms: time to the answer
    *_us: microseconds of CPU for one request, of the processes of each group
    """

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    web_us: float
    database_us: float
    redis_us: float
    load_us: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU of everything but the load generator."""
        return self.web_us + self.database_us + self.redis_us

    @property
    def p99_to_p50(self) -> float:
        return self.p99_ms / self.p50_ms

    @classmethod
    def of(cls, counted: Load, consumed: Consumption) -> "Measurement":
        """Relate what was consumed to what was answered."""
        million = 1e6 / counted.requests
        return cls(
            requests=counted.requests,
            per_second=counted.per_second,
            p50_ms=counted.p50_ms,
            p99_ms=counted.p99_ms,
            web_us=consumed.web_seconds * million,
            database_us=consumed.database_seconds * million,
            redis_us=consumed.redis_seconds * million,
            load_us=counted.cpu_seconds * million,
        )


@dataclass(frozen=True)
class Variant:
    """A call, and a function that counts the messages and the usage events that it has left in PostgreSQL."""

    call: Call
    count_rows: Callable[[], tuple[int, int]] | None = None


class Bench:
    """The variants, served on the same engines, with every measurement so far."""

    def __init__(self, engines: Engines, variants: dict[str, Variant]) -> None:
        self.engines = engines
        self.variants = variants
        self.accepted = dict.fromkeys(variants, 0)

    def measure(self, name: str, seconds: float, connections: int, rate: float = 0) -> Measurement:
        """Send one variant for some seconds; see `load.send`."""
        call = self.variants[name].call
        before = self.engines.read_with(call.server)
        counted = load.send(call, seconds, connections, rate)
        consumed = self.engines.read_with(call.server) - before
        self.accepted[name] += counted.requests
        return Measurement.of(counted, consumed)

    def check_rows(self) -> None:
        """Compare the rows with the answers.

        raises: RuntimeError unless each answer with 2xx left exactly one message and one usage event
        """
        for name, variant in self.variants.items():
            if variant.count_rows:
                messages, events = variant.count_rows()
                if not messages == events == self.accepted[name]:
                    raise RuntimeError(f"{name}: {self.accepted[name]} answers, {messages} messages, {events} events")


def run(
    seconds: float, connections: Sequence[int] = CONNECTIONS, names: Sequence[str] = VARIANTS, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Send each variant for some seconds with each number of connections, and print tables.

    raises: RuntimeError when an answer is not 2xx, or when the rows are not exactly those of the answers
    """
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    with running_application(**settings) as app, _serving(app, settings, names) as variants:
        bench = Bench(Engines(app), variants)
        peaks = _measure_peaks(bench, seconds / rounds, connections, rounds)
        half_peaks = _measure_half_peaks(bench, peaks, seconds / rounds, rounds)
        bench.check_rows()
    results = {
        "settings": {"seconds": seconds, "rounds": rounds, "server": "gunicorn"},
        "peak": _summaries(peaks),
        "half_peak": _summaries(half_peaks),
        "rows": bench.accepted,
    }
    click.echo(table_of(results["peak"]))
    click.echo(table_of(results["half_peak"]))
    return results


def _measure_peaks(
    bench: Bench, seconds: float, connections: Sequence[int], rounds: int
) -> dict[tuple[str, int], list[Measurement]]:
    measurements = defaultdict(list)
    turns = [(count, name) for count in connections for _ in range(rounds) for name in bench.variants]
    with report.progress("send", len(turns) + len(bench.variants)) as bar:
        for name in bench.variants:
            bar.update(1, f"{name}, warm-up")
            bench.measure(name, WARM_UP_SECONDS, 16)
        for count, name in turns:
            bar.update(1, f"{name}, {count} connections")
            measurements[name, count].append(bench.measure(name, seconds, count))
    return measurements


def _measure_half_peaks(
    bench: Bench, peaks: dict[tuple[str, int], list[Measurement]], seconds: float, rounds: int
) -> dict[tuple[str, int], list[Measurement]]:
    rates = dict.fromkeys(bench.variants, 0.0)
    for (name, _), measurements in peaks.items():
        rates[name] = max(rates[name], statistics.median(each.per_second for each in measurements) / 2)
    halves = defaultdict(list)
    turns = [name for _ in range(rounds) for name in bench.variants]
    with report.progress("send at half of the peak", len(turns)) as bar:
        for name in turns:
            bar.update(1, f"{name}, {rates[name]:.0f} requests/s")
            measured = bench.measure(name, seconds, HALF_PEAK_CONNECTIONS, rates[name])
            halves[name, HALF_PEAK_CONNECTIONS].append(measured)
    return halves


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
        products = [name for name in VARIANTS[2:] if name in names]
        if products:
            server = stack.enter_context(load.serving_product(app, settings))
            variants |= {name: _product(app, server, name) for name in products}
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


def _summaries(measurements: dict[tuple[str, int], list[Measurement]]) -> list[dict[str, Any]]:
    """Minimum, median and maximum of each figure by variant and number of connections.

    rate_to, cpu_to: requests/s and CPU as multiples of those of another variant in the same round
    """
    summaries = []
    for (name, connections), rounds in measurements.items():
        figures = {
            field: _spread([getattr(each, field) for each in rounds])
            for field in (*asdict(rounds[0]), "cpu_us", "p99_to_p50")
        }
        rates, consumed = {}, {}
        for other in ("no-op", "textbook"):
            if others := measurements.get((other, connections)):
                pairs = list(zip(rounds, others, strict=True))
                rates[other] = _spread([each.per_second / against.per_second for each, against in pairs])
                consumed[other] = _spread([each.cpu_us / against.cpu_us for each, against in pairs])
        summaries.append({"variant": name, "connections": connections, **figures, "rate_to": rates, "cpu_to": consumed})
    return summaries


def _spread(values: list[float]) -> list[float]:
    return [round(function(values), 3) for function in (min, statistics.median, max)]


def table_of(summaries: Sequence[dict[str, Any]]) -> str:
    """A table of summaries: medians, for requests/s and CPU with minimum and maximum."""
    header = ("variant", "connections", "requests/s", ": no-op", "p50 ms", "p99 ms", "p99 : p50", "CPU us", ": no-op")
    rows = [
        (
            row["variant"],
            row["connections"],
            " / ".join(f"{value:.0f}" for value in row["per_second"]),
            _ratio_to_no_op(row["rate_to"]),
            f"{row['p50_ms'][1]:.1f}",
            f"{row['p99_ms'][1]:.1f}",
            f"{row['p99_to_p50'][1]:.1f}",
            " / ".join(f"{value:.0f}" for value in row["cpu_us"]),
            _ratio_to_no_op(row["cpu_to"]),
            *(f"{row[f'{group}_us'][1]:.0f}" for group in _GROUPS),
        )
        for row in summaries
    ]
    return report.table((*header, *_GROUPS), rows)


def _ratio_to_no_op(ratios: Mapping[str, list[float]]) -> str:
    return f"{ratios['no-op'][1]:.2f}" if "no-op" in ratios else ""
