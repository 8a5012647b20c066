"""Registration and sign-in: rejected requests, their errors, and the limits of attempts."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import sessions
from saas_api.accounts.tokens import InvalidToken
from saas_api.app import create_app
from saas_api.core import ids
from saas_api.core.access import Principal
from saas_api.core.limits import limiter
from tests.support.accounts import AUTH, PASSWORD, User

NEW = {"organization_name": "Beta", "email": "dora@beta.example", "password": PASSWORD}


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


def fields(response: Any) -> set[str]:
    return {problem["field"] for problem in response.json["error"]["details"]["fields"]}


def counts(superuser: Any) -> list[int]:
    with superuser, superuser.cursor() as cursor:
        cursor.execute("""SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM organizations),
            (SELECT count(*) FROM memberships), (SELECT count(*) FROM user_sessions)""")
        return list(cursor.fetchone())


@pytest.mark.parametrize("email", ["alice@acme.example", "ALICE@Acme.Example", "Alice@acme.example"])
def test_address_is_taken_in_any_case_and_nothing_is_stored(
    client: FlaskClient, alice: User, superuser: Any, email: str
) -> None:
    before = counts(superuser)
    assert code(client.post(f"{AUTH}/register", json={**NEW, "email": email})) == (409, "EMAIL_TAKEN")
    assert counts(superuser) == before == [1, 1, 1, 1]


@pytest.mark.parametrize("password", ["short", "password", "12345678", "x" * 129])
def test_weak_password_is_reported_on_its_field(client: FlaskClient, superuser: Any, password: str) -> None:
    response = client.post(f"{AUTH}/register", json={**NEW, "password": password})
    assert code(response) == (422, "VALIDATION_ERROR")
    assert fields(response) == {"password"}
    assert counts(superuser) == [0, 0, 0, 0]


def test_registration_reports_all_problems_at_once(client: FlaskClient) -> None:
    response = client.post(f"{AUTH}/register", json={"email": "nobody", "password": "short", "role": "owner"})
    assert fields(response) == {"organization_name", "email", "password", "role"}


def test_unknown_address_and_wrong_password_get_the_same_response(client: FlaskClient, alice: User) -> None:
    wrong = client.post(f"{AUTH}/login", json={"email": alice.email, "password": "another"})
    unknown = client.post(f"{AUTH}/login", json={"email": "nobody@acme.example", "password": "another"})
    assert code(wrong) == code(unknown) == (401, "INVALID_CREDENTIALS")
    assert wrong.json["error"]["message"] == unknown.json["error"]["message"]
    assert wrong.json.keys() == unknown.json.keys()


def test_login_ignores_the_case_of_the_address(client: FlaskClient, alice: User) -> None:
    assert client.post(f"{AUTH}/login", json={"email": "ALICE@acme.example", "password": PASSWORD}).status_code == 200


@pytest.mark.parametrize("email", ["alice@acme.example", "nobody@acme.example"])
def test_sixth_failure_of_an_account_from_one_address_is_rejected(client: FlaskClient, alice: User, email: str) -> None:
    spellings = (email, email.upper(), email.title())
    for attempt in range(5):
        body = {"email": spellings[attempt % 3], "password": "another"}
        assert code(client.post(f"{AUTH}/login", json=body)) == (401, "INVALID_CREDENTIALS")
    rejected = client.post(f"{AUTH}/login", json={"email": email, "password": PASSWORD})
    assert code(rejected) == (429, "RATE_LIMIT_EXCEEDED")
    assert int(rejected.headers["Retry-After"]) >= 1


def test_eleventh_failure_of_an_account_is_rejected_from_any_address(client: FlaskClient, alice: User) -> None:
    body = {"email": alice.email, "password": "another"}
    for attempt in range(10):
        response = client.post(f"{AUTH}/login", json=body, environ_base={"REMOTE_ADDR": f"192.0.2.{attempt // 5}"})
        assert response.status_code == 401
    response = client.post(f"{AUTH}/login", json=body, environ_base={"REMOTE_ADDR": "192.0.2.9"})
    assert code(response) == (429, "RATE_LIMIT_EXCEEDED")


def test_exhausted_limit_of_an_address_does_not_affect_others(app: Flask, config: dict[str, Any]) -> None:
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()

    def attempt(number: int, address: str) -> int:
        body = {"email": f"nobody{number}@acme.example", "password": "another"}
        return strict.post(f"{AUTH}/login", json=body, environ_base={"REMOTE_ADDR": address}).status_code

    assert [attempt(number, "192.0.2.1") for number in range(13)] == [401] * 10 + [429] * 3
    assert attempt(13, "192.0.2.2") == 401
    redis = limiter.get_storage().storage
    assert sum(int(redis.get(key)) for key in redis.scan_iter("*everybody*")) == 11


def test_successful_sign_ins_do_not_lock_an_account(client: FlaskClient, alice: User) -> None:
    for _ in range(12):
        assert client.post(f"{AUTH}/login", json={"email": alice.email, "password": PASSWORD}).status_code == 200


def test_disabled_user_gets_the_response_of_a_wrong_password(client: FlaskClient, alice: User, superuser: Any) -> None:
    with superuser, superuser.cursor() as cursor:
        cursor.execute("UPDATE users SET disabled_at = now()")
    response = client.post(f"{AUTH}/login", json={"email": alice.email, "password": PASSWORD})
    assert code(response) == (401, "INVALID_CREDENTIALS")


def test_foreign_organization_id_is_reported_on_its_field(client: FlaskClient, alice: User, carol: User) -> None:
    body = {"email": alice.email, "password": PASSWORD, "organization_id": carol.organization_id}
    assert fields(client.post(f"{AUTH}/login", json=body)) == {"organization_id"}


def test_body_over_the_limit_is_rejected_before_it_is_read(client: FlaskClient) -> None:
    response = client.post(f"{AUTH}/login", json={"email": "a@acme.example", "password": "x" * 70_000})
    assert code(response) == (413, "BODY_TOO_LARGE")


def test_member_removed_between_gate_and_view_has_an_invalid_token(app: Flask, alice: User, carol: User) -> None:
    principal = Principal(
        "user", ids.parse_id("usr", alice.user_id), ids.parse_id("org", carol.organization_id), "member"
    )
    with app.app_context(), pytest.raises(InvalidToken):
        sessions.get_profile(principal)
