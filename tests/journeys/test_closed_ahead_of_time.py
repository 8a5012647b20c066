"""Messages are accepted after a period was closed early with `--at`."""

import json
from collections.abc import Callable
from datetime import timedelta

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import make_key, sign_up
from tests.support.billing_reads import period_end
from tests.support.messages import send_message


def test_messages_are_accepted_after_an_early_close(app: Flask, client: FlaskClient, work: Callable[[], None]) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    send_message(client, key)
    after_the_period = clock.format_rfc3339(period_end(client, owner) + timedelta(hours=2))
    organization = owner.organization_id
    closed = app.test_cli_runner().invoke(
        args=["billing", "close", "--json", "--organization", organization, "--at", after_the_period]
    )
    assert json.loads(closed.stdout)["closed"] == 1

    message_id = send_message(client, key)
    work()
    assert client.get(f"/api/v1/messages/{message_id}", headers=key).json["data"]["status"] == "delivered"
    bill = client.get("/api/v1/billing/calculate", headers=owner.headers).json["data"]
    assert bill["total_requests"] == 1
    assert client.get("/api/v1/usage", headers=key).json["data"]["summary"]["total_requests"] == 2
