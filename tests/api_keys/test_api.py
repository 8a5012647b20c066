"""Keys over HTTP: creation, lists, revocation and last use."""

from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.api_keys import last_use
from saas_api.core import ids
from tests.support.accounts import User, create_key, make_key, sign_up
from tests.support.key_pages import refresh_session
from tests.support.messages import LIST
from tests.support.webhooks import WebhookOrganization, allowed  # noqa: F401 - the fixture

KEYS = "/api/v1/keys"


@pytest.fixture
def alice(client: FlaskClient) -> User:
    return sign_up(client)


def test_secret_of_a_new_key_is_shown_once_and_not_stored(client: FlaskClient, alice: User, superuser: Any) -> None:
    response = client.post(KEYS, json={"name": "Production"}, headers=alice.headers)
    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    created = response.json["data"]
    assert created["mode"] == "live"
    assert created["scopes"] == ["messages:read", "messages:write", "usage:read"]
    assert created["key"].startswith(created["prefix"])
    assert created["key"].endswith(created["last_four"])
    listed = client.get(KEYS, headers=alice.headers)
    assert [key["id"] for key in listed.json["data"]["keys"]] == [created["id"]]
    assert created["key"] not in listed.text
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT s::text, k::text FROM api_key_secrets s, api_keys k")
        assert created["key"] not in str(cursor.fetchall())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("mode", "prod"),
        ("scopes", ["everything"]),
        ("scopes", []),
        ("expires_at", "2020-01-01T00:00:00Z"),
        ("allowed_ips", ["300.1.1.1"]),
        ("allowed_ips", ["10.0.0.1/8"]),
        ("rate_limit_per_minute", 0),
        ("rate_limit_per_minute", "60"),
        ("organization_id", "org_x"),
    ],
)
def test_key_with_an_invalid_field_is_rejected(client: FlaskClient, alice: User, field: str, value: Any) -> None:
    response = client.post(KEYS, json={"name": "key", field: value}, headers=alice.headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert response.json["error"]["details"]["fields"][0]["field"].split(".")[0] == field


def test_keys_are_filtered_by_mode_and_status_and_listed_in_pages(client: FlaskClient, alice: User) -> None:
    first, _ = create_key(client, alice)
    second, _ = create_key(client, alice, mode="test")
    client.delete(f"{KEYS}/{first}", headers=alice.headers)

    def ids(**query: Any) -> list[str]:
        return [key["id"] for key in client.get(KEYS, headers=alice.headers, query_string=query).json["data"]["keys"]]

    assert ids() == [second, first]
    assert ids(mode="live") == ids(status="revoked") == [first]
    assert ids(status="active") == [second]
    page = client.get(KEYS, headers=alice.headers, query_string={"limit": 1}).json["data"]["pagination"]
    assert page["has_more"]
    assert ids(limit=1, cursor=page["next_cursor"]) == [first]


@pytest.mark.parametrize("path", ["/api/v1/keys", "/api/v1/api-keys"])
def test_key_is_revoked_once_by_either_path(client: FlaskClient, alice: User, path: str) -> None:
    key_id, key = create_key(client, alice)
    responses = [client.delete(f"{path}/{key_id}", headers=alice.headers) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 200]
    assert responses[0].json["data"]["revoked_at"] == responses[1].json["data"]["revoked_at"]
    assert not responses[0].json["data"]["is_active"]
    assert client.get(LIST, headers=key).status_code == 401


def revoke_many(user: User, *key_ids: str) -> tuple[list[str], dict[str, str]]:
    """Revoke keys, and return the ids of the revoked ones and why the others were skipped."""
    status, data = user.call("POST", "/keys/revoke", key_ids=key_ids)
    assert status == 200, data
    assert data["count"] == len(data["keys"])
    assert all(key["status"] == "revoked" for key in data["keys"])
    return [key["id"] for key in data["keys"]], {one["key_id"]: one["reason"] for one in data["skipped"]}


def test_many_keys_are_revoked_and_those_that_cannot_be_are_named(client: FlaskClient, alice: User) -> None:
    keys = dict(create_key(client, alice, mode=mode) for mode in ("live", "test", "live"))
    first, second, kept = keys
    carol = sign_up(client, "carol@other.example", "Carol")
    foreign, _ = create_key(client, carol)
    client.delete(f"{KEYS}/{second}", headers=alice.headers)
    skipped = {second: "already_revoked", foreign: "not_found"}
    assert revoke_many(alice, foreign, second, first, first) == ([first], skipped)
    assert revoke_many(alice, first) == ([], {first: "already_revoked"})
    statuses = [client.get(LIST, headers=keys[key_id]).status_code for key_id in (first, second, kept)]
    assert statuses == [401, 401, 200]
    assert client.get(f"{KEYS}/{foreign}", headers=carol.headers).json["data"]["is_active"]


def test_many_keys_are_revoked_with_an_audit_event_and_an_event_each(client: FlaskClient, alice: User) -> None:
    acme = WebhookOrganization(client, alice)
    for mode in ("live", "test"):
        acme.create_endpoint(mode=mode)
    expected = {create_key(client, alice, mode=mode)[0]: mode for mode in ("live", "test", "test")}
    revoke_many(alice, *expected)
    events = acme.rows("SELECT subject_id, mode FROM events WHERE type = 'api_key.revoked'")
    assert {ids.format_id("key", row.subject_id): row.mode for row in events} == expected
    audited = acme.rows("SELECT target_id FROM audit_events WHERE action = 'api_key.revoked'")
    assert {ids.format_id("key", UUID(row.target_id)) for row in audited} == set(expected)


def test_many_keys_are_revoked_by_members_with_a_recent_password_only(client: FlaskClient, alice: User) -> None:
    """A live key among them refuses all."""
    test, live = (create_key(client, alice, mode=mode)[0] for mode in ("test", "live"))
    stale = refresh_session(client, alice)
    assert stale.call("POST", "/keys/revoke", key_ids=[test, live]) == (401, "FRESH_TOKEN_REQUIRED")
    assert client.get(f"{KEYS}/{test}", headers=alice.headers).json["data"]["is_active"]
    assert revoke_many(stale, test) == ([test], {})
    key = make_key(client, alice)
    assert client.post(f"{KEYS}/revoke", json={"key_ids": [live]}, headers=key).status_code == 403


@pytest.mark.parametrize("key_ids", [[], [f"key_{'0' * 32}"] * 101, ["msg_1"], None])
def test_one_to_a_hundred_keys_are_revoked_at_once(client: FlaskClient, alice: User, key_ids: Any) -> None:
    assert alice.call("POST", "/keys/revoke", key_ids=key_ids) == (422, "VALIDATION_ERROR")


def test_key_of_another_organization_is_not_found(client: FlaskClient, alice: User) -> None:
    key_id, _ = create_key(client, alice)
    carol = sign_up(client, "carol@other.example", "Carol")
    for verb in (client.get, client.delete):
        foreign = verb(f"{KEYS}/{key_id}", headers=carol.headers)
        missing = verb(f"{KEYS}/key_{'0' * 32}", headers=carol.headers)
        assert foreign.status_code == missing.status_code == 404
        assert foreign.json["error"]["code"] == missing.json["error"]["code"] == "NOT_FOUND"


def test_key_cannot_create_keys(client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)
    assert client.post(KEYS, json={"name": "k"}, headers=key).status_code == 403


def test_last_use_of_a_key_is_stored(app: Flask, client: FlaskClient, alice: User) -> None:
    key_id, key = create_key(client, alice)
    client.get(LIST, headers=key)
    with app.app_context():
        last_use.flush_last_used()
    assert client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]["last_used_at"]
