"""Changes and rotations of keys: permissions, other processes, concurrent requests, and the audit log."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.api_keys import keys
from saas_api.api_keys.key_scopes import ScopeBeyondRole
from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from tests.support.account_mails import audit_events
from tests.support.accounts import Headers, User, add_member, create_key, make_key, sign_in, sign_up
from tests.support.messages import LIST, SEND, SMS
from tests.support.second_process import web_process

KEYS = "/api/v1/keys"
DAY = 86_400


@pytest.fixture
def alice(client: FlaskClient) -> User:
    return sign_up(client)


@pytest.fixture
def rows(superuser: Any) -> Callable[[str], list[Any]]:
    def read(statement: str) -> list[Any]:
        with superuser, superuser.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    return read


def parse_id(public_id: str) -> UUID:
    return ids.parse_id(public_id.partition("_")[0], public_id)


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def rotate(client: FlaskClient, user: User, key_id: str, grace: int | None = None) -> Any:
    body = {} if grace is None else {"grace_seconds": grace}
    return client.post(f"{KEYS}/{key_id}/rotate", json=body, headers=user.headers)


def rotated(client: FlaskClient, user: User, key_id: str, grace: int | None = None) -> Headers:
    response = rotate(client, user, key_id, grace)
    assert response.status_code == 201, response.json
    return {"X-API-Key": response.json["data"]["key"]}


def test_update_changes_only_the_given_fields_of_a_key(client: FlaskClient, alice: User) -> None:
    key_id, _ = create_key(client, alice, rate_limit_per_minute=5, allowed_ips=["10.0.0.0/8"])
    before = client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]
    response = client.patch(f"{KEYS}/{key_id}", json={"name": "New", "scopes": ["usage:read"]}, headers=alice.headers)
    assert response.status_code == 200
    changed = {"name": "New", "scopes": ["usage:read"], "has_full_access": False}
    assert response.json["data"] == {**before, **changed}
    cleared = client.patch(
        f"{KEYS}/{key_id}", json={"allowed_ips": [], "rate_limit_per_minute": None}, headers=alice.headers
    ).json["data"]
    assert (cleared["allowed_ips"], cleared["rate_limit_per_minute"], cleared["name"]) == ([], None, "New")
    assert client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"] == cleared


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "key_" + "0" * 32),
        ("organization_id", "org_" + "0" * 32),
        ("mode", "test"),
        ("status", "active"),
        ("created_at", "2020-01-01T00:00:00Z"),
        ("expires_at", "2020-01-01T00:00:00Z"),
        ("name", None),
        ("scopes", []),
        ("scopes", ["everything"]),
        ("allowed_ips", ["10.0.0.0/8"] * 51),
        ("rate_limit_per_minute", 0),
    ],
)
def test_update_with_a_fixed_or_invalid_field_is_rejected(
    client: FlaskClient, alice: User, field: str, value: Any
) -> None:
    key_id, _ = create_key(client, alice)
    before = client.get(f"{KEYS}/{key_id}", headers=alice.headers).json
    refused = client.patch(f"{KEYS}/{key_id}", json={"name": "Other", field: value}, headers=alice.headers)
    assert code(refused) == (422, "VALIDATION_ERROR")
    assert client.get(f"{KEYS}/{key_id}", headers=alice.headers).json == before


def test_change_applies_to_the_next_request_in_another_process(
    client: FlaskClient, config: dict[str, Any], alice: User
) -> None:
    key_id, key = create_key(client, alice, scopes=["usage:read"])

    def change(**changes: Any) -> None:
        assert client.patch(f"{KEYS}/{key_id}", json=changes, headers=alice.headers).status_code == 200

    with web_process(config) as process:
        assert process.call("GET", LIST, key)["status"] == 403
        change(scopes=["messages:read"])
        assert process.call("GET", LIST, key)["status"] == 200
        change(allowed_ips=["203.0.113.0/24"])
        assert process.call("GET", LIST, key)["json"]["error"]["code"] == "IP_NOT_ALLOWED"
        change(allowed_ips=[], rate_limit_per_minute=7)
        widened = process.call("GET", LIST, key)
        assert widened["status"] == 200
        assert '"key";q=7' in widened["headers"]["RateLimit-Policy"]
        change(scopes=["messages:read", "messages:write"])
        assert process.call("POST", SEND, key, SMS)["status"] == 202


def test_rotation_without_grace_ends_the_old_secret_in_every_process(
    client: FlaskClient, config: dict[str, Any], alice: User
) -> None:
    key_id, old = create_key(client, alice)
    with web_process(config) as process:
        assert process.call("GET", LIST, old)["status"] == 200
        response = rotate(client, alice, key_id)
        assert response.status_code == 201
        assert response.headers["Cache-Control"] == "no-store"
        new = {"X-API-Key": response.json["data"]["key"]}
        assert response.json["data"]["id"] == key_id
        assert process.call("GET", LIST, old)["json"]["error"]["code"] == "INVALID_API_KEY"
        assert process.call("GET", LIST, new)["status"] == 200
    response = client.get(f"{KEYS}/{key_id}", headers=alice.headers)
    assert response.json["data"]["last_four"] == new["X-API-Key"][-4:]
    assert new["X-API-Key"] not in response.text


def test_rotation_with_grace_keeps_both_secrets_until_the_old_one_expires(client: FlaskClient, alice: User) -> None:
    key_id, first = create_key(client, alice)
    began = clock.now()
    response = rotate(client, alice, key_id, DAY)
    second = {"X-API-Key": response.json["data"]["key"]}
    assert response.json["data"]["old_expires_at"] >= clock.format_rfc3339(began + timedelta(seconds=DAY))
    assert response.json["data"]["expires_at"] is None
    assert [client.get(LIST, headers=key).status_code for key in (first, second)] == [200, 200]
    assert code(rotate(client, alice, key_id, 60)) == (409, "ROTATION_IN_PROGRESS")
    assert len(client.get(KEYS, headers=alice.headers).json["data"]["keys"]) == 1
    assert len(client.get("/api/v1/dashboard/api-keys", headers=alice.headers).json["data"]["api_keys"]) == 1

    clock.freeze_time(clock.now() + timedelta(seconds=DAY + 1))
    alice = sign_in(client, alice.email)
    assert code(client.get(LIST, headers=first)) == (401, "INVALID_API_KEY")
    assert client.get(LIST, headers=second).status_code == 200
    third = rotated(client, alice, key_id, DAY)
    assert [client.get(LIST, headers=key).status_code for key in (first, second, third)] == [401, 200, 200]


def test_rotation_without_grace_ends_every_earlier_secret(client: FlaskClient, alice: User, superuser: Any) -> None:
    """A6: a leak during the grace period of a rotation could not be ended through the API."""
    key_id, first = create_key(client, alice)
    second = rotated(client, alice, key_id, 600)
    third = rotated(client, alice, key_id, 0)
    assert [client.get(LIST, headers=key).status_code for key in (first, second, third)] == [401, 401, 200]
    assert len(audit_events(superuser, "api_key.old_secret_ended")) == 1


def test_old_secret_is_revoked_before_its_grace_period_ends(client: FlaskClient, alice: User) -> None:
    """A6: only a page could end the old secret."""
    key_id, first = create_key(client, alice)
    second = rotated(client, alice, key_id, 600)
    for _ in range(2):
        response = client.delete(f"{KEYS}/{key_id}/secrets/old", headers=alice.headers)
        assert (response.status_code, response.json["data"]["is_active"]) == (200, True)
    assert [client.get(LIST, headers=key).status_code for key in (first, second)] == [401, 200]
    client.delete(f"{KEYS}/{key_id}", headers=alice.headers)
    assert code(client.delete(f"{KEYS}/{key_id}/secrets/old", headers=alice.headers)) == (409, "CONFLICT")
    unknown = client.delete(f"{KEYS}/key_{'0' * 32}/secrets/old", headers=alice.headers)
    assert code(unknown) == (404, "NOT_FOUND")


def test_expiry_of_a_key_is_changed(client: FlaskClient, alice: User) -> None:
    """A11: the expiry could not be changed."""
    key_id, first = create_key(client, alice)
    second = rotated(client, alice, key_id, DAY)
    soon = clock.format_rfc3339(clock.now() + timedelta(hours=1))
    changed = client.patch(f"{KEYS}/{key_id}", json={"expires_at": soon}, headers=alice.headers)
    assert (changed.status_code, changed.json["data"]["expires_at"]) == (200, soon)
    past = {"expires_at": clock.format_rfc3339(clock.now())}
    assert code(client.patch(f"{KEYS}/{key_id}", json=past, headers=alice.headers)) == (422, "VALIDATION_ERROR")
    clock.freeze_time(clock.now() + timedelta(hours=2))
    alice = sign_in(client, alice.email)
    assert [client.get(LIST, headers=key).status_code for key in (first, second)] == [401, 401]
    later = {"expires_at": None}
    assert code(client.patch(f"{KEYS}/{key_id}", json=later, headers=alice.headers)) == (409, "CONFLICT")


def test_expiry_of_a_key_is_removed(client: FlaskClient, alice: User) -> None:
    end = clock.format_rfc3339(clock.now() + timedelta(hours=1))
    key_id, key = create_key(client, alice, expires_at=end)
    assert client.get(LIST, headers=key).status_code == 200  # cached until it expires
    changed = client.patch(f"{KEYS}/{key_id}", json={"expires_at": None}, headers=alice.headers)
    assert changed.json["data"]["expires_at"] is None
    clock.freeze_time(clock.now() + timedelta(hours=2))
    assert client.get(LIST, headers=key).status_code == 200


def test_creator_of_a_key_is_shown(app: Flask, client: FlaskClient, alice: User) -> None:
    """A11: nothing said who made a key."""
    key_id, _ = create_key(client, alice)
    assert client.get(f"{KEYS}/{key_id}", headers=alice.headers).json["data"]["created_by"] == alice.user_id
    result = app.test_cli_runner().invoke(
        args=["keys", "create", "--organization", alice.organization_id, "--name", " ci ", "--json"]
    )
    assert (json.loads(result.output)["created_by"], json.loads(result.output)["name"]) == (None, "ci")


@pytest.mark.parametrize("name", ["c\u200bi", "c\u202ei", "c\x07i", " ", "a" * 101])
def test_command_refuses_the_key_names_that_the_api_refuses(app: Flask, alice: User, name: str) -> None:
    """A15: the command stored names that the API refuses."""
    arguments = ["keys", "create", "--organization", alice.organization_id, "--name", name]
    assert app.test_cli_runner().invoke(args=arguments).exit_code == 2
    status, _ = alice.call("POST", "/keys", name=name)
    assert status == 422


def test_concurrent_rotations_succeed_once(app: Flask, client: FlaskClient, alice: User) -> None:
    key_id, first = create_key(client, alice)
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda _: rotate(app.test_client(), alice, key_id, DAY), range(4)))
    assert sorted(response.status_code for response in responses) == [201, 409, 409, 409]
    created = next(response.json["data"]["key"] for response in responses if response.status_code == 201)
    assert [client.get(LIST, headers=key).status_code for key in (first, {"X-API-Key": created})] == [200, 200]


def test_revoking_a_key_ends_both_secrets(client: FlaskClient, alice: User) -> None:
    key_id, first = create_key(client, alice)
    second = rotated(client, alice, key_id, DAY)
    assert client.delete(f"{KEYS}/{key_id}", headers=alice.headers).status_code == 200
    assert [client.get(LIST, headers=key).status_code for key in (first, second)] == [401, 401]
    for refused in (rotate(client, alice, key_id), client.patch(f"{KEYS}/{key_id}", json={}, headers=alice.headers)):
        assert code(refused) == (409, "CONFLICT")


def test_secrets_expire_with_their_key(client: FlaskClient, alice: User) -> None:
    end = clock.format_rfc3339(clock.now() + timedelta(hours=1))
    key_id, _ = create_key(client, alice, expires_at=end)
    rotated_key = rotate(client, alice, key_id, DAY).json["data"]
    assert rotated_key["expires_at"] == rotated_key["old_expires_at"] == end


@pytest.mark.parametrize("grace", [-1, 604_801, "60", 1.5, True, None])
def test_invalid_grace_period_of_a_key_is_rejected(client: FlaskClient, alice: User, grace: Any) -> None:
    key_id, key = create_key(client, alice)
    refused = client.post(f"{KEYS}/{key_id}/rotate", json={"grace_seconds": grace}, headers=alice.headers)
    assert code(refused) == (422, "VALIDATION_ERROR")
    assert client.get(LIST, headers=key).status_code == 200


def test_key_of_another_organization_cannot_be_changed(client: FlaskClient, alice: User) -> None:
    key_id, key = create_key(client, alice)
    carol = sign_up(client, "carol@other.example", "Carol")
    for refused in (
        client.patch(f"{KEYS}/{key_id}", json={"name": "mine"}, headers=carol.headers),
        rotate(client, carol, key_id),
        client.delete(f"{KEYS}/{key_id}", headers=carol.headers),
    ):
        assert code(refused) == (404, "NOT_FOUND")
    assert client.get(LIST, headers=key).status_code == 200


def test_member_creates_keys_and_admin_changes_them(client: FlaskClient, alice: User) -> None:
    bob = add_member(alice, "bob@acme.example", "member")
    key_id, key = create_key(client, bob)
    for refused in (
        client.patch(f"{KEYS}/{key_id}", json={"name": "x"}, headers=bob.headers),
        rotate(client, bob, key_id),
        client.delete(f"{KEYS}/{key_id}", headers=bob.headers),
    ):
        assert code(refused) == (403, "PERMISSION_DENIED")
    assert client.get(LIST, headers=key).status_code == 200
    adam = add_member(alice, "adam@acme.example", "admin")
    assert client.get(LIST, headers=rotated(client, adam, key_id)).status_code == 200


@pytest.mark.parametrize("role", ["viewer", "billing"])
def test_scopes_beyond_the_role_are_rejected(app: Flask, client: FlaskClient, alice: User, role: str) -> None:
    key_id, _ = create_key(client, alice, scopes=["usage:read"])
    organization_id = parse_id(alice.organization_id)
    principal = Principal("user", ids.new_id(), organization_id, role=role)
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        for attempt in (
            lambda: keys.create_key(session, organization_id, principal, name="k", scopes=["messages:write"]),
            lambda: keys.create_key(session, organization_id, principal, name="k"),
            lambda: keys.update_key(session, principal, parse_id(key_id), {"scopes": ["messages:write", "usage:read"]}),
        ):
            with pytest.raises(ScopeBeyondRole) as refusal:
                attempt()
            assert refusal.value.details == {"scopes": ["messages:write"]}


def test_live_key_needs_a_verified_email_when_required(
    app: Flask, client: FlaskClient, alice: User, rows: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id, key = create_key(client, alice)
    monkeypatch.setitem(app.config, "REQUIRE_VERIFIED_EMAIL", True)
    rows("UPDATE users SET email_verified_at = NULL RETURNING 1")
    assert code(client.post(KEYS, json={"name": "live"}, headers=alice.headers)) == (403, "EMAIL_NOT_VERIFIED")
    assert code(rotate(client, alice, key_id)) == (403, "EMAIL_NOT_VERIFIED")
    assert client.get(LIST, headers=key).status_code == 200
    assert client.post(KEYS, json={"name": "try", "mode": "test"}, headers=alice.headers).status_code == 201
    rows("UPDATE users SET email_verified_at = now() RETURNING 1")
    assert client.post(KEYS, json={"name": "live"}, headers=alice.headers).status_code == 201


def test_audit_log_has_every_change_of_a_key(
    client: FlaskClient, alice: User, rows: Callable[[str], list[Any]]
) -> None:
    key_id, _ = create_key(client, alice)
    client.patch(f"{KEYS}/{key_id}", json={"name": "New", "allowed_ips": ["127.0.0.0/8"]}, headers=alice.headers)
    client.patch(f"{KEYS}/{key_id}", json={"name": "New"}, headers=alice.headers)
    rotated(client, alice, key_id, 60)
    client.patch(f"{KEYS}/{key_id}", json={"id": key_id}, headers=alice.headers)
    for _ in range(2):
        client.delete(f"{KEYS}/{key_id}", headers={**alice.headers, "X-Request-Id": "last-change"})
    events = rows(
        """SELECT action, data, actor_type, actor_id, target_id, host(ip), request_id FROM audit_events
            WHERE target_type = 'api_key' ORDER BY id"""
    )
    assert [row[0] for row in events] == [f"api_key.{verb}" for verb in ("created", "changed", "rotated", "revoked")]
    assert events[1][1] == {
        "before": {"name": "key", "allowed_ips": []},
        "after": {"name": "New", "allowed_ips": ["127.0.0.0/8"]},
    }
    assert events[2][1]["grace_seconds"] == 60
    user = rows("SELECT id::text FROM users")[0][0]
    assert {row[2:6] for row in events} == {("user", user, str(parse_id(key_id)), "127.0.0.1")}
    assert events[3][6] == "client:last-change"


def test_creator_of_a_key_receives_a_mail_without_the_secret(
    client: FlaskClient, alice: User, rows: Callable[[str], list[Any]]
) -> None:
    rows("UPDATE users SET email_verified_at = now() RETURNING id")
    key = make_key(client, alice, name="Billing <b>robot</b>")
    ((to, text, html),) = rows(
        """SELECT recipient, text_body, html_body FROM mails
            WHERE template = 'security_notice' AND organization_id IS NOT NULL"""
    )
    assert to == "alice@acme.example"
    assert "Billing <b>robot</b>" in text
    assert "/dashboard/api-keys/key_" in text
    assert "<b>robot" not in html
    for body in (text, html):
        assert key["X-API-Key"] not in body
        assert key["X-API-Key"][-4:] not in body.replace(key["X-API-Key"][:12], "")


def test_organization_has_a_bounded_number_of_active_keys(
    client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small: there was no bound on the keys of an organization; a revoked or expired key makes room."""
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    key_id, _ = create_key(client, alice)
    create_key(client, alice)
    assert code(client.post(KEYS, json={"name": "third"}, headers=alice.headers)) == (409, "TOO_MANY_KEYS")
    create_key(client, sign_up(client, "bob@globex.example", "Globex"), mode="test")
    assert client.delete(f"{KEYS}/{key_id}", headers=alice.headers).status_code == 200
    create_key(client, alice)


def test_concurrent_creations_do_not_pass_the_bound(app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 3)

    def create(number: int) -> int:
        return app.test_client().post(KEYS, json={"name": f"{number}"}, headers=alice.headers).status_code

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(create, range(6)))
    assert statuses == [201, 201, 201, 409, 409, 409]
