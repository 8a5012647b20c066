"""Changing, rolling and revoking keys at the pages: it acts on the next request."""

from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import PASSWORD, Person, make_key
from tests.support.key_pages import KEYS, NEW, get_only_key, refresh_session, shown_secret, usage_status
from tests.support.pages import Browser, form_of


def test_rotated_key_has_two_secrets_until_the_old_one_is_revoked(
    browser: Browser, client: FlaskClient, alice: Person
) -> None:
    old = make_key(client, alice)["X-API-Key"]
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    new = shown_secret(browser.submit(f"{there}/roll", grace_seconds="3600"))
    assert (usage_status(client, old), usage_status(client, new)) == (200, 200)
    shown = browser.open(there).text
    assert old[-4:] in shown
    assert new[-4:] in shown
    assert "End the old one first." in browser.open(f"{there}/roll").text
    ended = browser.submit(there, f"{there}/end-old")
    assert (ended.status_code, ended.location) == (303, there)
    assert (usage_status(client, old), usage_status(client, new)) == (401, 200)
    assert "End the old one now" not in browser.open(there).text


def test_rotation_without_grace_rejects_the_old_secret(browser: Browser, client: FlaskClient, alice: Person) -> None:
    old = make_key(client, alice)["X-API-Key"]
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    answer = browser.submit(f"{there}/roll", grace_seconds="0")
    assert "The old secret has ended" in answer.text
    assert (usage_status(client, old), usage_status(client, shown_secret(answer))) == (401, 200)


def test_rotation_form_accepts_the_grace_periods_of_the_api(
    browser: Browser, client: FlaskClient, alice: Person
) -> None:
    """7.5: the form is the API's body, so no choice of its own is checked besides."""
    make_key(client, alice)
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    for grace, reason in (("604801", "less than or equal to 604800"), ("soon", "Not a whole number.")):
        refused = browser.submit(f"{there}/roll", grace_seconds=grace)
        assert (refused.status_code, reason in refused.text) == (422, True)
    assert browser.submit(f"{there}/roll", grace_seconds="7200").status_code == 200


def test_second_rotation_requires_the_end_of_the_old_secret(
    browser: Browser, client: FlaskClient, alice: Person
) -> None:
    make_key(client, alice)
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    fields = browser.form(f"{there}/roll")
    assert browser.submit(f"{there}/roll").status_code == 200
    again = browser.send(f"{there}/roll", {**fields, "form_key": browser.form(NEW)["form_key"]})
    assert again.status_code == 409
    assert "still valid" in again.text


def test_rotation_and_revocation_require_a_recent_password(app: Flask, client: FlaskClient, alice: Person) -> None:
    key = make_key(client, alice)["X-API-Key"]
    person = refresh_session(client, alice)
    browser, there = Browser(app, person), f"{KEYS}/{get_only_key(client, person)['id']}"
    assert browser.submit(f"{there}/roll").status_code == 422
    assert browser.submit(f"{there}/revoke", confirm="key").status_code == 422
    assert usage_status(client, key) == 200
    assert browser.submit(f"{there}/revoke", confirm="key", confirm_password=PASSWORD).status_code == 303
    assert usage_status(client, key) == 401


def test_key_is_revoked_after_confirmation(browser: Browser, client: FlaskClient, alice: Person) -> None:
    key = make_key(client, alice, name="Old shop")["X-API-Key"]
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    assert usage_status(client, key) == 200
    assert "Requests, last 24 hours" in browser.open(f"{there}/revoke").text
    wrong = browser.submit(f"{there}/revoke", confirm="old shop")
    assert (wrong.status_code, form_of(wrong, f"{there}/revoke")["confirm"]) == (422, ["old shop"])
    assert usage_status(client, key) == 200
    assert browser.submit(f"{there}/revoke", confirm="Old shop").status_code == 303
    assert usage_status(client, key) == 401
    assert "Revoke the key" not in browser.open(f"{there}/revoke").text
    assert "/roll" not in browser.open(there).text


def test_key_update_applies_at_once_and_is_audited(browser: Browser, client: FlaskClient, alice: Person) -> None:
    key = make_key(client, alice)["X-API-Key"]
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    refused = browser.submit(f"{there}/edit", scopes=[], name="kept")
    assert (refused.status_code, form_of(refused, f"{there}/edit")["name"]) == (422, ["kept"])
    assert browser.submit(f"{there}/edit", name="New name", scopes=["messages:read"]).status_code == 303
    assert usage_status(client, key) == 403
    shown = browser.open(there).text
    assert "New name" in shown
    assert "Changed" in shown
    assert "alice@acme.example" in shown


def test_unchanged_rate_limit_above_the_plan_is_kept(browser: Browser, client: FlaskClient, alice: Person) -> None:
    make_key(client, alice, rate_limit_per_minute=5000)
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    assert browser.submit(f"{there}/edit", name="x").status_code == 303
    assert get_only_key(client, alice)["rate_limit_per_minute"] == 5000
    assert browser.submit(f"{there}/edit", rate_limit_per_minute="4000").status_code == 422
