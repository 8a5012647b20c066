"""New passwords: by a mailed link, and by the one that is known; what ends with the old one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core.db.engine import db
from tests.support.account_mails import NEWER, acts, code, expire, mails, operator_link, post, rows, tokens
from tests.support.accounts import AUTH, PASSWORD, Person, sign_in


def reset(client: FlaskClient, token: str, password: str = NEWER) -> Any:
    return post(client, "/reset-password", token=token, new_password=password)


def asked(client: FlaskClient, superuser: Any, email: str = "alice@acme.example") -> str:
    assert post(client, "/request-password-reset", email=email).status_code == 200
    return tokens(superuser, "reset_password", email)[-1]


def can_go_on(client: FlaskClient, person: Person) -> list[int]:
    answers = (
        client.get(f"{AUTH}/me", headers=person.headers),
        post(client, "/refresh", refresh_token=person.refresh_token),
    )
    return [answer.status_code for answer in answers]


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    with app.app_context():
        sa.event.listen(db.engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            sa.event.remove(db.engine, "before_cursor_execute", note)


def test_the_link_sets_a_password_and_every_session_ends(client: FlaskClient, alice: Person, superuser: Any) -> None:
    other = sign_in(client, alice.email)
    before = rows(superuser, "SELECT tokens_valid_after FROM users")
    answer = reset(client, asked(client, superuser))
    assert (answer.status_code, answer.json["data"]) == (200, {})
    assert can_go_on(client, alice) == can_go_on(client, other) == [401, 401]
    assert rows(superuser, "SELECT tokens_valid_after FROM users") > before
    assert code(post(client, "/login", email=alice.email, password=PASSWORD)) == (401, "INVALID_CREDENTIALS")
    assert can_go_on(client, sign_in(client, alice.email, NEWER)) == [200, 200]
    assert len(acts(superuser, "user.password_reset")) == 1


def test_the_answer_is_the_same_for_every_address_and_only_one_gets_mail(
    client: FlaskClient, alice: Person, superuser: Any
) -> None:
    known = post(client, "/request-password-reset", email="ALICE@acme.example")
    unknown = post(client, "/request-password-reset", email="nobody@acme.example")
    assert known.status_code == unknown.status_code == 200
    assert known.json == unknown.json
    assert rows(superuser, "SELECT recipient FROM mails WHERE template = 'reset_password'") == [(alice.email,)]
    assert rows(superuser, "SELECT count(*) FROM user_tokens WHERE purpose = 'reset_password'") == [(1,)]


def test_as_much_is_done_for_an_address_nobody_has(app: Flask, client: FlaskClient, alice: Person) -> None:
    with statements(app) as known:
        post(client, "/request-password-reset", email=alice.email)
    with statements(app) as unknown:
        post(client, "/request-password-reset", email="nobody@acme.example")
    assert len(known) > 5
    assert [text for text in known if "SAVEPOINT" not in text] == [text for text in unknown if "SAVEPOINT" not in text]


def test_a_disabled_person_gets_no_link_and_an_old_one_leads_nowhere(
    client: FlaskClient, alice: Person, superuser: Any
) -> None:
    token = asked(client, superuser)
    rows(superuser, "UPDATE users SET disabled_at = now()")
    assert code(reset(client, token)) == (400, "INVALID_TOKEN")
    assert post(client, "/request-password-reset", email=alice.email).status_code == 200
    assert len(mails(superuser, "reset_password")) == 1


def test_wrong_spent_void_expired_and_foreign_tokens_get_one_answer(
    client: FlaskClient, alice: Person, carol: Person, superuser: Any
) -> None:
    void, spent = asked(client, superuser), asked(client, superuser)
    assert reset(client, spent).status_code == 200
    [foreign] = tokens(superuser, "verify_email")
    errors = [reset(client, token).json["error"] for token in ("x", "x" * 43, void, spent, foreign)]
    old = asked(client, superuser, carol.email)
    expire(superuser)
    errors.append(reset(client, old).json["error"])
    assert {(error["code"], error["message"], str(error["details"])) for error in errors} == {
        ("INVALID_TOKEN", "This link is not valid, or no longer.", "{}")
    }
    assert can_go_on(client, carol) == [200, 200]


def test_a_link_is_good_for_an_hour(client: FlaskClient, alice: Person, superuser: Any) -> None:
    asked(client, superuser)
    left = """SELECT round(extract(epoch FROM expires_at - now()) / 60) FROM user_tokens
        WHERE purpose = 'reset_password'"""
    assert rows(superuser, left) == [(60,)]


@pytest.mark.parametrize("password", ["short", "password", "alice@acme.example"])
def test_a_weak_password_is_told_on_its_field_and_the_link_stays_good(
    client: FlaskClient, alice: Person, superuser: Any, password: str
) -> None:
    token = asked(client, superuser)
    answer = reset(client, token, password)
    assert code(answer) == (422, "VALIDATION_ERROR")
    assert answer.json["error"]["details"]["fields"][0]["field"] == "new_password"
    assert reset(client, token).status_code == 200


def test_one_link_used_at_once_by_four_serves_one(
    app: Flask, client: FlaskClient, alice: Person, superuser: Any
) -> None:
    token = asked(client, superuser)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: reset(app.test_client(), token, f"{NEWER}{number}"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]


def test_two_links_asked_for_at_once_leave_one_that_works(
    app: Flask, client: FlaskClient, alice: Person, superuser: Any
) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: post(app.test_client(), "/request-password-reset", email=alice.email), range(3)))
    statuses = [reset(client, token).status_code for token in tokens(superuser, "reset_password")]
    assert sorted(statuses) == [200, 400, 400]


def test_the_link_from_an_operators_shell_sets_a_password(app: Flask, client: FlaskClient, superuser: Any) -> None:
    token = operator_link(app, "olga@platform.example")
    assert reset(client, token).status_code == 200
    answer = post(client, "/login", email="olga@platform.example", password=NEWER)
    assert code(answer) == (403, "NO_ORGANIZATION")  # the password is right


def test_the_fourth_link_within_an_hour_is_too_many_whoever_is_asked_for(client: FlaskClient, alice: Person) -> None:
    for email in (alice.email, "nobody@acme.example"):
        for spelling in (email, email.upper(), email.title()):
            assert post(client, "/request-password-reset", email=spelling).status_code == 200
        answer = post(client, "/request-password-reset", email=email, ip="192.0.2.9")
        assert code(answer) == (429, "RATE_LIMIT_EXCEEDED")


def test_one_address_asks_twenty_times_an_hour_for_whomever(app: Flask, config: dict[str, Any]) -> None:
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()
    asked_for = [post(strict, "/request-password-reset", email=f"p{n}@acme.example").status_code for n in range(21)]
    assert asked_for == [200] * 20 + [429]


def test_a_changed_password_ends_the_other_sessions_and_links(
    client: FlaskClient, alice: Person, carol: Person, superuser: Any
) -> None:
    other, link = sign_in(client, alice.email), asked(client, superuser)
    answer = post(client, "/change-password", alice, current_password=PASSWORD, new_password=NEWER)
    assert (answer.status_code, answer.json["data"]) == (200, {})
    assert can_go_on(client, other) == [401, 401]
    assert can_go_on(client, alice) == can_go_on(client, carol) == [200, 200]
    assert code(reset(client, link)) == (400, "INVALID_TOKEN")
    assert code(post(client, "/login", email=alice.email, password=PASSWORD)) == (401, "INVALID_CREDENTIALS")
    sign_in(client, alice.email, NEWER)
    assert len(acts(superuser, "user.password_changed")) == 1


def test_without_the_current_password_nothing_changes(client: FlaskClient, alice: Person, superuser: Any) -> None:
    other = sign_in(client, alice.email)
    answer = post(client, "/change-password", alice, current_password="another", new_password=NEWER)
    assert code(answer) == (401, "INVALID_CREDENTIALS")
    assert can_go_on(client, alice) == can_go_on(client, other) == [200, 200]
    sign_in(client, alice.email)
    assert len(acts(superuser, "user.password_change_failed")) == 1


def test_a_stolen_session_does_not_try_passwords_without_end(client: FlaskClient, alice: Person) -> None:
    wrong = {"current_password": "another", "new_password": NEWER}
    assert [post(client, "/change-password", alice, **wrong).status_code for _ in range(11)] == [401] * 10 + [429]


@pytest.mark.parametrize("password", ["short", "password", "x" * 129])
def test_a_weak_new_password_is_told_on_its_field(client: FlaskClient, alice: Person, password: str) -> None:
    answer = post(client, "/change-password", alice, current_password=PASSWORD, new_password=password)
    assert code(answer) == (422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in answer.json["error"]["details"]["fields"]] == ["new_password"]
    sign_in(client, alice.email)
