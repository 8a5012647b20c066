"""Keys over HTTP: creation, lists, revocation and last use."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.api_keys import keys
from tests.support.accounts import User, create_key, make_key, sign_up
from tests.support.messages import LIST

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
        keys.flush_last_used()
    assert client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]["last_used_at"]
