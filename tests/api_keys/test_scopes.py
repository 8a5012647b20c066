"""Scopes of keys: those of this application, those of services, and full access."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.services import services
from tests.support.accounts import User, create_key, make_key, sign_up
from tests.support.metering import verify
from tests.support.services import change_service, create_service

KEYS = "/api/v1/keys"
BUILT_IN = ["messages:read", "messages:write", "usage:read"]
LOOKUPS = ["lookups:read", "lookups:write"]


@pytest.fixture
def alice(client: FlaskClient) -> User:
    return sign_up(client)


def test_key_can_be_given_scopes_of_a_service(app: Flask, client: FlaskClient, alice: User) -> None:
    token = create_service(app, scopes=["lookups:export"])
    _, key = create_key(client, alice, scopes=["lookups:export", "usage:read"])
    answers = [
        verify(client, token, key["X-API-Key"], permission=scope) for scope in ("lookups:export", "lookups:read")
    ]
    assert [(answer["code"], answer["scopes"]) for answer in answers] == [
        ("VALID", ["lookups:export", "usage:read"]),
        ("INSUFFICIENT_SCOPE", ["lookups:export", "usage:read"]),
    ]


@pytest.mark.parametrize("scope", ["*", "lookups:delete", "lookups", "x" * 100])
def test_unknown_scope_is_refused_in_a_new_key_and_in_a_change(
    app: Flask, client: FlaskClient, alice: User, scope: str
) -> None:
    create_service(app)
    key_id, _ = create_key(client, alice)
    for response in (
        client.post(KEYS, json={"name": "k", "scopes": [scope]}, headers=alice.headers),
        client.patch(f"{KEYS}/{key_id}", json={"scopes": [scope]}, headers=alice.headers),
    ):
        assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
        assert response.json["error"]["details"]["fields"][0]["field"].startswith("scopes")


def test_key_with_full_access_has_the_scopes_of_a_service_that_is_added_later(
    app: Flask, client: FlaskClient, alice: User
) -> None:
    key_id, key = create_key(client, alice)
    before = client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]
    token = create_service(app)
    after = client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]
    assert (before["has_full_access"], before["scopes"]) == (True, BUILT_IN)
    assert (after["has_full_access"], after["scopes"]) == (True, [*LOOKUPS, *BUILT_IN])
    answer = verify(client, token, key["X-API-Key"], permission="lookups:write")
    assert (answer["code"], answer["scopes"]) == ("VALID", [*LOOKUPS, *BUILT_IN])
    assert client.get("/api/v1/usage", headers=key).status_code == 200


def test_key_with_every_scope_by_choice_has_no_others_later(app: Flask, client: FlaskClient, alice: User) -> None:
    key_id, key = create_key(client, alice, scopes=BUILT_IN)
    token = create_service(app)
    shown = client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]
    assert (shown["has_full_access"], shown["scopes"]) == (False, BUILT_IN)
    assert verify(client, token, key["X-API-Key"], permission="lookups:write")["code"] == "INSUFFICIENT_SCOPE"


def test_full_access_is_given_and_taken_by_a_change(client: FlaskClient, alice: User) -> None:
    key_id, key = create_key(client, alice, scopes=["messages:read"])

    def change(scopes: Any) -> Any:
        changed = client.patch(f"{KEYS}/{key_id}", json={"scopes": scopes}, headers=alice.headers).json["data"]
        return changed["has_full_access"], client.get("/api/v1/usage", headers=key).status_code

    assert [change(None), change(["messages:read"])] == [(True, 200), (False, 403)]


def test_scope_of_a_revoked_service_stays_on_its_keys_and_is_given_to_no_other(
    app: Flask, client: FlaskClient, alice: User
) -> None:
    create_service(app)
    held, _ = create_key(client, alice, scopes=["lookups:read"])
    other, _ = create_key(client, alice, scopes=["usage:read"])
    change_service(app, services.revoke_service, "lookups")
    kept = client.patch(f"{KEYS}/{held}", json={"scopes": ["lookups:read", "usage:read"]}, headers=alice.headers)
    assert (kept.status_code, kept.json["data"]["scopes"]) == (200, ["lookups:read", "usage:read"])
    refused = client.patch(f"{KEYS}/{other}", json={"scopes": ["lookups:read"]}, headers=alice.headers)
    assert refused.status_code == 422


def test_member_gives_scopes_of_services(app: Flask, client: FlaskClient, alice: User, bob: User) -> None:
    create_service(app)
    given = client.post(KEYS, json={"name": "k", "mode": "test", "scopes": LOOKUPS}, headers=bob.headers)
    assert (given.status_code, given.json["data"]["scopes"]) == (201, LOOKUPS)


def test_key_is_made_with_full_access_where_messages_are_switched_off(
    app: Flask, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "SERVICES", [])
    made = client.post(KEYS, json={"name": "k", "mode": "test"}, headers=alice.headers)
    assert (made.status_code, made.json["data"]["scopes"]) == (201, ["usage:read"])
    assert make_key(client, alice)
