"""Credentials of API requests: one credential, of the right kind, well formed, and not revoked."""

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from saas_api.api_keys import key_format
from saas_api.core.db.engine import db
from tests.support.accounts import create_key, make_key, sign_up
from tests.support.messages import LIST, SEND, SMS
from tests.support.second_process import web_process


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def test_revoked_key_is_rejected_in_another_process(client: FlaskClient, config: dict[str, Any]) -> None:
    user = sign_up(client)
    key_id, key = create_key(client, user)
    with web_process(config) as process:
        assert process.call("GET", LIST, key)["status"] == 200
        assert process.call("GET", LIST, key)["status"] == 200
        assert client.delete(f"/api/v1/api-keys/{key_id}", headers=user.headers).status_code == 200
        rejected = process.call("GET", LIST, key)
        assert (rejected["status"], rejected["json"]["error"]["code"]) == (401, "INVALID_API_KEY")


def test_revoked_key_is_rejected_on_the_next_request(client: FlaskClient) -> None:
    user = sign_up(client)
    key_id, key = create_key(client, user)
    assert client.get(LIST, headers=key).status_code == 200
    client.delete(f"/api/v1/keys/{key_id}", headers=user.headers)
    assert code(client.get(LIST, headers=key)) == (401, "INVALID_API_KEY")


@pytest.mark.parametrize("change", ["x", "", "X", "\u0663"])
def test_malformed_key_is_rejected_without_a_query(app: Flask, client: FlaskClient, change: str) -> None:
    statements: list[Any] = []
    with app.app_context():
        engine = db.engine

    def record(*arguments: Any) -> None:
        statements.append(arguments[2])

    text = key_format.generate_key("sk", "live")
    wrong = text[:-1] + ("y" if text[-1] == change else change)
    event.listen(engine, "before_cursor_execute", record)
    try:
        response = client.get(LIST, headers={"X-API-Key": wrong.encode().decode("latin-1")})
    finally:
        event.remove(engine, "before_cursor_execute", record)
    assert code(response) == (401, "INVALID_API_KEY")
    assert response.headers["WWW-Authenticate"]
    assert statements == []


def test_unknown_keys_are_limited_by_address(client: FlaskClient) -> None:
    codes = [code(client.get(LIST, headers={"X-API-Key": key_format.generate_key("sk", "live")}))[0] for _ in range(31)]
    assert codes == [401] * 30 + [429]


def test_unknown_keys_do_not_stop_the_good_ones_beside_them(client: FlaskClient) -> None:
    """G3: a revoked key that is polled from one address leaves the other keys of that address alone."""
    alice = sign_up(client)
    revoked, good = make_key(client, alice), make_key(client, alice)
    oldest = client.get("/api/v1/keys", headers=alice.headers).json["data"]["keys"][-1]
    assert client.delete(f"/api/v1/keys/{oldest['id']}", headers=alice.headers).status_code == 200
    polls = [client.get(LIST, headers=revoked).status_code for _ in range(35)]
    assert polls == [401] * 30 + [429] * 5
    assert client.get(LIST, headers=good).status_code == 200


def test_key_is_accepted_as_a_bearer_token(client: FlaskClient) -> None:
    key = make_key(client, sign_up(client))
    assert client.get(LIST, headers={"Authorization": f"Bearer {key['X-API-Key']}"}).status_code == 200


def test_two_credentials_are_rejected(client: FlaskClient) -> None:
    user = sign_up(client)
    key = make_key(client, user)
    assert code(client.get(LIST, headers={**user.headers, **key})) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "UNAUTHORIZED"),
        ({"Authorization": "Basic abc"}, "INVALID_TOKEN_FORMAT"),
        ({"Authorization": "Bearer abc"}, "INVALID_TOKEN_FORMAT"),
        ({"Authorization": "Bearer a.b.c"}, "INVALID_TOKEN"),
    ],
)
def test_invalid_credential_is_401_with_a_code(client: FlaskClient, headers: dict[str, str], expected: str) -> None:
    assert code(client.get(LIST, headers=headers)) == (401, expected)


def test_endpoint_for_keys_asks_a_user_for_a_key(client: FlaskClient) -> None:
    assert code(client.post(SEND, json=SMS, headers=sign_up(client).headers)) == (401, "MISSING_API_KEY")


def test_key_requires_the_scope(client: FlaskClient) -> None:
    key = make_key(client, sign_up(client), scopes=["messages:read"])
    assert client.get(LIST, headers=key).status_code == 200
    assert code(client.post(SEND, json=SMS, headers=key)) == (403, "INSUFFICIENT_SCOPE")


def test_key_is_accepted_from_allowed_addresses_only(client: FlaskClient) -> None:
    user = sign_up(client)
    inside = make_key(client, user, allowed_ips=["127.0.0.0/8"])
    outside = make_key(client, user, allowed_ips=["203.0.113.0/24", "2001:db8::/32"])
    assert client.get(LIST, headers=inside).status_code == 200
    refused = client.get(LIST, headers=outside)
    assert code(refused) == (403, "IP_NOT_ALLOWED")
    # A15: the response did not name the address, so its owner could not compare it with the list
    assert refused.json["error"]["details"] == {"address": "127.0.0.1"}
    assert "127.0.0.1" in refused.json["error"]["message"]


def test_key_of_a_suspended_organization_is_rejected(client: FlaskClient, superuser: Any) -> None:
    key = make_key(client, sign_up(client))
    with superuser, superuser.cursor() as cursor:
        cursor.execute(str(sa.text("UPDATE organizations SET status = 'suspended'")))
    assert code(client.get(LIST, headers=key)) == (403, "ORGANIZATION_SUSPENDED")
