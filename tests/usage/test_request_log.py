"""`GET /requests` and `GET /requests/{request_id}`: what is logged, filters, pages, and who sees it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.usage import request_recorder
from tests.support.accounts import User, create_key, make_key
from tests.support.metering import verify
from tests.support.request_log import record_request
from tests.support.services import create_service

SMS = {"type": "sms", "to": "+14155550123", "message": "Hello"}
AT = datetime(2026, 4, 1, 10, tzinfo=UTC)


def logged(user: User, **query: Any) -> list[dict[str, Any]]:
    with user.client.application.app_context():
        request_recorder.flush()
    status, data = user.call("GET", "/requests?" + "&".join(f"{name}={value}" for name, value in query.items()))
    assert status == 200, data
    return list(data["requests"])


def test_refused_request_is_found_by_the_id_that_the_client_got(client: FlaskClient, alice: User) -> None:
    key_id, headers = create_key(client, alice)
    refused = client.post("/api/v1/messages/send", json={"type": "sms"}, headers=headers)
    data = logged(alice, request_id=refused.headers["X-Request-Id"])
    assert len(data) == 1
    status, entry = alice.call("GET", f"/requests/{refused.headers['X-Request-Id']}")
    assert (status, entry) == (200, data[0])
    assert entry.pop("latency_ms") >= 0
    assert entry == {
        "request_id": refused.json["error"]["request_id"],
        "created_at": entry["created_at"],
        "mode": "live",
        "method": "POST",
        "route": "/api/v1/messages/send",
        "path": "/api/v1/messages/send",
        "status": 422,
        "error_code": refused.json["error"]["code"],
        "error_message": "Some fields are not valid."
        " to: Missing data for required field. message: Missing data for required field.",
        "api_key_id": key_id,
        "user_id": None,
        "ip": "127.0.0.1",
        "message_id": None,
    }


def test_accepted_message_and_requests_about_it_name_the_message(client: FlaskClient, alice: User) -> None:
    headers = make_key(client, alice)
    message_id = client.post("/api/v1/messages/send", json=SMS, headers=headers).json["data"]["message_id"]
    client.get(f"/api/v1/messages/{message_id}", headers=headers)
    missing = f"msg_{ids.new_id().hex}"
    client.get(f"/api/v1/messages/{missing}", headers=headers)
    entries = [(entry["route"], entry["path"], entry["message_id"]) for entry in logged(alice, mode="live")[:3]]
    route = "/api/v1/messages/{message_id}"
    assert entries == [
        (route, f"/api/v1/messages/{missing}", missing),
        (route, f"/api/v1/messages/{message_id}", message_id),
        ("/api/v1/messages/send", "/api/v1/messages/send", message_id),
    ]


def test_request_with_an_access_token_names_the_user(alice: User) -> None:
    alice.call("GET", f"/messages/msg_{ids.new_id().hex}")
    entry = logged(alice, status="404")[0]
    assert (entry["api_key_id"], entry["user_id"], entry["error_code"]) == (None, alice.user_id, "NOT_FOUND")


def test_call_of_a_service_is_logged_under_its_endpoint(app: Flask, client: FlaskClient, alice: User) -> None:
    key_id, headers = create_key(client, alice, allowed_ips=["203.0.113.0/24"])
    token = create_service(app)
    for ip in ("203.0.113.9", "198.51.100.1"):
        verify(client, token, headers["X-API-Key"], endpoint="POST /v1/lookups", ip=ip)
    entries = [
        (entry["method"], entry["route"], entry["status"], entry["error_code"], entry["ip"], entry["latency_ms"])
        for entry in logged(alice, api_key_id=key_id)
    ]
    assert entries == [
        ("POST", "/v1/lookups", 403, "IP_NOT_ALLOWED", "198.51.100.1", None),
        ("POST", "/v1/lookups", 200, None, "203.0.113.9", None),
    ]


def test_pages_and_requests_without_an_organization_are_not_logged(client: FlaskClient, alice: User) -> None:
    before = len(logged(alice))
    client.get("/api/v1/messages", headers={"X-API-Key": "sk_live_unknown"})
    client.get("/dashboard")
    client.get("/api/v1/no-such-route", headers=alice.headers)
    assert len(logged(alice)) == before + 1  # the list itself


@pytest.mark.parametrize(
    ("query", "statuses"),
    [
        ({"status": "429"}, [429]),
        ({"status": "4xx"}, [429, 422]),
        ({"status": "5xx"}, [500]),
        ({"mode": "test"}, [422]),
        ({"method": "GET", "route": "/api/v1/messages/send"}, []),
        ({"start_date": "2026-03-31", "end_date": "2026-03-31"}, []),
        ({"start_date": "2026-04-01", "end_date": "2026-04-01", "status": "202"}, [202]),
    ],
)
def test_list_is_filtered(alice: User, query: dict[str, str], statuses: list[int]) -> None:
    clock.freeze_time(AT)
    for status, mode in ((202, "live"), (422, "test"), (429, "live"), (500, "live")):
        record_request(alice, status, mode=mode)
        clock.freeze_time(clock.now() + timedelta(seconds=1))
    clock.freeze_time(None)
    found = logged(alice, **{"route": "/api/v1/messages/send", **query})
    assert [entry["status"] for entry in found] == statuses


def test_unknown_filters_are_rejected(alice: User) -> None:
    for query in ("status=44", "status=6xx", "method=TRACE", "start_date=2026-04-02&end_date=2026-04-01"):
        assert alice.call("GET", f"/requests?{query}")[0] == 422, query


def test_pages_of_the_list_have_every_request_once(alice: User) -> None:
    clock.freeze_time(AT)
    recorded = [record_request(alice, 404) for _ in range(5)]
    clock.freeze_time(None)
    found, path = [], "/requests?limit=2&status=404"
    while path:
        _, data = alice.call("GET", path)
        found += [entry["request_id"] for entry in data["requests"]]
        cursor = data["pagination"]["next_cursor"]
        path = f"/requests?limit=2&status=404&cursor={cursor}" if cursor else ""
    assert sorted(found) == sorted(recorded)


def test_newest_request_with_a_repeated_id_is_shown(alice: User) -> None:
    for at, status in ((AT, 404), (AT + timedelta(hours=1), 422)):
        clock.freeze_time(at)
        record_request(alice, status, request_id="my-request")
    clock.freeze_time(None)
    assert alice.call("GET", "/requests/my-request")[1]["status"] == 422
    assert len(logged(alice, request_id="my-request")) == 2


def test_requests_of_another_organization_are_not_seen(alice: User, carol: User) -> None:
    request_id = record_request(alice, 422)
    assert carol.call("GET", f"/requests/{request_id}") == (404, "REQUEST_NOT_FOUND")
    assert logged(carol, request_id=request_id) == []
    record_request(carol, 404, request_id=request_id)
    assert [entry["status"] for entry in logged(alice, request_id=request_id)] == [422]
    assert alice.call("GET", f"/requests/{request_id}")[1]["status"] == 422


def test_key_sees_requests_of_its_own_mode(client: FlaskClient, alice: User) -> None:
    live, test = record_request(alice, 422), record_request(alice, 422, mode="test")
    headers = make_key(client, alice, mode="test", scopes=["usage:read"])

    def call(path: str) -> tuple[int, Any]:
        response = client.get(f"/api/v1{path}", headers=headers)
        return response.status_code, response.json.get("data")

    assert [entry["request_id"] for entry in call("/requests?status=422")[1]["requests"]] == [test]
    assert call(f"/requests/{test}")[0] == 200
    assert call(f"/requests/{live}")[0] == 404
    assert call("/requests?mode=live")[0] == 422
