"""Pages: milliseconds in the server, queries, and bytes of a first visit, for every page with thirty days of data."""

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

from bench.place import application
from bench.report import progress, table
from saas_api.core.db.engine import db
from tests.browser.places import Place, places
from tests.browser.world import World, make

MILLISECONDS, KILOBYTES, QUERIES = 50, 100, 12
"""Budgets of a page; what is over one is marked."""
WISH = {"organizations": 3, "days": 35, "messages": 12_000, "seed": 1}
TIMES = 20
_ASSET = re.compile(r'(?:href|src)="(/static/[^"]+)"')
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


@dataclass(frozen=True)
class Page:
    """A page as it was measured.

    kilobytes: transferred by a first visit, headers left out: HTML as it is, files of the page gzipped
    """

    address: str
    status: int
    milliseconds: float
    kilobytes: float
    queries: int

    @property
    def over(self) -> str:
        """The budgets it is over."""
        found = {
            "time": self.milliseconds > MILLISECONDS,
            "bytes": self.kilobytes > KILOBYTES,
            "queries": self.queries > QUERIES,
        }
        return " ".join(name for name, is_over in found.items() if is_over)


class Counter:
    """Counts statements that are sent to PostgreSQL."""

    def __init__(self, app: Flask) -> None:
        self.count = 0
        with app.app_context():
            sa.event.listen(db.engine, "before_cursor_execute", self._seen)

    def _seen(self, *_: Any) -> None:
        self.count += 1


def run(_seconds: float, _connections: int) -> dict[str, Any]:
    """Measure every page of the dashboard and of the console; prints a table."""
    with application(APP_URL="http://localhost") as app:
        world = make(app, **WISH)
        found = [place for place in places(app, world.organization_id) if place.path]
        people = {
            "/dashboard": enter(app, world, "alice@acme.example"),
            "/admin": enter(app, world, "olga@platform.example"),
        }
        counter, measured = Counter(app), []
        with progress("Pages", len(found)) as bar, redis.Redis.from_url(app.config["REDIS_URL"]) as limits:
            for place in found:
                start = next((start for start in people if place.rule.startswith(start)), None)
                client = people[start] if start else app.test_client()
                limits.flushdb()  # nobody opens so many pages within a minute
                measured.append(measure(client, place, counter))
                bar.update(1)
    rows = [
        (page.address, page.status, f"{page.milliseconds:.1f}", f"{page.kilobytes:.0f}", page.queries, page.over)
        for page in measured
    ]
    table(("page", "status", "ms", "KB", "queries", "over"), rows)
    return {"budgets": [MILLISECONDS, KILOBYTES, QUERIES], "pages": [asdict(page) for page in measured]}


def enter(app: Flask, world: World, email: str) -> FlaskClient:
    """Somebody who signed in by the form."""
    client = app.test_client()
    token = _TOKEN.search(client.get("/login").get_data(as_text=True))
    assert token, "the form has no token"  # noqa: S101 - a measurement without a visitor measures nothing
    form = {"email": email, "password": world.password_of(email), "csrf_token": token[1]}
    answer = client.post("/login", data=form)
    assert answer.status_code == 303, answer.status  # noqa: S101 - the same
    return client


def measure(client: FlaskClient, place: Place, counter: Counter) -> Page:
    """Open a page again and again; the first time warms up and is not counted."""
    path = place.path or ""
    answer = client.get(path)
    html = answer.get_data()
    times = []
    counter.count = 0
    for _ in range(TIMES):
        begun = time.perf_counter()
        client.get(path).get_data()
        times.append((time.perf_counter() - begun) * 1000)
    queries = round(counter.count / TIMES)
    files = sum(_packed(client, address) for address in set(_ASSET.findall(html.decode())))
    size = (len(html) + files) / 1024
    return Page(place.rule, answer.status_code, round(statistics.median(times), 1), round(size, 1), queries)


def _packed(client: FlaskClient, address: str) -> int:
    answer = client.get(address, headers={"Accept-Encoding": "gzip"})
    body = answer.get_data()
    return len(body) if answer.headers.get("Content-Encoding") == "gzip" else len(gzip.compress(body))
