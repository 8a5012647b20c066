"""Events of keys, messages and webhooks match the JSON Schema of their type."""

import json
from collections.abc import Callable, Iterator, Sequence

import pytest
from flask import Flask
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import schedule
from saas_api.providers import mock_messages
from saas_api.providers.messages import OutboundMessage, SendResult
from saas_api.providers.mock_messages import MockMessageProvider
from saas_api.webhooks import endpoints, event_types
from saas_api.webhooks.models import EndpointStatus
from saas_api.webhooks.payload import MAX_PAYLOAD_BYTES
from tests.support.accounts import make_key
from tests.support.webhooks import URL, WebhookOrganization

PUBLISHED_TYPES = {
    "api_key.created",
    "api_key.revoked",
    "api_key.rotated",
    "message.accepted",
    "message.canceled",
    "message.delivered",
    "message.failed",
    "message.sent",
    "webhook.test",
    "webhook_endpoint.disabled",
}


def run_due_work(acme: WebhookOrganization, work: Callable[[], None]) -> None:
    """Run what is due, also where a busy Redis lost its wake-up, as workers do."""
    with acme.app.app_context():
        schedule.run_sweeps()
    work()


def cause_events(acme: WebhookOrganization, work: Callable[[], None]) -> None:
    """Cause an event of each type of messages and keys."""
    key = make_key(acme.client, acme.owner)
    for to in ("+15005550006", "+15005550001"):
        acme.client.post("/api/v1/messages/send", json={"to": to, "type": "sms", "message": "Hello"}, headers=key)
    run_due_work(acme, work)
    canceled = acme.client.post(
        "/api/v1/messages/send", json={"to": "+15005550006", "type": "sms", "message": "Hello"}, headers=key
    )
    acme.client.post(f"/api/v1/messages/{canceled.json['data']['message_id']}/cancel", headers=key)  # type: ignore[index]
    (first_key,) = acme.client.get("/api/v1/keys", headers=acme.owner.headers).json["data"]["keys"]  # type: ignore[index]
    path = f"/api/v1/keys/{first_key['id']}"
    acme.client.post(f"{path}/rotate", json={"grace_seconds": 60}, headers=acme.owner.headers)
    acme.client.delete(path, headers=acme.owner.headers)


class DelayedReceipts(MockMessageProvider):
    """A message provider that reports the final status later."""

    def send_many(self, items: Sequence[OutboundMessage]) -> Iterator[list[tuple[OutboundMessage, SendResult]]]:
        yield [(item, SendResult("sent", reference=item.id.hex)) for item in items]


@pytest.mark.long
def test_published_events_match_their_schemas(
    acme: WebhookOrganization, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    created = acme.create_endpoint(event_types=sorted(event_types.names()))
    other = acme.create_endpoint()
    cause_events(acme, work)
    with monkeypatch.context() as patched:
        patched.setattr(mock_messages, "MockMessageProvider", DelayedReceipts)
        key = make_key(acme.client, acme.owner)
        sms = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
        acme.client.post("/api/v1/messages/send", json=sms, headers=key)
        run_due_work(acme, work)
    acme.call("POST", f"/endpoints/{created['id']}/test", {})
    with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
        endpoints.disable_endpoint(session, acme.id, ids.parse_id("whe", other["id"]), EndpointStatus.DISABLED_GONE)
    types = set()
    for row in acme.rows("SELECT type, payload FROM events"):
        Draft202012Validator(event_types.get_type(row.type).schema).validate(json.loads(row.payload))
        assert len(row.payload.encode()) <= MAX_PAYLOAD_BYTES
        types.add(row.type)
    assert types == PUBLISHED_TYPES | {"subscription.created"}


def test_disabled_event_is_the_endpoint_as_its_get_returns_it(app: Flask, acme: WebhookOrganization) -> None:
    created = acme.create_endpoint(f"{URL}?token=hidden", description="Books", payload="thin")
    acme.create_endpoint()
    with app.app_context(), tenancy.tenant_session(acme.id) as session:
        endpoint_id = ids.parse_id("whe", created["id"])
        endpoints.disable_endpoint(session, acme.id, endpoint_id, EndpointStatus.DISABLED_FAILING)
    read = acme.call("GET", f"/endpoints/{created['id']}").json["data"]
    assert (read["status"], read["is_enabled"]) == ("disabled_failing", False)
    del read["health"]
    [row] = acme.rows("SELECT payload FROM events WHERE type = 'webhook_endpoint.disabled'")
    assert json.loads(row.payload)["data"] == {"object": "webhook_endpoint", **read, "url": URL}
