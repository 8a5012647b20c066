"""The usage of a month becomes exactly one invoice, however often the period is closed."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import User, make_key, sign_up
from tests.support.billing_reads import period_end
from tests.support.messages import send_message


@pytest.fixture(autouse=True)
def reset_clock() -> Iterator[None]:
    yield
    clock.freeze_time(None)


def close(app: Flask, *arguments: str) -> dict[str, Any]:
    result = app.test_cli_runner().invoke(args=["billing", "close", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def invoices_of(client: FlaskClient, owner: User) -> list[dict[str, Any]]:
    response = client.get("/api/v1/billing/history", headers=owner.headers)
    assert response.status_code == 200, response.json
    return list(response.json["data"]["invoices"])


def test_month_of_usage_becomes_one_numbered_invoice(app: Flask, client: FlaskClient, work: Callable[[], None]) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    for _ in range(3):
        send_message(client, key)
    work()
    assert close(app)["invoices"] == []

    clock.freeze_time(period_end(client, owner) + timedelta(hours=2))
    assert close(app, "--dry-run")["dry_run"] is True
    assert invoices_of(client, owner) == []
    closed = close(app)["invoices"]
    assert len(closed) == 1
    assert close(app)["invoices"] == []

    [invoice] = invoices_of(client, owner)
    assert invoice["number"] == closed[0]["number"]
    assert (invoice["total_requests"], invoice["total_amount"], invoice["currency"]) == (3, "0.00", "USD")
    assert client.get("/api/v1/billing/calculate", headers=owner.headers).json["data"]["total_requests"] == 0


def test_period_closes_after_the_grace_hour(app: Flask, client: FlaskClient) -> None:
    midnight = period_end(client, sign_up(client))
    clock.freeze_time(midnight + timedelta(minutes=59))
    assert close(app)["invoices"] == []
    clock.freeze_time(midnight + timedelta(minutes=61))
    assert len(close(app)["invoices"]) == 1


def test_usage_beyond_the_included_quantity_is_charged(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "RATE_LIMIT_PER_MINUTE", 1_000)
    owner = sign_up(client)
    key = make_key(client, owner)
    ten_segments = "x" * 1_530
    for _ in range(101):
        send_message(client, key, message=ten_segments)
    calculated = client.get("/api/v1/billing/calculate", headers=owner.headers).json["data"]
    assert calculated["total_amount"] == "0.10"
    [invoice] = close(app, "--organization", owner.organization_id, "--now")["invoices"]
    assert invoice["total_amount"] == "0.10"


def test_closing_now_writes_one_invoice(app: Flask, client: FlaskClient) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    send_message(client, key)
    organization = owner.organization_id
    [invoice] = close(app, "--organization", organization, "--now")["invoices"]
    assert close(app, "--organization", organization)["invoices"] == []
    assert close(app)["invoices"] == []
    assert [listed["number"] for listed in invoices_of(client, owner)] == [invoice["number"]]
