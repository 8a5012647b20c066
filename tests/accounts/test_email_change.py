"""Change of a user's email address: by the link that was mailed to the new one, once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from saas_api.accounts import email_changes, operators, throttles, users
from saas_api.accounts.audit import Actor
from saas_api.core import crypto
from saas_api.core.db import tenancy
from tests.support.account_mails import (
    NEW_PASSWORD,
    audit_events,
    error_of,
    execute,
    expire_links,
    mail_texts,
    mailed_tokens,
    post_auth,
)
from tests.support.accounts import PASSWORD, User, sign_up
from tests.support.pages import Browser

ACCOUNT, FORM, LINK = "/dashboard/account", "/dashboard/account/email", "/confirm-email"
NEW = "alice@new.example"


def request_change(app: Flask, user: User, email: str = NEW) -> TestResponse:
    return Browser(app, user).submit(FORM, email=email)


def change_token(app: Flask, user: User, superuser: Any, email: str = NEW) -> str:
    """Request a change and return the token that was mailed."""
    assert request_change(app, user, email).status_code == 303
    return mailed_tokens(superuser, "change_email", email)[-1]


def confirm(app: Flask, token: str) -> TestResponse:
    return Browser(app).submit(f"{LINK}?token={token}", LINK)


def addresses(superuser: Any) -> list[str]:
    return [email for (email,) in execute(superuser, "SELECT email FROM users ORDER BY email")]


def test_link_changes_the_address_and_both_addresses_know(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    execute(superuser, "UPDATE users SET email_verified_at = now()")
    token = change_token(app, alice, superuser, " Alice@New.example ".strip())
    assert addresses(superuser) == [alice.email], "not before the link is opened"
    assert NEW in Browser(app, alice).open(ACCOUNT).text
    assert "when the link sent to the new address is opened" in mail_texts(superuser, "security_notice")[-1]
    assert confirm(app, token).location == "/login"
    assert addresses(superuser) == [NEW]
    assert f"has the address {NEW} now" in mail_texts(superuser, "security_notice")[-1]
    assert error_of(post_auth(client, "/login", email=alice.email, password=PASSWORD)) == (401, "INVALID_CREDENTIALS")
    assert post_auth(client, "/login", email=NEW, password=PASSWORD).status_code == 200
    assert client.get("/api/v1/auth/me", headers=alice.headers).json["data"]["user"]["email_verified"] is True
    for action in ("user.email_change_requested", "user.email_changed"):
        assert len(audit_events(superuser, action)) == 1


def test_link_works_once_expires_and_is_replaced_by_the_next(app: Flask, alice: User, superuser: Any) -> None:
    first = change_token(app, alice, superuser)
    [(digest,)] = execute(superuser, "SELECT digest FROM email_changes")
    assert bytes(digest) == crypto.sha256(first)
    second = change_token(app, alice, superuser, "alice@other.example")
    assert confirm(app, first).status_code == 400
    expire_links(superuser, "email_changes")
    assert confirm(app, second).status_code == 400
    third = change_token(app, alice, superuser)
    assert [confirm(app, third).status_code for _ in range(2)] == [303, 400]
    assert confirm(app, "x").status_code == 400
    assert addresses(superuser) == [NEW]


def test_change_asks_for_the_password(app: Flask, client: FlaskClient, alice: User, superuser: Any) -> None:
    data = post_auth(client, "/refresh", refresh_token=alice.refresh_token).json["data"]
    old = User(alice.email, alice.user_id, alice.organization_id, "owner", data["token"], data["refresh_token"], client)
    refused = request_change(app, old)
    assert (refused.status_code, "Enter your password to go on." in refused.text) == (422, True)
    assert execute(superuser, "SELECT count(*) FROM email_changes") == [(0,)]
    assert Browser(app, old).submit(FORM, email=NEW, confirm_password=PASSWORD).status_code == 303


@pytest.mark.parametrize(("email", "reason"), [("alice@acme.example", "already"), ("nobody", "email")])
def test_own_and_malformed_addresses_are_refused(app: Flask, alice: User, email: str, reason: str) -> None:
    refused = request_change(app, alice, email)
    assert refused.status_code == 422
    assert reason in refused.text


def test_address_of_another_account_is_refused(app: Flask, alice: User, carol: User, superuser: Any) -> None:
    refused = request_change(app, alice, carol.email)
    assert (refused.status_code, "There is an account with this email address." in refused.text) == (409, True)
    assert mail_texts(superuser, "change_email", carol.email) == []


def test_links_to_new_addresses_are_limited_and_refused_requests_are_not_counted(
    app: Flask, alice: User, carol: User
) -> None:
    for _ in range(throttles.VERIFICATION_EMAILS_PER_HOUR):
        assert request_change(app, alice, carol.email).status_code == 409
        assert request_change(app, alice).status_code == 303
    assert request_change(app, alice).status_code == 429


def test_address_that_two_users_confirm_at_once_is_that_of_one(
    app: Flask, alice: User, carol: User, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [change_token(app, user, superuser) for user in (alice, carol)]
    barrier, consume = threading.Barrier(2), email_changes.consume

    def consume_and_wait(*arguments: Any) -> str:
        address = consume(*arguments)
        barrier.wait(10)  # neither has written the address
        return address

    monkeypatch.setattr(email_changes, "consume", consume_and_wait)
    with ThreadPoolExecutor(2) as pool:
        statuses = sorted(response.status_code for response in pool.map(lambda token: confirm(app, token), tokens))
    assert statuses == [303, 409]
    assert addresses(superuser).count(NEW) == 1
    assert execute(superuser, "SELECT count(*) FROM email_changes") == [(1,)], "the refused link stays"


def test_address_that_somebody_signs_up_with_meanwhile_is_not_taken_from_them(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    token = change_token(app, alice, superuser)
    sign_up(client, NEW, "Other")
    refused = confirm(app, token)
    assert (refused.status_code, "There is an account with this email address." in refused.text) == (409, True)
    assert addresses(superuser) == [alice.email, NEW]


def test_links_that_were_mailed_to_the_address_of_before_end(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    assert post_auth(client, "/request-password-reset", email=alice.email).status_code == 200
    [reset], [verification] = mailed_tokens(superuser, "reset_password"), mailed_tokens(superuser, "verify_email")
    assert confirm(app, change_token(app, alice, superuser)).status_code == 303
    assert error_of(post_auth(client, "/reset-password", token=reset, new_password=NEW_PASSWORD))[0] == 400
    assert error_of(post_auth(client, "/verify-email", token=verification))[0] == 400


def test_change_ends_with_the_password_with_the_account_and_by_its_user(
    app: Flask, client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    """Whoever knew the old password may have requested it."""
    by_user = change_token(app, carol, superuser, "carol@new.example")
    assert Browser(app, carol).submit(ACCOUNT, f"{FORM}/cancel").status_code == 303
    by_password = change_token(app, alice, superuser)
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert post_auth(client, "/change-password", alice, **change).status_code == 200
    by_operator = change_token(app, carol, superuser, "carol@new.example")
    execute(superuser, "UPDATE users SET email_verified_at = now()")
    with app.app_context(), tenancy.system_session("operator.command") as session:
        operators.appoint_operator(session, carol.email, "admin", Actor("system"), is_existing_allowed=True)
    assert [confirm(app, token).status_code for token in (by_user, by_password, by_operator)] == [400, 400, 400]
    assert addresses(superuser) == [alice.email, carol.email]


def test_disabled_user_cannot_confirm_a_change(app: Flask, alice: User, superuser: Any) -> None:
    token = change_token(app, alice, superuser)
    with app.app_context(), tenancy.system_session("auth.account") as session:
        user = users.find_by_email(session, alice.email)
        assert user is not None
        users.disable_user(session, user)
    assert confirm(app, token).status_code == 400
    assert addresses(superuser) == [alice.email]
