"""Events of API keys carry the key as its GET returns it."""

import json
from typing import Any

import pytest

from tests.support.webhooks import WebhookOrganization, acme, allowed  # noqa: F401 - fixtures

KEYS = "/api/v1/keys"


def events_of(organization: WebhookOrganization) -> dict[str, dict[str, Any]]:
    return {row.type: json.loads(row.payload)["data"] for row in organization.rows("SELECT type, payload FROM events")}


def test_event_data_is_the_key_as_its_get_returns_it(acme: WebhookOrganization) -> None:  # noqa: F811 - the fixture
    acme.create_endpoint()
    created = acme.client.post(KEYS, json={"name": "ci"}, headers=acme.owner.headers).json["data"]
    path = f"{KEYS}/{created['id']}"
    reads = {"api_key.created": acme.client.get(path, headers=acme.owner.headers).json["data"]}
    rotation = {"grace_seconds": 60}
    rotated = acme.client.post(f"{path}/rotate", json=rotation, headers=acme.owner.headers).json["data"]
    reads["api_key.rotated"] = acme.client.get(path, headers=acme.owner.headers).json["data"]
    reads["api_key.revoked"] = acme.client.delete(path, headers=acme.owner.headers).json["data"]
    old_expires_at = {"api_key.rotated": rotated["old_expires_at"]}
    assert events_of(acme) == {
        event_type: {"object": "api_key", **read, "old_expires_at": old_expires_at.get(event_type)}
        for event_type, read in reads.items()
    }


@pytest.mark.parametrize("secret_of", ["create", "rotate"])
def test_secret_is_in_no_event(acme: WebhookOrganization, secret_of: str) -> None:  # noqa: F811 - the fixture
    acme.create_endpoint()
    data = acme.client.post(KEYS, json={"name": "ci"}, headers=acme.owner.headers).json["data"]
    if secret_of == "rotate":
        data = acme.client.post(f"{KEYS}/{data['id']}/rotate", json={}, headers=acme.owner.headers).json["data"]
    assert data["key"] not in json.dumps(events_of(acme))


def test_events_of_a_key_have_its_mode(acme: WebhookOrganization) -> None:  # noqa: F811 - the fixture
    """They were live events of test keys, too."""
    acme.create_endpoint(mode="test")
    for mode in ("live", "test"):
        created = acme.client.post(KEYS, json={"name": mode, "mode": mode}, headers=acme.owner.headers).json["data"]
        path = f"{KEYS}/{created['id']}"
        acme.client.post(f"{path}/rotate", json={}, headers=acme.owner.headers)
        acme.client.delete(path, headers=acme.owner.headers)
    rows = acme.rows("SELECT type, mode, payload FROM events")
    assert {row.type for row in rows} == {"api_key.created", "api_key.rotated", "api_key.revoked"}
    for row in rows:
        assert row.mode == json.loads(row.payload)["mode"] == json.loads(row.payload)["data"]["mode"] == "test"
