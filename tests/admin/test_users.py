"""Users at the console: search, page, sessions, password reset, and disabled accounts."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.accounts.operators import LastOperator
from saas_api.admin import users
from saas_api.core import ids
from tests.support.accounts import AUTH, PASSWORD, User, create_key, sign_up
from tests.support.console import IN_BOTH_LOGS, REASON, audit_log, execute_sql, open_console
from tests.support.two_factor import turn_on

LIST = "/admin/users"


def test_search_finds_users_by_address_or_id(app: Flask, alice: User, carol: User, olga: User) -> None:
    browser = open_console(app, olga)
    for query in ("alice", "ALICE@acme.example", alice.user_id):
        text = browser.open(f"{LIST}?q={query}").text
        assert "alice@acme.example" in text, query
        assert "carol@carol.example" not in text, query
    assert "olga@platform.example" in browser.open(f"{LIST}?kind=operator").text
    assert "alice@acme.example" not in browser.open(f"{LIST}?kind=operator").text
    assert browser.open(f"{LIST}?kind=ghost").status_code == 422


def test_user_page_shows_organizations_and_sessions(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga)
    text = browser.open(f"{LIST}/{alice.user_id}").text
    assert "Acme" in text
    assert "1 active session" in text
    assert browser.open(f"{LIST}/{ids.format_id('usr', ids.new_id())}").status_code == 404


def test_ended_sessions_are_rejected_on_the_next_request(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    browser = open_console(app, olga)
    assert client.get("/api/v1/auth/me", headers=alice.headers).status_code == 200
    assert browser.submit(f"{LIST}/{alice.user_id}/end-sessions", reason="short").status_code == 422
    assert browser.submit(f"{LIST}/{alice.user_id}/end-sessions", reason=REASON).status_code == 303
    assert client.get("/api/v1/auth/me", headers=alice.headers).status_code == 401
    assert browser.open(LIST).status_code == 200
    expected = IN_BOTH_LOGS
    assert sorted(audit_log(app, "user.sessions_ended")) == expected


def test_support_sends_a_password_reset(app: Flask, alice: User, olga: User) -> None:
    browser = open_console(app, olga, "support")
    assert browser.submit(f"{LIST}/{alice.user_id}/reset-mail", reason=REASON).status_code == 303
    sent = execute_sql(app, "SELECT recipient FROM mails WHERE template = 'reset_password'")
    assert sent == [("alice@acme.example",)]
    assert len(audit_log(app, "user.reset_requested")) == 2
    assert browser.open(f"{LIST}/{alice.user_id}/end-sessions").status_code == 404


def test_operator_turns_off_two_factor_sign_in_of_others_but_not_their_own(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    """Their own takes a code, also from whoever has their password and session."""
    for user in (alice, olga):
        turn_on(app, user)
    support = open_console(app, olga, "support")
    assert support.open(f"{LIST}/{alice.user_id}/reset-two-factor").status_code == 404
    browser = open_console(app, olga)
    assert "Turn off two-factor sign-in" in browser.open(f"{LIST}/{alice.user_id}").text
    own = browser.submit(f"{LIST}/{olga.user_id}/reset-two-factor", reason=REASON)
    assert (own.status_code, "ask another operator" in own.text) == (409, True)
    assert browser.submit(f"{LIST}/{alice.user_id}/reset-two-factor", reason=REASON).status_code == 303
    assert (sign_in_status(client, alice.email), sign_in_status(client, olga.email)) == (200, 403)
    assert sorted(audit_log(app, "user.two_factor_reset")) == IN_BOTH_LOGS


def sign_in_status(client: FlaskClient, email: str) -> int:
    return client.post(f"{AUTH}/login", json={"email": email, "password": PASSWORD}).status_code


def key_status(client: FlaskClient, key: dict[str, str]) -> int:
    return client.get("/api/v1/usage", headers=key).status_code


def flask(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["users", *arguments, "--reason", REASON])


def test_disabled_user_is_out_and_their_keys_are_revoked(
    app: Flask, client: FlaskClient, alice: User, bob: User, olga: User
) -> None:
    """R15: `users.disabled_at` was read everywhere and written nowhere."""
    _, own = create_key(client, bob, name="Bob's script")
    _, other = create_key(client, alice)
    browser, page = open_console(app, olga), f"{LIST}/{bob.user_id}"
    assert "Bob&#39;s script" in browser.read(f"{page}/disable")
    assert "1 API key revoked" in browser.run_action(f"{page}/disable")
    assert client.get(f"{AUTH}/me", headers=bob.headers).status_code == 401
    assert sign_in_status(client, bob.email) == 401
    assert (key_status(client, own), key_status(client, other)) == (401, 200)
    assert "Disabled" in browser.read(page)
    assert "bob@acme.example" in browser.read(f"{LIST}?kind=disabled")
    assert sorted(audit_log(app, "user.disabled")) == IN_BOTH_LOGS
    browser.run_action(f"{page}/enable")
    assert sign_in_status(client, bob.email) == 200
    assert key_status(client, own) == 401
    assert sorted(audit_log(app, "user.enabled")) == IN_BOTH_LOGS


def test_keys_of_a_disabled_user_may_be_kept(app: Flask, client: FlaskClient, bob: User, olga: User) -> None:
    _, key = create_key(client, bob)
    open_console(app, olga).run_action(f"{LIST}/{bob.user_id}/disable", keep_keys="true")
    assert sign_in_status(client, bob.email) == 401
    assert key_status(client, key) == 200


def test_commands_disable_and_enable_a_user(app: Flask, client: FlaskClient, bob: User) -> None:
    key_id, key = create_key(client, bob)
    disabled = flask(app, "disable", bob.email, "--json")
    assert json.loads(disabled.stdout) == {"id": bob.user_id, "is_disabled": True, "revoked_keys": [key_id]}
    assert (sign_in_status(client, bob.email), key_status(client, key)) == (401, 401)
    assert flask(app, "enable", bob.user_id).stdout == f"{bob.user_id} can sign in again.\n"
    assert sign_in_status(client, bob.email) == 200
    assert "There is no user" in flask(app, "disable", "ghost@acme.example").output


def test_mailed_links_of_a_disabled_user_do_not_work_afterwards(
    app: Flask, client: FlaskClient, bob: User, olga: User
) -> None:
    client.post(f"{AUTH}/request-password-reset", json={"email": bob.email})
    [row] = execute_sql(app, "SELECT text_body FROM mails WHERE template = 'reset_password'")
    token = row.text_body.partition("token=")[2].split()[0]
    browser = open_console(app, olga)
    browser.run_action(f"{LIST}/{bob.user_id}/disable")
    browser.run_action(f"{LIST}/{bob.user_id}/enable")
    response = client.post(f"{AUTH}/reset-password", json={"token": token, "new_password": "another fine battery"})
    assert response.status_code == 400


def test_operator_cannot_disable_themselves(app: Flask, olga: User) -> None:
    browser = open_console(app, olga)
    assert browser.submit_action(f"{LIST}/{olga.user_id}/disable").status_code == 409
    assert browser.open(LIST).status_code == 200


def test_last_admin_operator_cannot_be_disabled(app: Flask, client: FlaskClient, olga: User) -> None:
    open_console(app, olga)
    refused = flask(app, "disable", olga.email)
    assert (refused.exit_code, "last operator" in refused.output) == (1, True)
    open_console(app, sign_up(client, "support@platform.example", "Support"), "support")
    assert flask(app, "disable", olga.email).exit_code == 1
    open_console(app, sign_up(client, "oscar@platform.example", "Oscar"))
    assert flask(app, "disable", olga.email).exit_code == 0


def test_two_operators_who_disable_each_other_leave_one(app: Flask, client: FlaskClient, olga: User) -> None:
    oscar = sign_up(client, "oscar@platform.example", "Oscar")
    operators = [olga, oscar]
    for operator in operators:
        open_console(app, operator)

    def disable(actor: User, target: User) -> str:
        operator = OperatorContext(Actor("operator", str(ids.parse_id("usr", actor.user_id))), REASON)
        with app.app_context():
            try:
                users.disable_user(operator, ids.parse_id("usr", target.user_id), keep_keys=False)
            except LastOperator:
                return "refused"
            return "disabled"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(disable, operators, reversed(operators)))
    assert sorted(outcomes) == ["disabled", "refused"]
