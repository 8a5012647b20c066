"""What is really published keeps to the schema that the catalogue promises."""

import json
from collections.abc import Callable

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it is not annotated

from saas_api.core import tenancy
from saas_api.core.ids import read_id
from saas_api.webhooks import rules
from saas_api.webhooks.service.disabling import disable
from tests.people import make_key
from tests.webhooks.people import Company

KINDS = {
    "api_key.created",
    "api_key.revoked",
    "api_key.rotated",
    "message.accepted",
    "message.canceled",
    "message.delivered",
    "message.failed",
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


def test_every_event_keeps_to_its_schema(acme: Company, work: Callable[[], None]) -> None:
    made = acme.listen(event_types=sorted(rules.CATALOGUE))
    other = acme.listen()
    live(acme, work)
    acme.call("POST", f"/endpoints/{made['id']}/test", {})
    with acme.app.app_context(), tenancy.transaction(acme.id) as session:
        disable(session, acme.id, read_id("whe", other["id"]), "disabled_gone")
    seen = set()
    for row in acme.rows("SELECT type, payload FROM events"):
        Draft202012Validator(rules.CATALOGUE[row.type].schema).validate(json.loads(row.payload))
        seen.add(row.type)
    assert seen == KINDS
