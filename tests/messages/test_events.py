"""Event data of messages is the message as the API returns it."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.jobs.outbox import RowResult
from saas_api.messages import dispatch
from saas_api.webhooks import payload
from tests.support.accounts import sign_up
from tests.support.messages import MAIL, MessagingOrganization, queue_many, rows
from tests.support.statements import count_statements
from tests.support.webhooks import WebhookOrganization

TYPES = ["message.accepted", "message.delivered", "message.failed", "message.canceled"]


@pytest.fixture
def acme(client: FlaskClient) -> MessagingOrganization:
    """An organization with an endpoint of each mode for every event type of messages."""
    organization = MessagingOrganization(client, "Acme", "alice@acme.example")
    for mode in ("live", "test"):
        body = {"url": "https://acme.example/hook", "mode": mode, "event_types": TYPES}
        response = client.post("/api/v1/webhooks/endpoints", json=body, headers=organization.owner.headers)
        assert response.status_code == 201, response.json
    return organization


def event_data(app: Flask, acme: MessagingOrganization, event_type: str) -> dict[str, Any]:
    events = [orjson.loads(row.payload) for row in rows(app, acme.id, "SELECT payload FROM events")]
    [data] = [event["data"] for event in events if event["type"] == event_type]
    return dict(data)


def as_returned(acme: MessagingOrganization, message_id: str) -> dict[str, Any]:
    return {"object": "message", **acme.show(message_id)}


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "test"])
def test_event_of_an_accepted_message_is_the_message_before_its_first_attempt(
    app: Flask, acme: MessagingOrganization, is_live: bool
) -> None:
    sent = acme.send(acme.live if is_live else acme.test, **MAIL)
    data = event_data(app, acme, "message.accepted")
    assert data == as_returned(acme, sent["message_id"])
    assert (data["subject"], data["cost"], data["sent_at"]) == (MAIL["subject"], sent["cost"], None)
    assert data["created_at"] == sent["created_at"]


@pytest.mark.parametrize(
    ("recipient", "event_type"), [("+2348012345678", "message.delivered"), ("+15005550001", "message.failed")]
)
def test_event_of_a_finished_message_is_the_message(
    app: Flask, acme: MessagingOrganization, work: Callable[[], None], recipient: str, event_type: str
) -> None:
    message_id = acme.send(to=recipient)["message_id"]
    work()
    data = event_data(app, acme, event_type)
    assert data == as_returned(acme, message_id)
    assert (data["delivered_at"] is not None) == (event_type == "message.delivered")
    assert (data["cost"] != "0") == (event_type == "message.delivered")


def test_event_of_a_canceled_message_is_the_message(app: Flask, acme: MessagingOrganization) -> None:
    """G8: a canceled message costs nothing, as a failed one."""
    message_id = acme.send()["message_id"]
    response = acme.client.post(f"/api/v1/messages/{message_id}/cancel", headers=acme.owner.headers)
    assert response.json["data"]["cost"] == "0"
    assert event_data(app, acme, "message.canceled") == {"object": "message", **response.json["data"]}


def test_thin_data_of_a_message_is_its_id_and_status(app: Flask, acme: MessagingOrganization) -> None:
    message_id = acme.send()["message_id"]
    data = payload.thin_data(event_data(app, acme, "message.accepted"))
    assert data == {"object": "message", "message_id": message_id, "status": "queued"}


def test_worker_reads_and_writes_no_events_without_an_endpoint(app: Flask, client: FlaskClient) -> None:
    """F9: a payload was built for every message, and dropped."""
    carol = MessagingOrganization(client, "Carol's", "carol@carols.example")
    carol.send()
    with app.app_context(), count_statements(app) as statements:
        assert dispatch.deliver_batch(carol.id) == 1
    assert [statement for statement in statements if "INTO events" in statement] == []
    assert [row.status for row in rows(app, carol.id, "SELECT status FROM messages")] == ["delivered"]


def test_endpoint_created_while_a_message_is_sent_receives_its_event(app: Flask, client: FlaskClient) -> None:
    carol = WebhookOrganization(client, sign_up(client, "carol@carols.example", "Carol's"))
    [message_id] = queue_many(app, carol.id, 1)
    with app.app_context():
        claim = dispatch.claim_batch(carol.id)
        carol.create_endpoint("https://carols.example/hook", mode="test")
        dispatch.record_results(carol.id, claim, [RowResult(message_id, "delivered")])
    assert [row.type for row in carol.rows("SELECT type FROM events")] == ["message.delivered"]
