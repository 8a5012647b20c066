"""Registration and sign-in: rejected requests, their errors, and the limits of attempts."""

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import devices, failed_logins, operators, sessions
from saas_api.accounts.audit import Actor
from saas_api.accounts.tokens import InvalidToken
from saas_api.app import create_app
from saas_api.core import ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from tests.support.account_mails import mail_texts, post_auth
from tests.support.accounts import AUTH, PASSWORD, User, sign_in, sign_up
from tests.support.pages import Browser, form_of
from tests.support.rate_limits import stay_within_a_minute

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


def fail(client: FlaskClient, email: str, address: str) -> int:
    """Sign in with a wrong password from an address."""
    body = {"email": email, "password": "another"}
    return client.post(f"{AUTH}/login", json=body, environ_base={"REMOTE_ADDR": address}).status_code


def test_failures_of_strangers_are_limited_to_five_a_minute(client: FlaskClient, alice: User) -> None:
    stay_within_a_minute(10)
    statuses = [fail(client, alice.email, f"192.0.2.{number}") for number in range(6)]
    assert statuses == [401] * 5 + [429]


def test_strangers_do_not_lock_an_account_for_a_device_that_signed_in_before(client: FlaskClient, alice: User) -> None:
    """R2: the owner gets in with the right password, whatever strangers try."""
    for number in range(12):
        fail(client, alice.email, f"192.0.2.{number}")
    assert client.post(f"{AUTH}/login", json={"email": alice.email, "password": PASSWORD}).status_code == 200


def test_browser_that_signed_in_before_is_let_through_from_a_new_address(app: Flask, alice: User) -> None:
    """R2: the mark of the device counts, not its address."""
    browser = Browser(app)
    assert browser.submit("/login", email=alice.email, password=PASSWORD).status_code == 303
    browser.submit("/logout")
    stay_within_a_minute(15)
    for number in range(6):
        fail(app.test_client(), alice.email, f"192.0.2.{number}")
    assert fail(app.test_client(), alice.email, "192.0.2.99") == 429
    page = browser.client.get("/login", environ_base={"REMOTE_ADDR": "192.0.2.99"})
    form = {**form_of(page, "/login"), "email": alice.email, "password": PASSWORD}
    known = browser.client.post("/login", data=form, environ_base={"REMOTE_ADDR": "192.0.2.99"})
    assert known.status_code == 303


@pytest.mark.usefixtures("context")
def test_forged_mark_of_a_device_is_no_mark() -> None:
    marks = devices.add_account("", "alice@acme.example")
    assert devices.find_known_device(marks, "alice@acme.example", "192.0.2.1")
    for forged in (marks.replace(".", "x."), f"nonce.{'0' * 32}~~.", ".", "é.é"):
        assert devices.find_known_device(forged, "alice@acme.example", "192.0.2.1") is None
    assert devices.find_known_device(marks, "bob@acme.example", "192.0.2.1") is None


def test_exhausted_limit_of_an_address_does_not_affect_others(app: Flask, config: dict[str, Any]) -> None:
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()
    statuses = [fail(strict, f"nobody{number}@acme.example", "192.0.2.1") for number in range(13)]
    assert statuses == [401] * 10 + [429] * 3
    assert fail(strict, "nobody13@acme.example", "192.0.2.2") == 401


def test_addresses_of_one_ipv6_network_share_a_limit(app: Flask, config: dict[str, Any]) -> None:
    """R1: one customer of a provider has 2^64 addresses."""
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()
    statuses = [fail(strict, f"nobody{number}@acme.example", f"2001:db8::{number:x}") for number in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert fail(strict, "nobody12@acme.example", "2001:db8:0:1::1") == 401


def test_thousand_failures_refuse_no_one_else(app: Flask, alice: User) -> None:
    """R1: no number of failures stops sign-in for everyone; operators are alerted."""
    with app.test_request_context():
        for _ in range(failed_logins.FAILURES_BEFORE_ALERT - 1):
            failed_logins._count_failures("all")
    with app.app_context(), tenancy.system_session("operator.command") as session:
        operators.appoint_operator(session, "olga@platform.example", "admin", Actor("system"))
    assert fail(app.test_client(), "nobody@acme.example", "192.0.2.1") == 401
    assert app.test_client().post(f"{AUTH}/login", json={"email": alice.email, "password": PASSWORD}).status_code == 200
    with app.app_context(), tenancy.system_session("operator.command") as session:
        sql = sa.text("SELECT subject FROM mails WHERE template = 'operator_alert'")
        assert "many sign-ins fail" in session.scalars(sql).one()


def test_failures_of_unknown_addresses_leave_few_rows(app: Flask, client: FlaskClient) -> None:
    """R8: strangers do not fill the audit log: the 1st, 10th, 100th failure of a network in an hour is a row."""
    for number in range(12):
        fail(client, f"nobody{number}@acme.example", "192.0.2.1")
    with app.app_context(), tenancy.system_session("operator.command") as session:
        rows = session.execute(sa.text("SELECT data FROM audit_events WHERE action = 'user.sign_in_failed'")).all()
    assert sorted(row.data["failures_in_hour"] for row in rows)[:1] == [1]
    assert len(rows) <= 3


def test_right_passwords_of_an_office_are_not_counted(app: Flask, config: dict[str, Any], alice: User) -> None:
    """A1: the 11th right sign-in and the 21st refresh of an address pass."""
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()
    user = alice
    for _ in range(11):
        user = sign_in(strict, alice.email)
    token = user.refresh_token
    for _ in range(21):
        response = strict.post(f"{AUTH}/refresh", json={"refresh_token": token})
        assert response.status_code == 200
        token = response.json["data"]["refresh_token"]


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


@pytest.mark.parametrize("email", ["İpek@acme.example", "ΟΔΟΣ@acme.example", "Alice@ACME.example"])
def test_user_signs_in_with_the_address_of_the_sign_up(client: FlaskClient, superuser: Any, email: str) -> None:
    """A8: register was 201, and sign-in 401 for ever."""
    owner = sign_up(client, email)
    for spelling in (email, email.lower(), f" {email} "):
        assert sign_in(client, spelling).user_id == owner.user_id
    body = {"organization_name": "Acme", "email": email.lower(), "password": PASSWORD}
    assert client.post(f"{AUTH}/register", json=body).status_code == 409
    assert owner.call("POST", "/team/invite", email=email, role="viewer") == (409, "USER_EXISTS")
    assert post_auth(client, "/request-password-reset", email=email).status_code == 200
    assert len(mail_texts(superuser, "reset_password", owner.email)) == 1
