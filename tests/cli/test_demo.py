"""The demo: consistent data, the same figures for the same seed, and refused in production."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.demo import organizations
from saas_api.demo.organizations import DemoCredentials, DemoLogin

SMALL = ("--organizations", "2", "--days", "33", "--messages", "100")


@pytest.fixture(autouse=True)
def no_stored_credentials(app: Flask) -> None:
    Path(app.config["INSTANCE"], "demo.json").unlink(missing_ok=True)


def seed(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["demo", "seed", *arguments])


def rows(app: Flask, sql: str) -> list[tuple[Any, ...]]:
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return [tuple(row) for row in session.execute(sa.text(sql))]


def invoices(app: Flask) -> list[tuple[Any, ...]]:
    return rows(app, "SELECT number, state, total_minor, due_minor FROM invoices ORDER BY number")


def test_demo_is_consistent_can_be_used_and_is_created_once(app: Flask) -> None:
    result = seed(app, *SMALL)
    assert result.exit_code == 0, result.output
    check_data(app)
    check_logins(app, result.stdout.splitlines())
    before = rows(app, "SELECT count(*) FROM organizations")
    assert seed(app, *SMALL).stdout == result.stdout
    assert rows(app, "SELECT count(*) FROM organizations") == before


def check_data(app: Flask) -> None:
    assert app.test_cli_runner().invoke(args=["billing", "invariants"]).exit_code == 0
    assert rows(app, "SELECT count(*) FROM messages") == [(100,)]
    used = "SELECT count(*) FILTER (WHERE quantity > 0), count(*) FILTER (WHERE quantity < 0) FROM usage_events"
    sent = "SELECT count(*), count(*) FILTER (WHERE status = 'failed') FROM messages WHERE mode = 'live'"
    assert rows(app, used) == rows(app, sent)
    assert {"paid"} <= {state for _, state, *_ in invoices(app)} <= {"open", "paid"}
    assert rows(app, "SELECT count(*) FROM webhook_deliveries WHERE status IN ('queued', 'sending')") == [(0,)]
    assert rows(app, "SELECT count(*) > 0 FROM usage_rollups") == [(True,)]
    assert rows(app, "SELECT count(*) > 0 FROM request_counts") == [(True,)]
    last_message = "SELECT max(accepted_at) FROM messages WHERE api_key_id = k.id"
    used_keys = f"SELECT count(*) FROM api_keys k WHERE last_used_at = ({last_message})"
    assert rows(app, used_keys) == rows(app, "SELECT count(DISTINCT api_key_id) FROM messages")
    assert rows(app, "SELECT count(*) FROM users WHERE email_verified_at IS NULL") == [(0,)]
    dated = """SELECT count(*) > 0, bool_and(m.created_at = e.at) FROM memberships m JOIN audit_events e
        ON e.organization_id = m.organization_id AND e.target_id = m.user_id::text AND action = 'invitation.accepted'"""
    assert rows(app, dated) == [(True, True)]
    promotional = "SELECT bool_and(created_at = effective_at) FROM credit_grants WHERE kind = 'promotional'"
    assert rows(app, promotional) == [(True,)]


def check_logins(app: Flask, lines: list[str]) -> None:
    email, password = next(line for line in lines if line.startswith("alice@")).split()[:2]
    client = app.test_client()
    assert client.post("/api/v1/auth/login", json={"email": email, "password": password}).status_code == 200
    message = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
    assert client.post("/api/v1/messages/send", json=message, headers={"X-API-Key": lines[-1]}).status_code == 202


def test_same_seed_gives_the_same_invoices(app: Flask, clear_tables: Callable[[], None]) -> None:
    now = clock.now()
    clock.freeze_time(now)
    seed(app, *SMALL)
    first = invoices(app)
    clear_tables()
    clock.freeze_time(now)
    seed(app, *SMALL)
    assert invoices(app) == first
    assert json.loads(Path(app.config["INSTANCE"], "demo.json").read_text(encoding="utf-8"))["options"]["seed"] == 1


def test_stored_credentials_of_an_earlier_version_are_read(context: Flask) -> None:
    login = {"email": "alice@acme.example", "password": "p", "role": "owner", "company": "Acme"}
    stored = {"logins": [login], "key": "sk_live_1", "keys": {"Acme": "sk_live_1"}, "wish": {"seed": 1}}
    Path(context.config["INSTANCE"], "demo.json").write_text(json.dumps(stored), encoding="utf-8")
    credentials = organizations.load_credentials()
    assert credentials == DemoCredentials(
        [DemoLogin("alice@acme.example", "p", "owner", "Acme")], "sk_live_1", {"Acme": "sk_live_1"}, {"seed": 1}
    )


def test_demo_is_refused_in_production(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    refused = seed(app, *SMALL)
    assert refused.exit_code == 1
    assert "refused" in refused.output
    assert rows(app, "SELECT count(*) FROM organizations") == [(0,)]
