"""Access and refresh tokens: rotation, reuse, end of the session, forgeries, and rotated secrets."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import time_machine
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import tokens
from saas_api.app import create_app
from tests.support.accounts import AUTH, User

ME, REFRESH, LOGOUT = f"{AUTH}/me", f"{AUTH}/refresh", f"{AUTH}/logout"


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def me(client: FlaskClient, token: str) -> Any:
    return client.get(ME, headers={"Authorization": f"Bearer {token}"})


def refresh(client: FlaskClient, token: str) -> Any:
    return client.post(REFRESH, json={"refresh_token": token})


def test_refresh_returns_new_tokens(client: FlaskClient, alice: User) -> None:
    pair = refresh(client, alice.refresh_token).json["data"]
    assert pair["refresh_token"] != alice.refresh_token
    assert me(client, pair["token"]).status_code == 200
    assert refresh(client, pair["refresh_token"]).status_code == 200


def test_refresh_token_is_accepted_in_the_header(client: FlaskClient, alice: User) -> None:
    response = client.post(REFRESH, headers={"Authorization": f"Bearer {alice.refresh_token}"})
    assert response.status_code == 200


def test_concurrent_refreshes_get_the_same_refresh_token_id(app: Flask, alice: User) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: refresh(app.test_client(), alice.refresh_token), range(8)))
    assert {response.status_code for response in responses} == {200}
    ids = {
        jwt.decode(response.json["data"]["refresh_token"], options={"verify_signature": False})["jti"]
        for response in responses
    }
    assert len(ids) == 1


def test_reused_refresh_token_ends_the_session(client: FlaskClient, alice: User, superuser: Any) -> None:
    pair = refresh(client, alice.refresh_token).json["data"]
    with superuser, superuser.cursor() as cursor:
        cursor.execute("UPDATE user_sessions SET rotated_at = rotated_at - interval '11 s'")
    assert code(refresh(client, alice.refresh_token)) == (401, "TOKEN_REUSED")
    assert code(me(client, pair["token"])) == (401, "INVALID_TOKEN")
    assert code(refresh(client, pair["refresh_token"])) == (401, "INVALID_TOKEN")


def test_logout_invalidates_both_tokens_immediately(client: FlaskClient, alice: User) -> None:
    assert client.post(LOGOUT, headers=alice.headers).status_code == 200
    assert code(me(client, alice.token)) == (401, "INVALID_TOKEN")
    assert code(refresh(client, alice.refresh_token)) == (401, "INVALID_TOKEN")


def test_access_and_refresh_tokens_are_not_interchangeable(client: FlaskClient, alice: User) -> None:
    assert code(me(client, alice.refresh_token)) == (401, "INVALID_TOKEN")
    assert code(refresh(client, alice.token)) == (401, "INVALID_TOKEN")


@pytest.mark.parametrize(
    ("algorithm", "secret", "changes"),
    [
        ("none", "", {}),
        ("HS512", "j" * 64, {}),
        ("HS256", "k" * 32, {}),
        ("HS256", "j" * 32, {"iss": "https://elsewhere.example"}),
        ("HS256", "j" * 32, {"aud": "another"}),
        ("HS256", "j" * 32, {"sid": None}),
        ("HS256", "j" * 32, {"sid": "garbage"}),
        ("HS256", "j" * 32, {"sid": ["a"]}),
        ("HS256", "j" * 32, {"org": "garbage"}),
        ("HS256", "j" * 32, {"sub": "garbage"}),
    ],
)
def test_forged_token_is_rejected(
    client: FlaskClient, alice: User, algorithm: str, secret: str, changes: dict[str, Any]
) -> None:
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    forged = jwt.encode({**claims, **changes}, secret or None, algorithm)
    response = me(client, forged)
    assert code(response) == (401, "INVALID_TOKEN")
    assert response.headers["WWW-Authenticate"]


def test_token_signed_with_hs512_is_rejected(client: FlaskClient, alice: User, config: dict[str, Any]) -> None:
    claims = jwt.decode(alice.token, options={"verify_signature": False})
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        forged = jwt.encode(claims, config["JWT_SECRET"], "HS512")
    assert code(me(client, forged)) == (401, "INVALID_TOKEN")


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Basic YTpi", "Bearer abc", "Bearer a.b", "Bearer a.b.c.d", "garbage"]
)
def test_malformed_token_has_its_own_error_code(client: FlaskClient, header: str) -> None:
    assert code(client.get(ME, headers={"Authorization": header})) == (401, "INVALID_TOKEN_FORMAT")


@pytest.mark.parametrize("token", ["a.b.c", "..", "eyJ.eyJ.x"])
def test_three_parts_of_garbage_are_an_invalid_token(client: FlaskClient, token: str) -> None:
    assert code(me(client, token)) == (401, "INVALID_TOKEN")


def test_refresh_token_outlives_the_access_token(client: FlaskClient, alice: User) -> None:
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=16)):
        assert code(me(client, alice.token)) == (401, "TOKEN_EXPIRED")
        assert me(client, refresh(client, alice.refresh_token).json["data"]["token"]).status_code == 200


def test_rotated_jwt_secret_keeps_sessions(client: FlaskClient, alice: User, config: dict[str, Any]) -> None:
    changed = create_app({**config, "JWT_SECRET": "n" * 32 + "," + config["JWT_SECRET"]}).test_client()
    assert me(changed, alice.token).status_code == 200
    pair = refresh(changed, alice.refresh_token).json["data"]
    assert me(changed, pair["token"]).status_code == 200
    assert code(me(client, pair["token"])) == (401, "INVALID_TOKEN")
    dropped = create_app({**config, "JWT_SECRET": "n" * 32}).test_client()
    assert me(dropped, pair["token"]).status_code == 200
    assert code(me(dropped, alice.token)) == (401, "INVALID_TOKEN")


def test_cookies_are_secure_and_bound_to_the_host_with_https() -> None:
    secure, plain = tokens.jwt_config("s" * 32, "https://api.example"), tokens.jwt_config("s" * 32, "http://localhost")
    assert (secure["JWT_ACCESS_COOKIE_NAME"], secure["JWT_COOKIE_SECURE"]) == ("__Host-at", True)
    assert (plain["JWT_ACCESS_COOKIE_NAME"], plain["JWT_COOKIE_SECURE"]) == ("at", False)
    assert secure["JWT_COOKIE_CSRF_PROTECT"]
    assert "cookies" not in secure["JWT_TOKEN_LOCATION"]
