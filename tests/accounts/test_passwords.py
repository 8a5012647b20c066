"""Reset and change of a password, and the sessions and links that end with the old one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import passwords
from saas_api.app import create_app
from saas_api.core.db.engine import db
from tests.support.account_mails import (
    NEW_PASSWORD,
    audit_events,
    error_of,
    execute,
    expire_links,
    mail_texts,
    mailed_tokens,
    operator_link,
    post_auth,
)
from tests.support.accounts import AUTH, PASSWORD, User, sign_in


def reset(client: FlaskClient, token: str, password: str = NEW_PASSWORD) -> Any:
    return post_auth(client, "/reset-password", token=token, new_password=password)


def request_reset(client: FlaskClient, superuser: Any, email: str = "alice@acme.example") -> str:
    assert post_auth(client, "/request-password-reset", email=email).status_code == 200
    return mailed_tokens(superuser, "reset_password", email)[-1]


def session_statuses(client: FlaskClient, user: User) -> list[int]:
    responses = (
        client.get(f"{AUTH}/me", headers=user.headers),
        post_auth(client, "/refresh", refresh_token=user.refresh_token),
    )
    return [response.status_code for response in responses]


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """SQL statements that run in the block."""
    executed: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    with app.app_context():
        sa.event.listen(db.engine, "before_cursor_execute", record)
        try:
            yield executed
        finally:
            sa.event.remove(db.engine, "before_cursor_execute", record)


def test_reset_link_sets_a_password_and_ends_all_sessions(client: FlaskClient, alice: User, superuser: Any) -> None:
    other = sign_in(client, alice.email)
    before = execute(superuser, "SELECT tokens_valid_after FROM users")
    response = reset(client, request_reset(client, superuser))
    assert (response.status_code, response.json["data"]) == (200, {})
    assert session_statuses(client, alice) == session_statuses(client, other) == [401, 401]
    assert execute(superuser, "SELECT tokens_valid_after FROM users") > before
    assert error_of(post_auth(client, "/login", email=alice.email, password=PASSWORD)) == (401, "INVALID_CREDENTIALS")
    assert session_statuses(client, sign_in(client, alice.email, NEW_PASSWORD)) == [200, 200]
    assert len(audit_events(superuser, "user.password_reset")) == 1


def test_reset_response_is_the_same_for_unknown_addresses(client: FlaskClient, alice: User, superuser: Any) -> None:
    known = post_auth(client, "/request-password-reset", email="ALICE@acme.example")
    unknown = post_auth(client, "/request-password-reset", email="nobody@acme.example")
    assert known.status_code == unknown.status_code == 200
    assert known.json == unknown.json
    assert execute(superuser, "SELECT recipient FROM mails WHERE template = 'reset_password'") == [(alice.email,)]
    assert execute(superuser, "SELECT count(*) FROM user_tokens WHERE purpose = 'reset_password'") == [(1,)]


def test_reset_runs_the_same_statements_for_an_unknown_address(app: Flask, client: FlaskClient, alice: User) -> None:
    with statements(app) as known:
        post_auth(client, "/request-password-reset", email=alice.email)
    with statements(app) as unknown:
        post_auth(client, "/request-password-reset", email="nobody@acme.example")
    assert len(known) > 5
    assert [text for text in known if "SAVEPOINT" not in text] == [text for text in unknown if "SAVEPOINT" not in text]


def test_disabled_user_gets_no_reset_link_and_cannot_use_an_old_one(
    client: FlaskClient, alice: User, superuser: Any
) -> None:
    token = request_reset(client, superuser)
    execute(superuser, "UPDATE users SET disabled_at = now()")
    assert error_of(reset(client, token)) == (400, "INVALID_TOKEN")
    assert post_auth(client, "/request-password-reset", email=alice.email).status_code == 200
    assert len(mail_texts(superuser, "reset_password")) == 1


def test_unusable_reset_tokens_get_the_same_response(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    revoked, used = request_reset(client, superuser), request_reset(client, superuser)
    assert reset(client, used).status_code == 200
    [foreign] = mailed_tokens(superuser, "verify_email")
    errors = [reset(client, token).json["error"] for token in ("x", "x" * 43, revoked, used, foreign)]
    expired = request_reset(client, superuser, carol.email)
    expire_links(superuser)
    errors.append(reset(client, expired).json["error"])
    assert {(error["code"], error["message"], str(error["details"])) for error in errors} == {
        ("INVALID_TOKEN", "This link is invalid or has expired.", "{}")
    }
    assert session_statuses(client, carol) == [200, 200]


def test_reset_link_expires_after_an_hour(client: FlaskClient, alice: User, superuser: Any) -> None:
    request_reset(client, superuser)
    minutes_left = """SELECT round(extract(epoch FROM expires_at - now()) / 60) FROM user_tokens
        WHERE purpose = 'reset_password'"""
    assert execute(superuser, minutes_left) == [(60,)]


@pytest.mark.parametrize("password", ["short", "password", "alice@acme.example"])
def test_weak_reset_password_is_rejected_and_keeps_the_link(
    client: FlaskClient, alice: User, superuser: Any, password: str
) -> None:
    token = request_reset(client, superuser)
    response = reset(client, token, password)
    assert error_of(response) == (422, "VALIDATION_ERROR")
    assert response.json["error"]["details"]["fields"][0]["field"] == "new_password"
    assert reset(client, token).status_code == 200


def test_four_concurrent_uses_of_a_reset_link_succeed_once(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    token = request_reset(client, superuser)
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda number: reset(app.test_client(), token, f"{NEW_PASSWORD}{number}"), range(4)))
    assert sorted(response.status_code for response in responses) == [200, 400, 400, 400]


def test_two_concurrent_reset_requests_leave_one_usable_link(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: post_auth(app.test_client(), "/request-password-reset", email=alice.email), range(3)))
    statuses = [reset(client, token).status_code for token in mailed_tokens(superuser, "reset_password")]
    assert sorted(statuses) == [200, 400, 400]


def test_link_of_the_operator_command_sets_a_password(app: Flask, client: FlaskClient, superuser: Any) -> None:
    token = operator_link(app, "olga@platform.example")
    assert reset(client, token).status_code == 200
    response = post_auth(client, "/login", email="olga@platform.example", password=NEW_PASSWORD)
    assert response.status_code == 200


def test_fourth_reset_request_of_an_account_from_one_device_within_an_hour_is_rejected(
    client: FlaskClient, alice: User
) -> None:
    for email in (alice.email, "nobody@acme.example"):
        for spelling in (email, email.upper(), email.title()):
            assert post_auth(client, "/request-password-reset", email=spelling).status_code == 200
        response = post_auth(client, "/request-password-reset", email=email)
        assert error_of(response) == (429, "RATE_LIMIT_EXCEEDED")


def test_strangers_cannot_use_up_the_reset_links_of_an_account(client: FlaskClient, alice: User) -> None:
    """R2: a device that signed in before has an allowance of its own."""
    strangers = [f"192.0.2.{number // 3}" for number in range(12)]
    statuses = [post_auth(client, "/request-password-reset", email=alice.email, ip=ip).status_code for ip in strangers]
    assert statuses == [200] * 10 + [429] * 2
    assert post_auth(client, "/request-password-reset", email=alice.email).status_code == 200


def test_reset_requests_of_an_address_are_limited_to_twenty_an_hour(app: Flask, config: dict[str, Any]) -> None:
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()
    statuses = [post_auth(strict, "/request-password-reset", email=f"p{n}@acme.example").status_code for n in range(21)]
    assert statuses == [200] * 20 + [429]


def test_changed_password_ends_other_sessions_and_reset_links(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    other, link = sign_in(client, alice.email), request_reset(client, superuser)
    response = post_auth(client, "/change-password", alice, current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert (response.status_code, response.json["data"]) == (200, {})
    assert session_statuses(client, other) == [401, 401]
    assert session_statuses(client, alice) == session_statuses(client, carol) == [200, 200]
    assert error_of(reset(client, link)) == (400, "INVALID_TOKEN")
    assert error_of(post_auth(client, "/login", email=alice.email, password=PASSWORD)) == (401, "INVALID_CREDENTIALS")
    sign_in(client, alice.email, NEW_PASSWORD)
    assert len(audit_events(superuser, "user.password_changed")) == 1


def test_wrong_current_password_changes_nothing(client: FlaskClient, alice: User, superuser: Any) -> None:
    other = sign_in(client, alice.email)
    response = post_auth(client, "/change-password", alice, current_password="another", new_password=NEW_PASSWORD)
    assert error_of(response) == (401, "INVALID_CREDENTIALS")
    assert session_statuses(client, alice) == session_statuses(client, other) == [200, 200]
    sign_in(client, alice.email)
    assert len(audit_events(superuser, "user.password_change_failed")) == 1


def test_wrong_current_passwords_are_limited(client: FlaskClient, alice: User) -> None:
    wrong = {"current_password": "another", "new_password": NEW_PASSWORD}
    assert [post_auth(client, "/change-password", alice, **wrong).status_code for _ in range(11)] == [401] * 10 + [429]


@pytest.mark.parametrize("password", ["short", "password", "x" * 129])
def test_weak_new_password_is_reported_on_its_field(client: FlaskClient, alice: User, password: str) -> None:
    response = post_auth(client, "/change-password", alice, current_password=PASSWORD, new_password=password)
    assert error_of(response) == (422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in response.json["error"]["details"]["fields"]] == ["new_password"]
    sign_in(client, alice.email)


@pytest.mark.parametrize(
    "password", ["Password1!", "iloveyou1", "Summer2026!", "letmein99", "acme12345", "alice2026", "Qwertyuiop1"]
)
def test_common_password_is_refused(app: Flask, password: str) -> None:
    """R13: what an attacker tries first is refused, the names of the organization and the mailbox included."""
    assert passwords.password_problem(password, ["alice@acme.example", "Alice", "Acme Ltd."])


@pytest.mark.parametrize(
    "password", ["correct horse battery", "zx9$kQ2m", "vivid-anchor-mango", "密码密码马电池订书钉"]
)
def test_uncommon_password_is_accepted(app: Flask, password: str) -> None:
    assert passwords.password_problem(password, ["alice@acme.example", "Alice", "Acme Ltd."]) is None


def test_name_of_the_organization_is_refused_when_a_password_is_changed(client: FlaskClient, alice: User) -> None:
    response = post_auth(client, "/change-password", alice, current_password=PASSWORD, new_password="Acme20261")
    assert error_of(response) == (422, "VALIDATION_ERROR")


def test_strength_is_that_of_the_first_characters(app: Flask) -> None:
    """G4: the estimate of 72 characters took seconds, so no more than 20 are looked at."""
    assert passwords.password_problem("Password1!Password1!" + "zx9$kQ2m", [])


def test_each_password_change_counts(client: FlaskClient, alice: User) -> None:
    """G4: right passwords with weak new ones are limited too."""
    weak = {"current_password": PASSWORD, "new_password": "password"}
    assert [post_auth(client, "/change-password", alice, **weak).status_code for _ in range(11)] == [422] * 10 + [429]


def test_one_strength_is_estimated_at_a_time(app: Flask) -> None:
    """G4: parallel checks wait for each other instead of taking the processor from all other requests."""
    with ThreadPoolExecutor(1) as pool:
        with passwords._strength_slot:
            waiting = pool.submit(passwords.password_problem, "correct horse battery", [])
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
        assert waiting.result(timeout=60) is None
