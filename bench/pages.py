"""Benchmark of every page with 35 days of data: server time, number of queries, and bytes of a first visit."""

import gzip
import re
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import redis
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from bench import report
from bench.application import running_application
from saas_api.core.db.engine import db
from tests.browser.demo import Demo, create_demo
from tests.browser.page_routes import PageRoute, page_routes

MAX_MILLISECONDS, MAX_KILOBYTES, MAX_QUERIES = 50, 100, 12
"""Budgets of a page; a page over one is marked."""
DEMO_OPTIONS = {"organizations": 3, "days": 35, "messages": 12_000, "seed": 1}
REPETITIONS = 20
_ASSET = re.compile(r'(?:href|src)="(/static/[^"]+)"')
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


@dataclass(frozen=True)
class Page:
    """The measurement of a page.

    kilobytes: bodies of a first visit: uncompressed HTML, and the gzipped files of the page
    """

    address: str
    status: int
    milliseconds: float
    kilobytes: float
    queries: int

    @property
    def exceeded_budgets(self) -> str:
        """Names of the exceeded budgets."""
        budgets = {
            "time": self.milliseconds > MAX_MILLISECONDS,
            "bytes": self.kilobytes > MAX_KILOBYTES,
            "queries": self.queries > MAX_QUERIES,
        }
        return " ".join(name for name, is_exceeded in budgets.items() if is_exceeded)


class QueryCounter:
    """Counts the statements that are sent to PostgreSQL."""

    def __init__(self, app: Flask) -> None:
        self.count = 0
        with app.app_context():
            sa.event.listen(db.engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.count += 1


def run(_seconds: float, _connections: int) -> dict[str, Any]:
    """Measure every page of the dashboard and of the operator console, and print a table."""
    with running_application(APP_URL="http://localhost") as app:
        demo = create_demo(app, **DEMO_OPTIONS)
        routes = [route for route in page_routes(app, demo.organization_id) if route.path]
        clients = {
            "/dashboard": sign_in(app, demo, "alice@acme.example"),
            "/admin": sign_in(app, demo, "olga@platform.example"),
        }
        counter, measurements = QueryCounter(app), []
        with report.progress("pages", len(routes)) as bar, redis.Redis.from_url(app.config["REDIS_URL"]) as limits:
            for route in routes:
                bar.update(1, route.rule)
                prefix = next((prefix for prefix in clients if route.rule.startswith(prefix)), None)
                client = clients[prefix] if prefix else app.test_client()
                limits.flushdb()  # the benchmark opens more pages in a minute than the rate limit allows
                measurements.append(measure(client, route, counter))
    rows = [
        (
            page.address,
            page.status,
            f"{page.milliseconds:.1f}",
            f"{page.kilobytes:.0f}",
            page.queries,
            page.exceeded_budgets,
        )
        for page in measurements
    ]
    report.print_table(("page", "status", "ms", "KB", "queries", "over"), rows)
    return {
        "budgets": [MAX_MILLISECONDS, MAX_KILOBYTES, MAX_QUERIES],
        "pages": [asdict(page) for page in measurements],
    }


def sign_in(app: Flask, demo: Demo, email: str) -> FlaskClient:
    """A client that has signed in with the form."""
    client = app.test_client()
    token = _TOKEN.search(client.get("/login").get_data(as_text=True))
    assert token, "the form has no token"  # noqa: S101 - without a session the measurement would be of another page
    form = {"email": email, "password": demo.password_of(email), "csrf_token": token[1]}
    response = client.post("/login", data=form)
    assert response.status_code == 303, response.status  # noqa: S101 - the same
    return client


def measure(client: FlaskClient, route: PageRoute, counter: QueryCounter) -> Page:
    """Open a page several times; the first request is not measured."""
    path = route.path or ""
    response = client.get(path)
    html = response.get_data()
    times = []
    counter.count = 0
    for _ in range(REPETITIONS):
        started_at = time.perf_counter()
        client.get(path).get_data()
        times.append((time.perf_counter() - started_at) * 1000)
    queries = round(counter.count / REPETITIONS)
    files = sum(_gzipped_size(client, url) for url in set(_ASSET.findall(html.decode())))
    size = (len(html) + files) / 1024
    return Page(route.rule, response.status_code, round(statistics.median(times), 1), round(size, 1), queries)


def _gzipped_size(client: FlaskClient, url: str) -> int:
    response = client.get(url, headers={"Accept-Encoding": "gzip"})
    body = response.get_data()
    return len(body) if response.headers.get("Content-Encoding") == "gzip" else len(gzip.compress(body))
