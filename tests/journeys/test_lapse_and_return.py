"""An unpaid invoice: reminders, warning, restriction and suspension; after payment the same key works again."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.billing import invoices, settlement
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import Headers, User, make_key, sign_up
from tests.support.billing_reads import period_end
from tests.support.messages import send_message

MESSAGE = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


@pytest.fixture(autouse=True)
def reset_clock() -> Iterator[None]:
    yield
    clock.freeze_time(None)


def close_period(app: Flask, ends_at: datetime) -> None:
    clock.freeze_time(ends_at + timedelta(hours=2))
    closed = app.test_cli_runner().invoke(args=["billing", "close", "--json"])
    assert closed.exit_code == 0, closed.output


def run_dunning(app: Flask, at: datetime) -> list[str]:
    """Run dunning at a time and return the actions of its steps."""
    clock.freeze_time(at)
    result = app.test_cli_runner().invoke(args=["dunning", "run", "--json"])
    assert result.exit_code == 0, result.output
    return [step["action"] for step in json.loads(result.stdout)["steps"]]


def send_status(client: FlaskClient, key: Headers) -> tuple[int, str]:
    response = client.post("/api/v1/messages/send", json=MESSAGE, headers=key)
    return response.status_code, (response.json.get("error") or {}).get("code", "")


def pay(app: Flask, owner: User, invoice: dict[str, Any]) -> None:
    """Record a confirmed payment in one transaction, as the settlement does."""
    organization_id, invoice_id = ids.parse_id("org", owner.organization_id), ids.parse_id("inv", invoice["id"])
    with app.app_context(), tenancy.system_session("billing.close") as session:
        settlement.apply_payment(session, organization_id, invoice_id, 9900, "payment:journey")
        settlement.finish(session, organization_id, invoices.lock_invoice(session, organization_id, invoice_id))


def open_invoice(app: Flask, client: FlaskClient, owner: User) -> tuple[dict[str, Any], datetime]:
    """Upgrade to pro, close the period, and return the open invoice and its due date."""
    upgraded = client.post("/api/v1/billing/upgrade", json={"plan": "pro", "when": "now"}, headers=owner.headers)
    assert upgraded.status_code == 200, upgraded.json
    close_period(app, period_end(client, owner))
    [invoice] = client.get("/api/v1/billing/history", headers=owner.headers).json["data"]["invoices"]
    assert invoice["status"] == "open"
    return invoice, datetime.fromisoformat(invoice["due_date"])


def test_unpaid_invoice_suspends_and_payment_restores_the_key(
    app: Flask, client: FlaskClient, work: Callable[[], None]
) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    invoice, due = open_invoice(app, client, owner)
    assert run_dunning(app, clock.now()) == []

    assert run_dunning(app, due) == ["remind"]
    assert run_dunning(app, due + timedelta(days=3)) == ["remind"]
    assert run_dunning(app, due + timedelta(days=5)) == ["warn"]
    send_message(client, key)

    assert run_dunning(app, due + timedelta(days=7)) == ["restrict"]
    assert send_status(client, key) == (402, "SUBSCRIPTION_RESTRICTED")
    assert client.get("/api/v1/usage", headers=key).status_code == 200
    assert client.get("/api/v1/billing/history", headers=owner.headers).status_code == 200

    assert run_dunning(app, due + timedelta(days=10)) == ["remind"]
    assert run_dunning(app, due + timedelta(days=14)) == ["suspend"]
    assert send_status(client, key) == (403, "ORGANIZATION_SUSPENDED")
    assert client.get("/api/v1/usage", headers=key).status_code == 403
    assert client.get("/api/v1/billing/history", headers=owner.headers).status_code == 200

    pay(app, owner, invoice)
    send_message(client, key)
    [paid] = client.get("/api/v1/billing/history", headers=owner.headers).json["data"]["invoices"]
    assert paid["status"] == "paid"
    work()


def test_commands_take_another_time_by_option(app: Flask, client: FlaskClient) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    _, due = open_invoice(app, client, owner)

    def at(days: int) -> str:
        result = app.test_cli_runner().invoke(
            args=["dunning", "run", "--at", clock.format_rfc3339(due + timedelta(days=days, minutes=1))]
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "  remind" in at(0)
    listed = app.test_cli_runner().invoke(args=["dunning", "list"]).stdout
    assert "INV-000001" in listed
    assert "next: remind at" in listed
    assert "  remind" in at(3)
    assert "  warn" in at(5)
    assert "  restrict" in at(7)
    assert send_status(client, key) == (402, "SUBSCRIPTION_RESTRICTED")


def test_production_rejects_another_time(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    refused = app.test_cli_runner().invoke(args=["dunning", "run", "--at", "2026-05-18T00:00:00Z"])
    assert refused.exit_code == 1
    assert "--at is refused" in refused.output
