"""Deliveries over HTTP: lists, resends, replays and test events."""

from typing import Any

import pytest

from saas_api.core import ids
from tests.support.accounts import User
from tests.support.webhooks import WebhookOrganization

UNKNOWN = "01a213a3791b71d4acbe9c72e2648fcd"


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


@pytest.fixture
def failed(acme: WebhookOrganization) -> dict[str, Any]:
    """A failed delivery of an enabled endpoint."""
    created = acme.create_endpoint()
    acme.publish_event(object="invoice", id="inv_1", status="paid")
    acme.finish_deliveries("failed")
    delivery: dict[str, Any]
    [delivery] = acme.call("GET", f"/endpoints/{created['id']}/deliveries").json["data"]["deliveries"]
    return delivery


def test_delivery_is_shown_with_its_payload_and_attempts(acme: WebhookOrganization, failed: dict[str, Any]) -> None:
    acme.execute(
        """INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, ended_at, outcome, status_code,
            duration_ms, response_snippet)
          VALUES (:org, :id, 1, now(), now(), 'http_error', 500, 12, '<b>no</b>')""",
        org=acme.id,
        id=ids.parse_id("whd", failed["id"]),
    )
    delivery = acme.call("GET", f"/deliveries/{failed['id']}").json["data"]
    assert {name: delivery[name] for name in failed} == failed
    assert (delivery["status"], delivery["attempt_count"], delivery["next_attempt_at"]) == ("failed", 10, None)
    assert delivery["payload"]["id"] == delivery["event_id"]
    [attempt] = delivery["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["status_code"]) == (1, "http_error", 500)
    assert (attempt["duration_ms"], attempt["response_excerpt"], attempt["error"]) == (12, "<b>no</b>", None)


def test_deliveries_are_filtered_by_status_and_listed_in_pages(
    acme: WebhookOrganization, failed: dict[str, Any]
) -> None:
    acme.publish_event("invoice.voided")
    path = f"/endpoints/{failed['endpoint_id']}/deliveries"

    def list_ids(**query: Any) -> list[str]:
        return [delivery["id"] for delivery in acme.call("GET", path, query_string=query).json["data"]["deliveries"]]

    newest, oldest = list_ids()
    assert oldest == failed["id"]
    assert (list_ids(status="failed"), list_ids(status="queued"), list_ids(status="delivered")) == (
        [oldest],
        [newest],
        [],
    )
    cursor = acme.call("GET", path, query_string={"limit": 1}).json["data"]["pagination"]["next_cursor"]
    assert list_ids(limit=1, cursor=cursor) == [oldest]
    for query in ({"status": "lost"}, {"event_type": "invoice.eaten"}, {"cursor": "x"}, {"limit": 0}):
        assert code(acme.call("GET", path, query_string=query)) == (422, "VALIDATION_ERROR")


def test_resend_creates_a_delivery_of_the_same_event(acme: WebhookOrganization, failed: dict[str, Any]) -> None:
    response = acme.call("POST", f"/deliveries/{failed['id']}/resend")
    assert response.status_code == 202
    new = response.json["data"]
    assert new["id"] != failed["id"]
    assert (new["event_id"], new["endpoint_id"]) == (failed["event_id"], failed["endpoint_id"])
    assert (new["cause"], new["status"], new["attempts"]) == ("replay", "queued", [])
    [row] = acme.rows("SELECT target_id, data FROM audit_events WHERE action = 'webhook_delivery.resent'")
    assert row.data == {"new_delivery_id": new["id"]}


def test_disabled_or_deleted_endpoint_receives_no_resend(acme: WebhookOrganization, failed: dict[str, Any]) -> None:
    endpoint = f"/endpoints/{failed['endpoint_id']}"
    acme.call("PATCH", endpoint, {"is_enabled": False})
    resend = f"/deliveries/{failed['id']}/resend"
    assert code(acme.call("POST", resend)) == (409, "ENDPOINT_DISABLED")
    assert code(acme.call("POST", f"{endpoint}/test", {})) == (409, "ENDPOINT_DISABLED")
    assert acme.call("POST", f"/events/{failed['event_id']}/replay").json["data"]["count"] == 0
    acme.call("DELETE", endpoint)
    assert code(acme.call("POST", resend)) == (409, "ENDPOINT_DISABLED")
    assert len(acme.rows("SELECT FROM webhook_deliveries")) == 1


def resend_many(acme: WebhookOrganization, *delivery_ids: str) -> dict[str, Any]:
    response = acme.call("POST", "/deliveries/resend", {"delivery_ids": delivery_ids})
    assert response.status_code == 202, response.json
    data: dict[str, Any] = response.json["data"]
    return data


def test_many_deliveries_are_resent_each_once(acme: WebhookOrganization, failed: dict[str, Any]) -> None:
    acme.create_endpoint()
    for _ in range(2):
        acme.publish_event()
    acme.finish_deliveries("failed")
    old = [ids.format_id("whd", row.id) for row in acme.rows("SELECT id FROM webhook_deliveries")]
    data = resend_many(acme, *old, *old)
    assert (data["count"], data["skipped"], len(old)) == (5, [], 5)
    assert {(new["cause"], new["status"]) for new in data["deliveries"]} == {("replay", "queued")}
    sent = acme.rows("SELECT event_id, endpoint_id, cause FROM webhook_deliveries")
    assert sorted(row[:2] for row in sent if row.cause == "replay") == sorted(
        row[:2] for row in sent if row.cause == "auto"
    )
    again = resend_many(acme, *old, *[new["id"] for new in data["deliveries"]])
    assert again["count"] == 5, "an event goes to an endpoint once, however many of its deliveries are picked"
    audited = acme.rows("SELECT target_id, data FROM audit_events WHERE action = 'webhook_delivery.resent'")
    assert len(audited) == 15
    assert {row.data["new_delivery_id"] for row in audited} == {
        new["id"] for new in (*data["deliveries"], *again["deliveries"])
    }


def test_deliveries_that_cannot_be_resent_are_skipped(acme: WebhookOrganization, failed: dict[str, Any]) -> None:
    other = acme.create_endpoint()
    acme.publish_event()
    rows = acme.rows("SELECT id, endpoint_id FROM webhook_deliveries WHERE status = 'queued'")
    [kept] = [ids.format_id("whd", row.id) for row in rows if ids.format_id("whe", row.endpoint_id) == other["id"]]
    acme.call("PATCH", f"/endpoints/{failed['endpoint_id']}", {"is_enabled": False})
    unknown = f"whd_{UNKNOWN}"
    data = resend_many(acme, failed["id"], unknown, kept)
    assert [new["endpoint_id"] for new in data["deliveries"]] == [other["id"]]
    assert data["skipped"] == [
        {"delivery_id": failed["id"], "reason": "endpoint_disabled"},
        {"delivery_id": unknown, "reason": "not_found"},
    ]
    assert resend_many(acme, unknown)["count"] == 0


def test_resend_of_many_reaches_no_delivery_of_another_organization(
    acme: WebhookOrganization, failed: dict[str, Any], carol: User
) -> None:
    other = WebhookOrganization(acme.client, carol)
    assert resend_many(other, failed["id"])["skipped"] == [{"delivery_id": failed["id"], "reason": "not_found"}]
    assert len(acme.rows("SELECT FROM webhook_deliveries")) == 1


def test_resend_of_many_takes_one_to_a_hundred_deliveries(acme: WebhookOrganization) -> None:
    for delivery_ids in ([], [f"whd_{UNKNOWN}"] * 101, ["evt_1"], None):
        response = acme.call("POST", "/deliveries/resend", {"delivery_ids": delivery_ids})
        assert code(response) == (422, "VALIDATION_ERROR"), delivery_ids


def test_deliveries_of_an_event_and_events_of_an_object_are_found(
    acme: WebhookOrganization, failed: dict[str, Any]
) -> None:
    acme.publish_event()
    path, query = f"/endpoints/{failed['endpoint_id']}/deliveries", {"event_id": failed["event_id"]}
    [found] = acme.call("GET", path, query_string=query).json["data"]["deliveries"]
    assert found["id"] == failed["id"]
    [row] = [row for row in acme.rows("SELECT * FROM events") if ids.format_id("evt", row.id) == failed["event_id"]]
    query = {"object_id": ids.format_id("inv", row.subject_id)}
    [event] = acme.call("GET", "/events", query_string=query).json["data"]["events"]
    assert event["id"] == failed["event_id"]
    assert code(acme.call("GET", "/events", query_string={"object_id": "inv_1"})) == (422, "VALIDATION_ERROR")


def test_replay_goes_to_every_endpoint_subscribed_to_the_type(
    acme: WebhookOrganization, failed: dict[str, Any]
) -> None:
    acme.create_endpoint(event_types=["invoice.paid"])
    acme.create_endpoint(event_types=["invoice.voided"])
    response = acme.call("POST", f"/events/{failed['event_id']}/replay")
    assert response.status_code == 202
    data = response.json["data"]
    assert (data["count"], data["event_id"]) == (2, failed["event_id"])
    assert {delivery["event_id"] for delivery in data["deliveries"]} == {failed["event_id"]}
    assert len({delivery["endpoint_id"] for delivery in data["deliveries"]}) == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/deliveries/whd_{UNKNOWN}"),
        ("GET", "/deliveries/nonsense"),
        ("POST", f"/deliveries/whd_{UNKNOWN}/resend"),
        ("POST", f"/events/evt_{UNKNOWN}/replay"),
        ("GET", f"/endpoints/whe_{UNKNOWN}/deliveries"),
    ],
)
def test_unknown_delivery_event_or_endpoint_is_not_found(acme: WebhookOrganization, method: str, path: str) -> None:
    assert code(acme.call(method, path)) == (404, "NOT_FOUND")


def test_test_event_is_delivered_to_one_endpoint_only(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint(event_types=["invoice.paid"])
    acme.create_endpoint()
    response = acme.call("POST", f"/endpoints/{created['id']}/test", {})
    assert response.status_code == 202
    data = response.json["data"]
    assert (data["event_type"], data["cause"], data["endpoint_id"]) == ("webhook.test", "test", created["id"])
    assert (data["payload"]["mode"], data["payload"]["data"]["message"]) == ("live", "It works.")
    assert len(acme.rows("SELECT FROM webhook_deliveries")) == 1
    [event] = acme.call("GET", "/events").json["data"]["events"]
    assert event["id"] == data["event_id"]


def test_test_event_has_any_registered_type(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint(mode="test")
    response = acme.call("POST", f"/endpoints/{created['id']}/test", {"event_type": "message.failed"})
    assert response.json["data"]["payload"]["data"]["error_code"] == "invalid_recipient"
    response = acme.call("POST", f"/endpoints/{created['id']}/test", {"event_type": "message.eaten"})
    assert code(response) == (422, "VALIDATION_ERROR")


def test_replayed_test_event_goes_to_its_endpoint_only(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    acme.create_endpoint()
    event = acme.call("POST", f"/endpoints/{created['id']}/test", {}).json["data"]["event_id"]
    data = acme.call("POST", f"/events/{event}/replay").json["data"]
    assert [delivery["endpoint_id"] for delivery in data["deliveries"]] == [created["id"]]


def test_test_events_are_limited_to_twenty_an_hour(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    responses = [acme.call("POST", f"/endpoints/{created['id']}/test", {}) for _ in range(21)]
    assert [response.status_code for response in responses] == [202] * 20 + [429]
    assert code(responses[-1]) == (429, "RATE_LIMIT_EXCEEDED")
