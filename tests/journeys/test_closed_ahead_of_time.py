"""A month closed ahead of time, as `--at` allows outside production, stops nobody."""

import json
from collections.abc import Callable
from datetime import timedelta

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.journeys import make_key, organization_of, period_end, send, sign_up


def test_messages_are_accepted_after_an_early_close(app: Flask, client: FlaskClient, work: Callable[[], None]) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    _, key = make_key(client, person)
    send(client, key)
    after_the_period = clock.format_rfc3339(period_end(client, person) + timedelta(hours=2))
    organization = organization_of(client, person)
    closed = app.test_cli_runner().invoke(
        args=["billing", "close", "--json", "--organization", organization, "--at", after_the_period]
    )
    assert json.loads(closed.stdout)["closed"] == 1

    message_id = send(client, key)
    work()
    assert client.get(f"/api/v1/messages/{message_id}", headers=key).json["data"]["status"] == "delivered"
    bill = client.get("/api/v1/billing/calculate", headers=person).json["data"]
    assert bill["total_requests"] == 1
    assert client.get("/api/v1/usage", headers=key).json["data"]["summary"]["total_requests"] == 2
