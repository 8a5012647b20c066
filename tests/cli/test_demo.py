"""The demo: what it makes is of one piece, the same every time, and refused where it does not belong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core import clock
from saas_api.core.db import tenancy

SMALL = ("--organizations", "2", "--days", "33", "--messages", "100")


@pytest.fixture(autouse=True)
def no_demo(app: Flask) -> None:
    Path(app.config["INSTANCE"], "demo.json").unlink(missing_ok=True)


def seed(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["demo", "seed", *arguments])


def rows(app: Flask, sql: str) -> list[tuple[Any, ...]]:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return [tuple(row) for row in session.execute(sa.text(sql))]


def figures(app: Flask) -> list[tuple[Any, ...]]:
    return rows(app, "SELECT number, state, total_minor, due_minor FROM invoices ORDER BY number")


def test_a_demo_has_books_in_order_and_logins_that_work_and_is_made_once(app: Flask) -> None:
    made = seed(app, *SMALL)
    assert made.exit_code == 0, made.output
    check_books(app)
    check_logins(app, made.stdout.splitlines())
    before = rows(app, "SELECT count(*) FROM organizations")
    assert seed(app, *SMALL).stdout == made.stdout
    assert rows(app, "SELECT count(*) FROM organizations") == before


def check_books(app: Flask) -> None:
    assert app.test_cli_runner().invoke(args=["billing", "invariants"]).exit_code == 0
    assert rows(app, "SELECT count(*) FROM messages") == [(100,)]
    used = "SELECT count(*) FILTER (WHERE quantity > 0), count(*) FILTER (WHERE quantity < 0) FROM usage_events"
    sent = "SELECT count(*), count(*) FILTER (WHERE status = 'failed') FROM messages WHERE mode = 'live'"
    assert rows(app, used) == rows(app, sent)
    assert {state for _, state, *_ in figures(app)} == {"open", "paid"}
    assert rows(app, "SELECT count(*) FROM webhook_deliveries WHERE status IN ('queued', 'sending')") == [(0,)]
    assert rows(app, "SELECT count(*) > 0 FROM usage_rollups") == [(True,)]


def check_logins(app: Flask, lines: list[str]) -> None:
    email, password = next(line for line in lines if line.startswith("alice@")).split()[:2]
    client = app.test_client()
    assert client.post("/api/v1/auth/login", json={"email": email, "password": password}).status_code == 200
    message = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
    assert client.post("/api/v1/messages/send", json=message, headers={"X-API-Key": lines[-1]}).status_code == 202


def test_the_same_seed_makes_the_same_figures(app: Flask, clear_tables: Callable[[], None]) -> None:
    at = clock.now()
    clock.freeze_time(at)
    seed(app, *SMALL)
    first = figures(app)
    clear_tables()
    clock.freeze_time(at)
    seed(app, *SMALL)
    assert figures(app) == first
    assert json.loads(Path(app.config["INSTANCE"], "demo.json").read_text(encoding="utf-8"))["options"]["seed"] == 1


def test_it_is_refused_in_production(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    refused = seed(app, *SMALL)
    assert refused.exit_code == 1
    assert "refused" in refused.output
    assert rows(app, "SELECT count(*) FROM organizations") == [(0,)]
