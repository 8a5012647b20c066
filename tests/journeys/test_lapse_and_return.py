"""An invoice lapses: reminded, warned, restricted, suspended; paid, the same key sends again at once."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.billing import invoices
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import dunning
from tests.support.journeys import Headers, make_key, organization_of, period_end, send, sign_up

MESSAGE = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


@pytest.fixture(autouse=True)
def back_to_the_present() -> Iterator[None]:
    yield
    clock.freeze_time(None)


def close_period(app: Flask, ends_at: datetime) -> None:
    clock.freeze_time(ends_at + timedelta(hours=2))
    closed = app.test_cli_runner().invoke(args=["billing", "close", "--json"])
    assert closed.exit_code == 0, closed.output


def pursue(app: Flask, at: datetime) -> list[str]:
    """Travel, and let a user's hand do what the minute's run does."""
    clock.freeze_time(at)
    done = app.test_cli_runner().invoke(args=["dunning", "run", "--json"])
    assert done.exit_code == 0, done.output
    return [step["action"] for step in json.loads(done.stdout)["steps"]]


def attempt(client: FlaskClient, key: Headers) -> tuple[int, str]:
    answer = client.post("/api/v1/messages/send", json=MESSAGE, headers=key)
    return answer.status_code, (answer.json.get("error") or {}).get("code", "")


def pay(app: Flask, organization: str, invoice: dict[str, Any]) -> None:
    """Book what a provider confirmed, as the settlement does in one transaction."""
    owner, invoice_id = ids.parse_id("org", organization), ids.parse_id("inv", invoice["id"])
    with app.app_context(), tenancy.system_session("billing.close") as session:
        invoices.apply_payment(session, owner, invoice_id, 9900, "payment:journey")
        dunning.stop_if_settled(session, owner, invoice_id)


def open_invoice(app: Flask, client: FlaskClient, person: Headers) -> tuple[dict[str, Any], datetime]:
    """Use pro for a month that ends; the invoice and when it is due."""
    upgraded = client.post("/api/v1/billing/upgrade", json={"plan": "pro", "when": "now"}, headers=person)
    assert upgraded.status_code == 200, upgraded.json
    close_period(app, period_end(client, person))
    [invoice] = client.get("/api/v1/billing/history", headers=person).json["data"]["invoices"]
    assert invoice["status"] == "open"
    return invoice, clock.now() + timedelta(days=7)


def test_unpaid_invoice_suspends_and_payment_restores_the_key(
    app: Flask, client: FlaskClient, work: Callable[[], None]
) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    _, key = make_key(client, person)
    organization = organization_of(client, person)
    invoice, due = open_invoice(app, client, person)
    assert pursue(app, clock.now()) == []

    assert pursue(app, due) == ["remind"]
    assert pursue(app, due + timedelta(days=3)) == ["remind"]
    assert pursue(app, due + timedelta(days=5)) == ["warn"]
    send(client, key)

    assert pursue(app, due + timedelta(days=7)) == ["restrict"]
    assert attempt(client, key) == (402, "SUBSCRIPTION_RESTRICTED")
    assert client.get("/api/v1/usage", headers=key).status_code == 200
    assert client.get("/api/v1/billing/history", headers=person).status_code == 200

    assert pursue(app, due + timedelta(days=10)) == ["remind"]
    assert pursue(app, due + timedelta(days=14)) == ["suspend"]
    assert attempt(client, key) == (403, "ORGANIZATION_SUSPENDED")
    assert client.get("/api/v1/usage", headers=key).status_code == 403
    assert client.get("/api/v1/billing/history", headers=person).status_code == 200

    pay(app, organization, invoice)
    send(client, key)
    [paid] = client.get("/api/v1/billing/history", headers=person).json["data"]["invoices"]
    assert paid["status"] == "paid"
    work()


def test_commands_take_another_time_by_option(app: Flask, client: FlaskClient) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    _, key = make_key(client, person)
    _, due = open_invoice(app, client, person)

    def at(days: int) -> str:
        done = app.test_cli_runner().invoke(
            args=["dunning", "run", "--at", clock.format_rfc3339(due + timedelta(days=days, minutes=1))]
        )
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "  remind" in at(0)
    listed = app.test_cli_runner().invoke(args=["dunning", "list"]).stdout
    assert "INV-000001" in listed
    assert "next: remind at" in listed
    assert "  remind" in at(3)
    assert "  warn" in at(5)
    assert "  restrict" in at(7)
    assert attempt(client, key) == (402, "SUBSCRIPTION_RESTRICTED")


def test_production_rejects_another_time(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    refused = app.test_cli_runner().invoke(args=["dunning", "run", "--at", "2026-05-18T00:00:00Z"])
    assert refused.exit_code == 1
    assert "--at is refused" in refused.output
