"""Users at the console: search, page, sessions, password reset."""

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import User
from tests.support.console import IN_BOTH_LOGS, REASON, audit_log, execute_sql, open_console

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
    assert "1 live session" in text
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
