"""What is really published keeps to the schema that the catalogue promises."""

import json
from collections.abc import Callable, Iterator, Sequence

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.providers import mock_messages
from saas_api.providers.messages import OutboundMessage, SendResult
from saas_api.providers.mock_messages import MockMessageProvider
from saas_api.webhooks import endpoints, event_types
from saas_api.webhooks.models import EndpointStatus
from saas_api.webhooks.payload import MAX_PAYLOAD_BYTES
from tests.support.accounts import make_key
from tests.support.webhooks import Company

KINDS = {
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


def live(acme: Company, work: Callable[[], None]) -> None:
    """One of each thing happens that these rooms report."""
    key = make_key(acme.client, acme.owner)
    for to in ("+15005550006", "+15005550001"):
        acme.client.post("/api/v1/messages/send", json={"to": to, "type": "sms", "message": "Hello"}, headers=key)
    work()
    last = acme.client.post(
        "/api/v1/messages/send", json={"to": "+15005550006", "type": "sms", "message": "Hello"}, headers=key
    )
    acme.client.post(f"/api/v1/messages/{last.json['data']['message_id']}/cancel", headers=key)  # type: ignore[index]
    (shown,) = acme.client.get("/api/v1/keys", headers=acme.owner.headers).json["data"]["keys"]  # type: ignore[index]
    path = f"/api/v1/keys/{shown['id']}"
    acme.client.post(f"{path}/rotate", json={"grace_seconds": 60}, headers=acme.owner.headers)
    acme.client.delete(path, headers=acme.owner.headers)


class Post(MockMessageProvider):
    """A carrier whose receipts follow later, as those of carriers outside do."""

    def send_many(self, items: Sequence[OutboundMessage]) -> Iterator[list[tuple[OutboundMessage, SendResult]]]:
        yield [(item, SendResult("sent", reference=item.id.hex)) for item in items]


@pytest.mark.long
def test_every_event_keeps_to_its_schema(
    acme: Company, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = acme.listen(event_types=sorted(event_types.names()))
    other = acme.listen()
    live(acme, work)
    with monkeypatch.context() as patched:
        patched.setattr(mock_messages, "MockMessageProvider", Post)
        key = make_key(acme.client, acme.owner)
        sms = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
        acme.client.post("/api/v1/messages/send", json=sms, headers=key)
        work()
    acme.call("POST", f"/endpoints/{made['id']}/test", {})
    with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
        endpoints.disable_endpoint(session, acme.id, ids.parse_id("whe", other["id"]), EndpointStatus.DISABLED_GONE)
    seen = set()
    for row in acme.rows("SELECT type, payload FROM events"):
        Draft202012Validator(event_types.get_type(row.type).schema).validate(json.loads(row.payload))
        assert len(row.payload.encode()) <= MAX_PAYLOAD_BYTES
        seen.add(row.type)
    assert seen == KINDS | {"subscription.created"}
