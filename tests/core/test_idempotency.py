"""A request with an Idempotency-Key takes effect once; repeats get the stored response."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import crypto, idempotency, ids
from saas_api.core.crypto import DecryptionFailed
from saas_api.core.db import tenancy
from saas_api.core.idempotency import (
    IdempotencyKeyInvalid,
    IdempotentRequest,
    IdempotentRequestInProgress,
    StoredResponse,
)
from tests.support.accounts import Headers, User, join, make_key, sign_in

SEND = "/api/v1/messages/send"
KEYS = "/api/v1/keys"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


def post(client: FlaskClient, path: str, body: Any, headers: Headers, key: str = "once") -> Any:
    return client.post(path, json=body, headers={**headers, "Idempotency-Key": key})


def count(app: Flask, user: User, table: str) -> int:
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", user.organization_id)) as session:
        return int(session.scalar(sa.text(f"SELECT count(*) FROM {table}")))


def expire(superuser: Any, hours: int = 25) -> None:
    """Let stored responses expire."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute(f"UPDATE idempotency_keys SET expires_at = expires_at - interval '{hours} h'")


@pytest.mark.parametrize(
    ("path", "body", "table"),
    [(SEND, SMS, "messages"), (KEYS, {"name": "ci"}, "api_keys")],
    ids=["in one batch", "in the request's transaction"],
)
def test_repeated_request_gets_the_same_bytes_and_has_no_effect(
    app: Flask, client: FlaskClient, alice: User, path: str, body: Any, table: str
) -> None:
    headers = make_key(client, alice) if path == SEND else alice.headers
    first = post(client, path, body, headers)
    before = count(app, alice, table)
    again = post(client, path, body, headers)
    assert (again.status_code, again.data) == (first.status_code, first.data)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count(app, alice, table) == before


def test_order_of_fields_does_not_change_the_fingerprint(client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)
    first = post(client, SEND, SMS, key)
    again = post(client, SEND, dict(reversed(SMS.items())), key)
    assert again.data == first.data


@pytest.mark.parametrize("path", [SEND, KEYS])
def test_another_body_with_the_same_key_is_rejected(client: FlaskClient, alice: User, path: str) -> None:
    headers, body = (make_key(client, alice), SMS) if path == SEND else (alice.headers, {"name": "ci"})
    changed = {**body, "message": "Other"} if path == SEND else {"name": "other"}
    post(client, path, body, headers)
    response = post(client, path, changed, headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_another_path_is_another_request(client: FlaskClient, alice: User) -> None:
    assert post(client, SEND, SMS, make_key(client, alice)).status_code == 202
    assert post(client, KEYS, {"name": "ci"}, alice.headers).json["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"


def test_keys_of_live_and_test_mode_are_separate(client: FlaskClient, alice: User) -> None:
    """A5: the same Idempotency-Key in both modes."""
    live, test = make_key(client, alice), make_key(client, alice, mode="test")
    responses = [post(client, SEND, SMS, key) for key in (live, test, live, test)]
    assert [response.status_code for response in responses] == [202] * 4
    modes = [response.json["data"]["mode"] for response in responses]
    assert modes == ["live", "test", "live", "test"]
    assert ["Idempotency-Replayed" in response.headers for response in responses] == [False, False, True, True]


def test_key_of_one_organization_is_free_in_another(client: FlaskClient, alice: User, carol: User) -> None:
    own = post(client, SEND, SMS, make_key(client, alice)).json["data"]
    other = post(client, SEND, SMS, make_key(client, carol)).json["data"]
    assert own["message_id"] != other["message_id"]


@pytest.mark.parametrize("path", [SEND, KEYS])
def test_expired_key_is_free_again(client: FlaskClient, alice: User, superuser: Any, path: str) -> None:
    headers, body = (make_key(client, alice), SMS) if path == SEND else (alice.headers, {"name": "ci"})
    first = post(client, path, body, headers)
    expire(superuser)
    again = post(client, path, body, headers)
    assert again.status_code == first.status_code
    assert again.data != first.data


def test_failed_request_is_not_stored_and_its_repeat_runs(client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)
    assert post(client, SEND, {**SMS, "to": "invalid"}, key).status_code == 422
    assert post(client, SEND, SMS, key).status_code == 202


def test_authentication_comes_before_a_replay(client: FlaskClient, alice: User) -> None:
    post(client, SEND, SMS, make_key(client, alice))
    assert post(client, SEND, SMS, {"X-API-Key": "sk_live_" + "a" * 43}).status_code == 401


@pytest.mark.parametrize("key", ["ä", "a\tb", "a" * 256, "", '""'])
def test_invalid_idempotency_key_is_rejected_everywhere(client: FlaskClient, alice: User, key: str) -> None:
    for path, body in ((KEYS, {"name": "ci"}), ("/api/v1/auth/request-password-reset", {"email": "a@b.example"})):
        response = client.post(path, json=body, headers={**alice.headers, "Idempotency-Key": key})
        assert (response.status_code, response.json["error"]["code"]) == (400, "IDEMPOTENCY_KEY_INVALID")


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "a"), ('"a"', '"b"')])
def test_repeated_idempotency_key_is_rejected(client: FlaskClient, alice: User, keys: tuple[str, str]) -> None:
    """A5: two headers were one key with a comma."""
    headers = [*alice.headers.items(), *(("Idempotency-Key", key) for key in keys)]
    response = client.post(KEYS, json={"name": "ci"}, headers=headers)
    assert (response.status_code, response.json["error"]["code"]) == (400, "IDEMPOTENCY_KEY_INVALID")


def test_quotes_around_a_key_are_ignored() -> None:
    assert idempotency.parse_key('"abc"') == idempotency.parse_key("abc") == "abc"
    assert idempotency.parse_key('"a,b"') == "a,b"
    assert idempotency.parse_key(None) is None
    for header in ("", '""', "a" * 256):
        with pytest.raises(IdempotencyKeyInvalid):
            idempotency.parse_key(header)


def test_responses_with_tokens_are_not_stored(app: Flask, client: FlaskClient, alice: User) -> None:
    body = {"email": alice.email, "password": "correct horse battery"}
    first = client.post("/api/v1/auth/login", json=body, headers={"Idempotency-Key": "once"})
    again = client.post("/api/v1/auth/login", json=body, headers={"Idempotency-Key": "once"})
    assert first.json["data"]["token"] != again.json["data"]["token"]
    assert count(app, alice, "idempotency_keys") == 0


def test_response_with_a_secret_is_stored_encrypted_and_replayed_for_a_day(
    client: FlaskClient, alice: User, superuser: Any
) -> None:
    """A5: a repeat after 61 minutes made a second key."""
    first = post(client, KEYS, {"name": "ci"}, alice.headers)
    expire(superuser, hours=23)
    assert post(client, KEYS, {"name": "ci"}, alice.headers).data == first.data
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT body, is_encrypted FROM idempotency_keys")
        body, is_encrypted = cursor.fetchone()
    assert first.json["data"]["key"].encode() not in bytes(body)
    assert is_encrypted


def test_get_ignores_the_header(client: FlaskClient, alice: User) -> None:
    response = client.get("/api/v1/keys", headers={**alice.headers, "Idempotency-Key": "a" * 300})
    assert response.status_code == 200


def test_fifty_concurrent_requests_create_one_message(app: Flask, alice: User, client: FlaskClient) -> None:
    key = make_key(client, alice)
    start = threading.Barrier(10)

    def send(_: int) -> Any:
        start.wait()
        return [post(app.test_client(), SEND, SMS, key) for _ in range(5)]

    with ThreadPoolExecutor(10) as pool:
        responses = [response for batch in pool.map(send, range(10)) for response in batch]
    assert {response.status_code for response in responses} == {202}
    assert len({response.data for response in responses}) == 1
    assert sum("Idempotency-Replayed" not in response.headers for response in responses) == 1
    assert (count(app, alice, "messages"), count(app, alice, "usage_events")) == (1, 1)


def test_second_request_is_rejected_while_the_first_is_running(app: Flask, client: FlaskClient, alice: User) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    request = IdempotentRequest(organization_id, "live", "once", b"f", 200, lambda _: b"")
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        idempotency.acquire(session, request)
        response = post(app.test_client(), KEYS, {"name": "ci"}, alice.headers)
    assert (response.status_code, response.json["error"]["code"]) == (409, "IDEMPOTENCY_IN_PROGRESS")
    assert response.headers["Retry-After"] == "1"
    assert post(client, KEYS, {"name": "ci"}, alice.headers).status_code == 201


def test_expired_responses_are_deleted(app: Flask, client: FlaskClient, alice: User, superuser: Any) -> None:
    key = make_key(client, alice)
    post(client, SEND, SMS, key, "old")
    expire(superuser)
    post(client, SEND, SMS, key, "new")
    with app.app_context():
        assert idempotency.delete_expired() == 1
    assert count(app, alice, "idempotency_keys") == 1


def test_value_encrypted_with_an_old_secret_can_be_decrypted(app: Flask) -> None:
    with app.app_context():
        encrypted = crypto.encrypt("p", b"plain", row_id="1")
        assert crypto.encrypt("p", b"plain", row_id="1") != encrypted
        try:
            app.config["SECRET_KEY"] = "n" * 32 + "," + "s" * 32
            assert crypto.decrypt("p", encrypted, row_id="1") == b"plain"
            app.config["SECRET_KEY"] = "n" * 32
            with pytest.raises(DecryptionFailed):
                crypto.decrypt("p", encrypted, row_id="1")
        finally:
            app.config["SECRET_KEY"] = "s" * 32
        with pytest.raises(DecryptionFailed):
            crypto.decrypt("other", encrypted, row_id="1")
        with pytest.raises(DecryptionFailed):  # a value that was copied into another row
            crypto.decrypt("p", encrypted, row_id="2")


def test_response_of_one_user_is_not_replayed_to_another(app: Flask, client: FlaskClient, alice: User) -> None:
    join(app, alice.organization_id, "dora@acme.example", "admin")
    assert post(client, KEYS, {"name": "ci"}, alice.headers).status_code == 201
    response = post(client, KEYS, {"name": "ci"}, sign_in(client, "dora@acme.example").headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_key_used_by_a_concurrent_message_is_in_progress(app: Flask, client: FlaskClient, alice: User) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    request = IdempotentRequest(organization_id, "live", "once", b"f", 200, lambda _: b"")
    key = make_key(client, alice)
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        idempotency.acquire(session, request)
        assert post(app.test_client(), SEND, SMS, key).status_code == 202
        with pytest.raises(IdempotentRequestInProgress):
            idempotency.store_response(session, request, StoredResponse(200, b"{}"), is_secret=False)
