"""Two-factor sign-in: codes are accepted once, and nothing but a code lets a stolen password in."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import authenticators, failed_logins, models, operators, two_factor, users
from saas_api.accounts.audit import Actor
from saas_api.cli.commands import doctor
from saas_api.cli.commands.doctor import FAIL
from saas_api.core import clock, crypto
from saas_api.core.db import tenancy
from tests.support.account_mails import (
    NEW_PASSWORD,
    audit_events,
    error_of,
    execute,
    mail_texts,
    mailed_tokens,
    operator_link,
    post_auth,
)
from tests.support.accounts import PASSWORD, User, sign_in
from tests.support.pages import Browser, form_of
from tests.support.two_factor import PAGE, STEP, Authenticator, shown_codes, shown_secret, turn_on

SIGNED_IN = (200, "")


@pytest.fixture
def phone(app: Flask, alice: User, superuser: Any) -> Authenticator:
    """Two-factor sign-in of alice, with the clock stopped in the step after the code that turned it on."""
    execute(superuser, "UPDATE users SET email_verified_at = now()")  # notices have their facts
    clock.freeze_time(clock.now())
    phone = turn_on(app, alice)
    clock.freeze_time(clock.now() + STEP)
    return phone


def log_in(client: FlaskClient, **body: Any) -> tuple[int, str]:
    response = post_auth(client, "/login", **{"email": "alice@acme.example", "password": PASSWORD, **body})
    return SIGNED_IN if response.status_code == 200 else error_of(response)


def test_api_asks_for_a_code_after_the_password_only(client: FlaskClient, phone: Authenticator, carol: User) -> None:
    assert log_in(client) == (403, "TWO_FACTOR_REQUIRED")
    assert log_in(client, password="wrong") == (401, "INVALID_CREDENTIALS")
    assert log_in(client, password="wrong", code=phone.code()) == (401, "INVALID_CREDENTIALS")
    assert log_in(client, code=phone.code()) == SIGNED_IN
    assert log_in(client, email=carol.email, code="123456") == SIGNED_IN


def test_codes_of_neighbouring_steps_are_accepted_and_no_others(client: FlaskClient, phone: Authenticator) -> None:
    clock.freeze_time(clock.now() + 5 * STEP)
    for steps in (-2, 2):
        assert log_in(client, code=phone.code(steps)) == (401, "INVALID_TWO_FACTOR_CODE")
    for steps in (-1, 0, 1):
        assert log_in(client, code=phone.code(steps)) == SIGNED_IN, steps


def test_code_is_accepted_once_and_no_older_one_after_it(client: FlaskClient, phone: Authenticator) -> None:
    code = phone.code()
    assert log_in(client, code=f"{code[:3]} {code[3:]}") == SIGNED_IN
    assert log_in(client, code=code) == (401, "INVALID_TWO_FACTOR_CODE")
    assert log_in(client, code=phone.code(1)) == SIGNED_IN
    assert log_in(client, code=code) == (401, "INVALID_TWO_FACTOR_CODE")


def test_code_that_turned_it_on_does_not_sign_in(app: Flask, client: FlaskClient, alice: User) -> None:
    clock.freeze_time(clock.now())
    phone = turn_on(app, alice)
    assert log_in(client, code=phone.code()) == (401, "INVALID_TWO_FACTOR_CODE")


def race(app: Flask, monkeypatch: pytest.MonkeyPatch, code: str) -> list[tuple[int, str]]:
    """Sign in twice with a code, both having read what was used before either uses it."""
    barrier, find_secret = threading.Barrier(2), authenticators.find_secret

    def find_and_wait(*arguments: Any) -> Any:
        record = find_secret(*arguments)
        barrier.wait(10)
        return record

    monkeypatch.setattr(authenticators, "find_secret", find_and_wait)
    with ThreadPoolExecutor(2) as pool:
        return sorted(pool.map(lambda _: log_in(app.test_client(), code=code), range(2)))


def test_two_requests_with_the_same_code_at_once_start_one_session(
    app: Flask, phone: Authenticator, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = execute(superuser, "SELECT count(*) FROM user_sessions")[0][0]
    assert race(app, monkeypatch, phone.code()) == [SIGNED_IN, (401, "INVALID_TWO_FACTOR_CODE")]
    assert execute(superuser, "SELECT count(*) FROM user_sessions") == [(before + 1,)]


def test_two_requests_with_the_same_recovery_code_at_once_start_one_session(
    app: Flask, phone: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert race(app, monkeypatch, phone.recovery_codes[0]) == [SIGNED_IN, (401, "INVALID_TWO_FACTOR_CODE")]


def test_recovery_code_works_once_and_its_owner_gets_a_mail(
    client: FlaskClient, phone: Authenticator, superuser: Any
) -> None:
    first, second = phone.recovery_codes[:2]
    assert len(set(phone.recovery_codes)) == authenticators.RECOVERY_CODES == 10
    assert log_in(client, code=first) == SIGNED_IN
    assert log_in(client, code=first) == (401, "INVALID_TWO_FACTOR_CODE")
    assert log_in(client, code=f" {second.replace('-', '').upper()} ") == SIGNED_IN
    texts = mail_texts(superuser, "security_notice")
    assert [number for number in (8, 9) if any(f"Unused recovery codes: {number}" in text for text in texts)] == [8, 9]
    assert len(audit_events(superuser, "user.recovery_code_used")) == 2


def test_recovery_codes_and_the_secret_are_not_stored_readable(superuser: Any, phone: Authenticator) -> None:
    [(encrypted,)] = execute(superuser, "SELECT secret_encrypted FROM two_factor_secrets")
    assert phone.secret.encode() not in bytes(encrypted)
    digests = {bytes(digest) for (digest,) in execute(superuser, "SELECT digest FROM recovery_codes")}
    assert digests == {crypto.sha256(code.replace("-", "")) for code in phone.recovery_codes}


def test_codes_of_another_user_are_refused(app: Flask, client: FlaskClient, carol: User, phone: Authenticator) -> None:
    other = turn_on(app, carol)
    clock.freeze_time(clock.now() + STEP)
    for code in (other.code(), other.recovery_codes[0]):
        assert log_in(client, code=code) == (401, "INVALID_TWO_FACTOR_CODE")


def test_codes_of_strangers_are_limited_and_a_known_device_is_not_kept_out(
    client: FlaskClient, alice: User, phone: Authenticator, superuser: Any
) -> None:
    """The addresses of the wrong codes are new; alice signed in from 127.0.0.1 before."""
    body = {"email": "alice@acme.example", "password": PASSWORD}
    with client.application.app_context():
        for _ in range(two_factor.FAILURES_BEFORE_NOTICE):  # wrong passwords are counted apart
            failed_logins.record_failure(find_user(alice.email), alice.email, "user.sign_in_failed")
    statuses = [
        error_of(post_auth(client, "/login", ip=f"192.0.{number}.1", **body, code="000000"))
        for number in range(two_factor.CODES_OF_STRANGERS_PER_HOUR // 2)
    ]
    assert set(statuses) == {(401, "INVALID_TWO_FACTOR_CODE")}
    assert len([text for text in mail_texts(superuser, "security_notice") if "Nobody got in" in text]) == 1
    with client.application.app_context():
        limit = two_factor._STRANGER_LIMIT
        key = crypto.hmac_hex("throttle", str(find_user(alice.email).id), "")
        while two_factor.limiter.limiter.limiter.hit(limit, key, "two-factor"):
            pass
    refused = post_auth(client, "/login", ip="192.0.99.1", **body, code=phone.code())
    assert error_of(refused) == (429, "RATE_LIMIT_EXCEEDED")
    assert log_in(client, code=phone.code()) == SIGNED_IN


def test_wrong_codes_of_a_device_are_limited_before_they_are_compared(
    client: FlaskClient, phone: Authenticator
) -> None:
    with client.application.app_context():
        for _ in range(two_factor.CODES_OF_DEVICE_PER_15_MINUTES):
            key = crypto.hmac_hex("throttle", str(find_user("alice@acme.example").id), "127.0.0.1")
            two_factor.limiter.limiter.limiter.hit(two_factor._DEVICE_LIMIT, key, "two-factor")
    assert log_in(client, code=phone.code()) == (429, "RATE_LIMIT_EXCEEDED")


def find_user(email: str) -> models.User:
    with tenancy.system_session("auth.account") as session:
        user = users.find_by_email(session, email)
    assert user is not None
    return user


def test_browser_asks_for_the_code_and_goes_on_where_the_user_wanted(
    app: Flask, client: FlaskClient, alice: User, phone: Authenticator
) -> None:
    browser = Browser(app)
    asked = browser.submit("/login?next=/dashboard/usage", "/login", email=alice.email, password=PASSWORD)
    assert asked.status_code == 200
    assert PASSWORD not in asked.text
    assert browser.open("/dashboard").status_code == 303, "the password alone signs nobody in"
    form = form_of(asked, "/login/code")
    wrong = browser.send("/login/code", {**form, "code": "000000"})
    assert (wrong.status_code, "This code is not valid" in wrong.text) == (401, True)
    entered = browser.send("/login/code", {**form_of(wrong, "/login/code"), "code": phone.code()})
    assert (entered.status_code, entered.location) == (303, "/dashboard/usage")
    assert browser.open("/dashboard").status_code == 200


def challenge_of(browser: Browser, email: str = "alice@acme.example") -> dict[str, Any]:
    return form_of(browser.submit("/login", email=email, password=PASSWORD), "/login/code")


def test_challenge_expires_and_ends_with_the_password(
    app: Flask, client: FlaskClient, alice: User, phone: Authenticator, superuser: Any
) -> None:
    browser = Browser(app)
    form = challenge_of(browser)
    clock.freeze_time(clock.now() + two_factor.CHALLENGE_LIFETIME + STEP)
    late = browser.send("/login/code", {**form, "code": phone.code()})
    assert (late.status_code, late.location) == (303, "/login")
    form = challenge_of(browser)
    assert post_auth(client, "/request-password-reset", email=alice.email).status_code == 200
    [token] = mailed_tokens(superuser, "reset_password")
    assert post_auth(client, "/reset-password", token=token, new_password=NEW_PASSWORD).status_code == 200
    changed = browser.send("/login/code", {**form, "code": phone.code()})
    assert (changed.status_code, changed.location) == (303, "/login")
    assert log_in(client, password=NEW_PASSWORD) == (403, "TWO_FACTOR_REQUIRED"), "a reset asks for the code too"


def test_forged_challenge_is_refused(app: Flask, alice: User, carol: User, phone: Authenticator) -> None:
    browser = Browser(app)
    form = challenge_of(browser)
    [challenge] = form["challenge"]
    user_id, expires_at, signature = challenge.split("-")
    later = f"{user_id}-{int(expires_at) + 600}-{signature}"
    other = f"{carol.user_id.removeprefix('usr_')}-{expires_at}-{signature}"
    for forged in (later, other, "x", "", f"{user_id}-x-{signature}", f"{challenge}é"):
        response = browser.send("/login/code", {**form, "challenge": forged, "code": phone.code()})
        assert response.status_code in (303, 422), forged
    assert browser.open("/dashboard").status_code == 303


def test_turning_it_off_takes_the_password_and_a_code(
    app: Flask, client: FlaskClient, alice: User, phone: Authenticator, superuser: Any
) -> None:
    browser = Browser(app, alice)
    assert browser.submit(f"{PAGE}/disable", code="000000").status_code == 401
    assert log_in(client) == (403, "TWO_FACTOR_REQUIRED")
    user = sign_in(client, alice.email, code=phone.code())
    old = Browser(app, stale(app, user))
    asked = old.submit(f"{PAGE}/disable", code=phone.next_code())
    assert (asked.status_code, "Enter your password to go on." in asked.text) == (422, True)
    assert log_in(client) == (403, "TWO_FACTOR_REQUIRED")
    assert old.submit(f"{PAGE}/disable", code=phone.next_code(), confirm_password=PASSWORD).status_code == 303
    assert log_in(client) == SIGNED_IN
    assert execute(superuser, "SELECT count(*) FROM recovery_codes") == [(0,)]
    assert len(audit_events(superuser, "user.two_factor_enabled")) == 1
    assert len(audit_events(superuser, "user.two_factor_disabled")) == 1
    subjects = execute(superuser, "SELECT subject FROM mails WHERE template = 'security_notice' ORDER BY id")
    assert [subject for (subject,) in subjects if "turned o" in subject] == [
        "Two-factor sign-in was turned on",
        "Two-factor sign-in was turned off",
    ]


def stale(app: Flask, user: User) -> User:
    """The user with an access token that is not recently authenticated."""
    response = post_auth(app.test_client(), "/refresh", refresh_token=user.refresh_token)
    data = response.json["data"]
    return User(
        user.email, user.user_id, user.organization_id, user.role, data["token"], data["refresh_token"], user.client
    )


def test_setup_needs_the_password_and_changes_nothing_before_a_code(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    old = Browser(app, stale(app, sign_in(client, alice.email)))
    assert old.submit(PAGE).status_code == 422
    assert execute(superuser, "SELECT count(*) FROM two_factor_secrets") == [(0,)]
    browser = Browser(app, alice)
    assert browser.open(f"{PAGE}/setup").location == PAGE
    browser.submit(PAGE)
    first = shown_secret(browser.open(f"{PAGE}/setup").text)
    assert log_in(client) == SIGNED_IN
    assert browser.submit(f"{PAGE}/setup", code="000000").status_code == 401
    assert log_in(client) == SIGNED_IN
    browser.submit(PAGE)
    assert shown_secret(browser.open(f"{PAGE}/setup").text) != first


def test_secret_is_not_shown_again_and_the_form_sent_twice_shows_the_same_codes(
    app: Flask, alice: User, superuser: Any
) -> None:
    browser = Browser(app, alice)
    browser.submit(PAGE)
    setup = browser.open(f"{PAGE}/setup")
    phone = Authenticator(shown_secret(setup.text), [])
    assert "<svg" in setup.text
    fields = {**form_of(setup, f"{PAGE}/setup"), "code": phone.code()}
    codes = [shown_codes(browser.send(f"{PAGE}/setup", fields).text) for _ in range(2)]
    assert codes[0] == codes[1]
    assert browser.open(f"{PAGE}/setup").location == PAGE
    assert phone.secret not in browser.open(PAGE).text
    bodies = execute(superuser, "SELECT body FROM idempotency_keys WHERE body IS NOT NULL")
    assert all(codes[0][0].encode() not in bytes(body) for (body,) in bodies)


def test_new_recovery_codes_replace_the_earlier_ones(
    app: Flask, client: FlaskClient, alice: User, phone: Authenticator, superuser: Any
) -> None:
    browser = Browser(app, alice)
    new = shown_codes(browser.submit(f"{PAGE}/recovery-codes", code=phone.code()).text)
    assert log_in(client, code=phone.recovery_codes[0]) == (401, "INVALID_TWO_FACTOR_CODE")
    assert log_in(client, code=new[0]) == SIGNED_IN
    assert len(audit_events(superuser, "user.recovery_codes_replaced")) == 1


def test_invitation_to_an_account_asks_for_the_code(
    app: Flask, client: FlaskClient, carol: User, phone: Authenticator, superuser: Any
) -> None:
    assert carol.call("POST", "/team/invite", email="alice@acme.example", role="member")[0] == 201
    [token] = mailed_tokens(superuser, "invitation")
    body = {"token": token, "password": PASSWORD}
    refused = client.post("/api/v1/team/accept-invitation", json=body)
    assert error_of(refused) == (403, "TWO_FACTOR_REQUIRED")
    browser = Browser(app)
    asked = browser.submit(
        f"/accept-invitation?token={token}", "/accept-invitation", password=PASSWORD, answer="accept"
    )
    assert (asked.status_code, 'name="code"' in asked.text) == (403, True)
    form = form_of(asked, "/accept-invitation")
    joined = browser.send(
        "/accept-invitation", {**form, "password": PASSWORD, "code": phone.code(), "answer": "accept"}
    )
    assert joined.status_code == 303, joined.text
    assert execute(superuser, "SELECT count(*) FROM invitations WHERE accepted_at IS NOT NULL") == [(1,)]


def test_operator_without_an_organization_uses_it_too(app: Flask, client: FlaskClient) -> None:
    olga = {"email": "olga@platform.example", "password": NEW_PASSWORD}
    token = operator_link(app, olga["email"])
    assert post_auth(client, "/reset-password", token=token, new_password=NEW_PASSWORD).status_code == 200
    browser = Browser(app)
    assert browser.submit("/login", **olga).location == "/admin"
    assert browser.submit(PAGE).status_code == 303
    phone = Authenticator(shown_secret(browser.open(f"{PAGE}/setup").text), [])
    assert len(shown_codes(browser.submit(f"{PAGE}/setup", code=phone.code()).text)) == 10
    assert browser.open(PAGE).status_code == 200
    asked = Browser(app).submit("/login", **olga)
    assert "Enter your code" in asked.text


def test_account_that_becomes_an_operators_loses_the_second_factor_of_before(
    app: Flask, alice: User, phone: Authenticator, superuser: Any
) -> None:
    execute(superuser, "UPDATE users SET email_verified_at = now()")
    with app.app_context(), tenancy.system_session("operator.command") as session:
        operators.appoint_operator(session, alice.email, "admin", Actor("system"), is_existing_allowed=True)
    assert execute(superuser, "SELECT count(*) FROM two_factor_secrets") == [(0,)]


def test_support_command_turns_it_off_ends_sessions_and_is_recorded(
    app: Flask, client: FlaskClient, alice: User, phone: Authenticator, superuser: Any
) -> None:
    command = ["users", "reset-two-factor", alice.email, "--reason", "ticket 4711: lost phone"]
    assert app.test_cli_runner().invoke(args=command).exit_code == 0
    assert client.get("/api/v1/auth/me", headers=alice.headers).status_code == 401
    assert log_in(client) == SIGNED_IN
    assert len(audit_events(superuser, "user.two_factor_reset")) >= 1
    assert "Support turned it off" in mail_texts(superuser, "security_notice")[-1]
    assert app.test_cli_runner().invoke(args=command).exit_code == 0
    assert len(mail_texts(superuser, "security_notice")) == 2, "turned on, turned off by support"


def test_recovery_code_works_where_the_secret_key_of_before_is_gone(
    client: FlaskClient, phone: Authenticator, context: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(context.config, "SECRET_KEY", "n" * 32)
    assert log_in(client, code=phone.code()) == (401, "INVALID_TWO_FACTOR_CODE")
    assert doctor.check_secret_key().state == FAIL
    assert log_in(client, code=phone.recovery_codes[0]) == SIGNED_IN


def test_form_that_was_sent_after_the_session_had_ended_comes_back_after_the_code(
    app: Flask, alice: User, phone: Authenticator
) -> None:
    resumed = {"resume_address": "/dashboard/account", "resume_fields": '[["full_name", "Alice B"]]'}
    browser = Browser(app)
    fields = {**browser.form("/login"), **resumed, "email": alice.email, "password": PASSWORD}
    form = form_of(browser.send("/login", fields), "/login/code")
    entered = browser.send("/login/code", {**form, "code": phone.code()})
    assert (entered.status_code, "Alice B" in entered.text) == (200, True)


def test_secret_is_read_under_a_new_secret_key_after_reencryption(
    app: Flask, client: FlaskClient, phone: Authenticator, context: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = "n" * 32
    monkeypatch.setitem(context.config, "SECRET_KEY", f"{new},{context.config['SECRET_KEY']}")
    assert authenticators.count_by_secret_key() == {1: 1}
    assert context.test_cli_runner().invoke(args=["secrets", "reencrypt"]).exit_code == 0
    assert authenticators.count_by_secret_key() == {0: 1}
    monkeypatch.setitem(context.config, "SECRET_KEY", new)
    assert log_in(client, code=phone.code()) == SIGNED_IN
