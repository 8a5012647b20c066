"""People at the console: found, and signed out everywhere."""

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import Person
from tests.support.console_audit import REASON, acts, desk, rows

LIST = "/admin/users"


def test_somebody_is_found_by_address_name_or_id(app: Flask, alice: Person, carol: Person, olga: Person) -> None:
    browser = desk(app, olga)
    for words in ("alice", "ALICE@acme.example", alice.user_id):
        text = browser.open(f"{LIST}?q={words}").text
        assert "alice@acme.example" in text, words
        assert "carol@carol.example" not in text, words
    assert "olga@platform.example" in browser.open(f"{LIST}?kind=operator").text
    assert "alice@acme.example" not in browser.open(f"{LIST}?kind=operator").text
    assert browser.open(f"{LIST}?kind=ghost").status_code == 422


def test_a_person_is_shown_with_organizations_and_sessions(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga)
    text = browser.open(f"{LIST}/{alice.user_id}").text
    assert "Acme" in text
    assert "1 live session" in text
    assert browser.open(f"{LIST}/{ids.format_id('usr', ids.new_id())}").status_code == 404


def test_ended_sessions_are_refused_on_the_next_request(
    app: Flask, client: FlaskClient, alice: Person, olga: Person
) -> None:
    browser = desk(app, olga)
    assert client.get("/api/v1/auth/me", headers=alice.headers).status_code == 200
    assert browser.submit(f"{LIST}/{alice.user_id}/end-sessions", reason="short").status_code == 422
    assert browser.submit(f"{LIST}/{alice.user_id}/end-sessions", reason=REASON).status_code == 303
    assert client.get("/api/v1/auth/me", headers=alice.headers).status_code == 401
    assert browser.open(LIST).status_code == 200
    expected = [("Acme", "operator", REASON), ("platform", "operator", REASON)]
    assert sorted(acts(app, "user.sessions_ended")) == expected


def test_support_sends_a_reset_mail(app: Flask, alice: Person, olga: Person) -> None:
    browser = desk(app, olga, "support")
    assert browser.submit(f"{LIST}/{alice.user_id}/reset-mail", reason=REASON).status_code == 303
    sent = rows(app, "SELECT recipient FROM mails WHERE template = 'reset_password'")
    assert sent == [("alice@acme.example",)]
    assert len(acts(app, "user.reset_requested")) == 2
    assert browser.open(f"{LIST}/{alice.user_id}/end-sessions").status_code == 404
