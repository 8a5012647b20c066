"""Update, rotation and revocation of keys on the pages apply to the next request."""

import re
from datetime import timedelta
from urllib.parse import urlencode

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import PASSWORD, User, create_key, make_key
from tests.support.key_pages import KEYS, NEW, displayed_secret, get_only_key, list_keys, refresh_session, usage_status
from tests.support.pages import Browser, form_of


def test_rotated_key_has_two_secrets_until_the_old_one_is_revoked(
    browser: Browser, client: FlaskClient, alice: User
) -> None:
    old = make_key(client, alice)["X-API-Key"]
    page_path = f"{KEYS}/{get_only_key(client, alice)['id']}"
    new = displayed_secret(browser.submit(f"{page_path}/roll", grace_seconds="3600"))
    assert (usage_status(client, old), usage_status(client, new)) == (200, 200)
    page = browser.open(page_path).text
    assert old[-4:] in page
    assert new[-4:] in page
    assert "Revoke the old one first." in browser.open(f"{page_path}/roll").text
    ended = browser.submit(page_path, f"{page_path}/end-old")
    assert (ended.status_code, ended.location) == (303, page_path)
    assert (usage_status(client, old), usage_status(client, new)) == (401, 200)
    assert "Revoke old secret" not in browser.open(page_path).text


def test_rotation_without_grace_rejects_the_old_secret(browser: Browser, client: FlaskClient, alice: User) -> None:
    old = make_key(client, alice)["X-API-Key"]
    page_path = f"{KEYS}/{get_only_key(client, alice)['id']}"
    response = browser.submit(f"{page_path}/roll", grace_seconds="0")
    assert "The old secret no longer works" in response.text
    assert (usage_status(client, old), usage_status(client, displayed_secret(response))) == (401, 200)


def test_rotation_form_accepts_the_grace_periods_of_the_api(browser: Browser, client: FlaskClient, alice: User) -> None:
    """7.5: the form is the API's body, so no choice of its own is checked besides."""
    make_key(client, alice)
    there = f"{KEYS}/{get_only_key(client, alice)['id']}"
    for grace, reason in (("604801", "less than or equal to 604800"), ("soon", "Not a whole number.")):
        refused = browser.submit(f"{there}/roll", grace_seconds=grace)
        assert (refused.status_code, reason in refused.text) == (422, True)
    assert browser.submit(f"{there}/roll", grace_seconds="7200").status_code == 200


def test_second_rotation_requires_the_end_of_the_old_secret(browser: Browser, client: FlaskClient, alice: User) -> None:
    make_key(client, alice)
    page_path = f"{KEYS}/{get_only_key(client, alice)['id']}"
    fields = browser.form(f"{page_path}/roll")
    assert browser.submit(f"{page_path}/roll").status_code == 200
    again = browser.send(f"{page_path}/roll", {**fields, "form_key": browser.form(NEW)["form_key"]})
    assert again.status_code == 409
    assert "still valid" in again.text


def test_rotation_and_revocation_require_a_recent_password(app: Flask, client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)["X-API-Key"]
    user = refresh_session(client, alice)
    browser, page_path = Browser(app, user), f"{KEYS}/{get_only_key(client, user)['id']}"
    assert browser.submit(f"{page_path}/roll").status_code == 422
    assert browser.submit(f"{page_path}/revoke", confirm="key").status_code == 422
    assert usage_status(client, key) == 200
    assert browser.submit(f"{page_path}/revoke", confirm="key", confirm_password=PASSWORD).status_code == 303
    assert usage_status(client, key) == 401


def test_key_is_revoked_after_confirmation(browser: Browser, client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice, name="Old shop")["X-API-Key"]
    page_path = f"{KEYS}/{get_only_key(client, alice)['id']}"
    assert usage_status(client, key) == 200
    assert "Requests, last 24 hours" in browser.open(f"{page_path}/revoke").text
    wrong = browser.submit(f"{page_path}/revoke", confirm="old shop")
    assert (wrong.status_code, form_of(wrong, f"{page_path}/revoke")["confirm"]) == (422, ["old shop"])
    assert usage_status(client, key) == 200
    assert browser.submit(f"{page_path}/revoke", confirm="Old shop").status_code == 303
    assert usage_status(client, key) == 401
    assert "Revoke key" not in browser.open(f"{page_path}/revoke").text
    assert "/roll" not in browser.open(page_path).text


def test_picked_keys_are_revoked_after_confirmation(app: Flask, client: FlaskClient, alice: User) -> None:
    secrets = [make_key(client, alice, name=f"Shop {n}")["X-API-Key"] for n in range(3)]
    other = make_key(client, alice, mode="test")["X-API-Key"]
    key_ids = [key["id"] for key in list_keys(client, alice)]
    browser = Browser(app, refresh_session(client, alice))
    picks = re.findall(r'name="ids" value="(key_[0-9a-f]{32})"', browser.open(KEYS).text)
    assert picks == key_ids[1:]
    confirm = f"{KEYS}/revoke?{urlencode([('ids', key_id) for key_id in (*picks[:2], key_ids[0])])}"
    page = browser.open(confirm).text
    assert [name in page for name in ("Shop 2", "Shop 1", "Shop 0", "Revoke 2 API keys")] == [True, True, False, True]
    assert browser.form(confirm)["ids"] == picks[:2], "a test key is not on a page of live keys"
    for changes in ({"typed": "Revoke 2 keys"}, {"typed": "revoke", "confirm_password": PASSWORD}):
        refused = browser.submit(confirm, **changes)
        assert (refused.status_code, form_of(refused, f"{KEYS}/revoke")["ids"]) == (422, picks[:2])
    changes = {"typed": "revoke 2 keys", "confirm_password": PASSWORD}
    done = browser.submit(confirm, **changes)
    assert (done.status_code, done.location) == (303, KEYS)
    page = browser.open(KEYS).text
    assert "2 keys revoked." in page
    assert re.findall(r'name="ids" value="([^"]+)"', page) == picks[2:], "a revoked key cannot be picked"
    assert [usage_status(client, secret) for secret in (*secrets, other)] == [200, 401, 401, 200]
    assert "No keys selected" in browser.open(f"{KEYS}/revoke?ids={picks[0]}&ids=nonsense").text


def test_key_that_was_revoked_meanwhile_is_named_when_picked_keys_are_revoked(
    browser: Browser, client: FlaskClient, alice: User
) -> None:
    for _ in range(2):
        make_key(client, alice)
    first, second = (key["id"] for key in list_keys(client, alice))
    fields = browser.form(f"{KEYS}/revoke?ids={first}&ids={second}") | {"typed": ["Revoke 2 keys"]}
    client.delete(f"/api/v1/keys/{first}", headers=alice.headers)
    assert browser.send(f"{KEYS}/revoke", fields).status_code == 303
    assert "1 key revoked. 1 key skipped" in browser.open(KEYS).text


def test_key_update_applies_at_once_and_is_audited(browser: Browser, client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)["X-API-Key"]
    page_path = f"{KEYS}/{get_only_key(client, alice)['id']}"
    refused = browser.submit(f"{page_path}/edit", access="own", scopes=[], name="kept")
    assert (refused.status_code, form_of(refused, f"{page_path}/edit")["name"]) == (422, ["kept"])
    assert (
        browser.submit(f"{page_path}/edit", name="New name", access="own", scopes=["messages:read"]).status_code == 303
    )
    assert usage_status(client, key) == 403
    page = browser.open(page_path).text
    assert "New name" in page
    assert "edited API key" in page
    assert "alice@acme.example" in page


def test_unchanged_rate_limit_above_the_plan_is_kept(browser: Browser, client: FlaskClient, alice: User) -> None:
    make_key(client, alice, rate_limit_per_minute=5000)
    page_path = f"{KEYS}/{get_only_key(client, alice)['id']}"
    assert browser.submit(f"{page_path}/edit", name="x").status_code == 303
    assert get_only_key(client, alice)["rate_limit_per_minute"] == 5000
    assert browser.submit(f"{page_path}/edit", rate_limit_per_minute="4000").status_code == 422


def test_last_day_of_a_key_is_changed_and_removed(browser: Browser, client: FlaskClient, alice: User) -> None:
    """A11: the expiry could not be changed."""
    end = clock.format_rfc3339(clock.now() + timedelta(days=30))
    key_id, _ = create_key(client, alice, expires_at=end)
    page = f"/dashboard/api-keys/{key_id}/edit"

    def expiry() -> str | None:
        return client.get(f"/api/v1/keys/{key_id}", headers=alice.headers).json["data"]["expires_at"]  # type: ignore[no-any-return]  # JSON

    assert browser.submit(page, name="x").status_code == 303
    assert expiry() == end  # an unchanged day keeps the hour
    assert browser.submit(page, expires_on="2020-01-01").status_code == 422
    assert browser.submit(page, expires_on="2100-01-31").status_code == 303
    assert expiry() == "2100-02-01T00:00:00.000Z"
    assert browser.submit(page, expires_on="").status_code == 303
    assert expiry() is None
