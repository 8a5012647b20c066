"""Live and test mode: events reach endpoints of their own mode only, whatever sends them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from flask import Flask

from saas_api.core import ids
from tests.support.accounts import make_key
from tests.support.http_receiver import Receiver, run_receiver
from tests.support.webhooks import URL, WebhookOrganization, deliver

EVENT_MODES = "SELECT mode, payload::json ->> 'mode' AS in_payload FROM events"
DELIVERY_MODES = """SELECT w.mode AS of_endpoint, e.mode AS of_event FROM webhook_deliveries d
  JOIN webhook_endpoints w ON w.organization_id = d.organization_id AND w.id = d.endpoint_id
  JOIN events e ON e.organization_id = d.organization_id AND e.id = d.event_id"""


def modes_of(receiver: Receiver) -> set[str]:
    return {orjson.loads(request.body)["mode"] for request in receiver.received}


def public_event_id(acme: WebhookOrganization, mode: str) -> str:
    [event_id] = [row.id for row in acme.rows("SELECT id, mode FROM events") if row.mode == mode]
    return ids.format_id("evt", event_id)


@pytest.fixture
def both(acme: WebhookOrganization) -> dict[str, dict[str, Any]]:
    """A live and a test endpoint, by mode."""
    return {mode: acme.create_endpoint(mode=mode) for mode in ("live", "test")}


@pytest.mark.parametrize("types", [["message.delivered"], ["message.accepted", "message.delivered"]])
def test_messages_of_a_key_are_reported_to_endpoints_of_its_mode(
    app: Flask, acme: WebhookOrganization, work: Callable[[], None], types: list[str]
) -> None:
    keys = {mode: make_key(acme.client, acme.owner, mode=mode) for mode in ("live", "test")}
    with run_receiver() as live, run_receiver() as test:
        acme.create_endpoint(live.url, event_types=types)
        acme.create_endpoint(test.url, event_types=types, mode="test")
        for key in keys.values():
            message = {"to": "+15005550006", "type": "sms", "message": "Hello"}
            assert acme.client.post("/api/v1/messages/send", json=message, headers=key).status_code == 202
        work()
        deliver(app)
    assert (modes_of(live), modes_of(test)) == ({"live"}, {"test"})
    assert len(live.received) == len(test.received) == len(types)
    assert all(row.mode == row.in_payload for row in acme.rows(EVENT_MODES))


def test_event_without_an_endpoint_of_its_mode_is_not_stored(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_test_event()
    assert acme.rows(EVENT_MODES) == []
    acme.create_endpoint(mode="test")
    acme.publish_test_event()
    assert acme.rows(EVENT_MODES) == [("test", "test")]


def test_replay_and_recovery_stay_within_the_mode(acme: WebhookOrganization, both: dict[str, dict[str, Any]]) -> None:
    acme.publish_event()
    acme.publish_test_event()
    late = {mode: acme.create_endpoint(mode=mode) for mode in ("live", "test")}
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for mode in ("live", "test"):
        replayed = acme.call("POST", f"/events/{public_event_id(acme, mode)}/replay").json["data"]
        assert {delivery["endpoint_id"] for delivery in replayed["deliveries"]} == {both[mode]["id"], late[mode]["id"]}
    third = {mode: acme.create_endpoint(mode=mode) for mode in ("live", "test")}
    for endpoint in third.values():
        recovered = acme.call("POST", f"/endpoints/{endpoint['id']}/recover", {"since": since}).json["data"]
        assert recovered == {"count": 1}
    rows = acme.rows(DELIVERY_MODES)
    assert len(rows) == 8
    assert all(row.of_endpoint == row.of_event for row in rows)


def test_test_event_has_the_mode_of_its_endpoint(acme: WebhookOrganization, both: dict[str, dict[str, Any]]) -> None:
    for mode, endpoint in both.items():
        sent = acme.call("POST", f"/endpoints/{endpoint['id']}/test", {}).json["data"]
        assert (sent["mode"], sent["payload"]["mode"]) == (mode, mode)
    assert all(row.of_endpoint == row.of_event for row in acme.rows(DELIVERY_MODES))


def test_live_endpoint_is_sent_no_example_of_a_real_event(
    acme: WebhookOrganization, both: dict[str, dict[str, Any]]
) -> None:
    example = {"event_type": "invoice.paid"}
    refused = acme.call("POST", f"/endpoints/{both['live']['id']}/test", example)
    assert (refused.status_code, refused.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert refused.json["error"]["details"]["fields"][0]["field"] == "event_type"
    assert acme.call("POST", f"/endpoints/{both['test']['id']}/test", example).status_code == 202
    assert acme.rows(DELIVERY_MODES) == [("test", "test")]


def test_disabling_an_endpoint_is_reported_in_its_mode(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(status=410) as gone, run_receiver() as live, run_receiver() as test:
        acme.create_endpoint(gone.url, mode="test")
        acme.create_endpoint(live.url)
        acme.create_endpoint(test.url, mode="test", event_types=["webhook_endpoint.disabled"])
        acme.publish_test_event()
        deliver(app)
        deliver(app)
    assert (len(gone.received), len(live.received), modes_of(test)) == (1, 0, {"test"})


def test_lists_have_a_filter_by_mode(acme: WebhookOrganization, both: dict[str, dict[str, Any]]) -> None:
    acme.publish_event()
    acme.publish_test_event()
    for path, name in (("/endpoints", "endpoints"), ("/events", "events")):
        assert {item["mode"] for item in acme.call("GET", path).json["data"][name]} == {"live", "test"}
        for mode in ("live", "test"):
            [item] = acme.call("GET", path, query_string={"mode": mode}).json["data"][name]
            assert item["mode"] == mode
        assert acme.call("GET", path, query_string={"mode": "both"}).status_code == 422


def test_mode_of_an_endpoint_never_changes(acme: WebhookOrganization, both: dict[str, dict[str, Any]]) -> None:
    changed = acme.call("PATCH", f"/endpoints/{both['live']['id']}", {"mode": "test"})
    assert (changed.status_code, changed.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert acme.call("GET", f"/endpoints/{both['live']['id']}").json["data"]["mode"] == "live"


def test_each_mode_has_ten_endpoints(acme: WebhookOrganization) -> None:
    acme.execute(
        "INSERT INTO webhook_endpoints (organization_id, url) SELECT :org, :url FROM generate_series(1, 10)",
        org=acme.id,
        url=URL,
    )
    assert acme.call("POST", "/endpoints", {"url": URL}).json["error"]["code"] == "TOO_MANY_ENDPOINTS"
    assert acme.call("POST", "/endpoints", {"url": URL, "mode": "test"}).status_code == 201
