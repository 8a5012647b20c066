"""Pages about API keys.

| page | permission |
|---|---|
| list, one key | keys:read, in every role |
| create | keys:create: owner, admin, member; a live key also a recent password |
| update, rotate, revoke | keys:write: owner, admin; rotation and revocation also a recent password |
"""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import User, make_key
from tests.support.key_pages import KEYS, NEW, get_only_key, list_keys
from tests.support.pages import Browser, check_access
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements
from tests.support.usage import UsageOrganization, sign_up_organization

PAGES = {
    "GET /dashboard/api-keys": "keys:read",
    "GET /dashboard/api-keys/new": "keys:create",
    "GET /dashboard/api-keys/{key}": "keys:read",
    "GET /dashboard/api-keys/{key}/edit": "keys:write",
    "GET /dashboard/api-keys/{key}/roll": "keys:write",
    "GET /dashboard/api-keys/{key}/revoke": "keys:write",
}
WRITES = ("edit", "roll", "end-old", "revoke")


def test_pages_require_their_permission(app: Flask, client: FlaskClient, alice: User) -> None:
    make_key(client, alice)
    key_id = get_only_key(client, alice)["id"]
    check_access(app, client, alice, {name.format(key=key_id): permission for name, permission in PAGES.items()})


def test_keys_are_not_found_by_another_organization(app: Flask, client: FlaskClient, alice: User, carol: User) -> None:
    make_key(client, alice, name="Secret project")
    key_id, carol_browser = get_only_key(client, alice)["id"], Browser(app, carol)
    token = carol_browser.form(NEW)["csrf_token"]
    for path in ("", "/edit", "/roll", "/revoke"):
        response = carol_browser.open(f"{KEYS}/{key_id}{path}")
        assert (response.status_code, "Secret project" in response.text) == (404, False), path
    for path in WRITES:
        fields = {"csrf_token": token, "name": "x", "scopes": "usage:read", "confirm": "Secret project"}
        fields["form_key"] = carol_browser.form(NEW)["form_key"]
        assert carol_browser.send(f"{KEYS}/{key_id}/{path}", fields).status_code == 404, path
    assert get_only_key(client, alice)["status"] == "active"
    assert "Secret project" not in carol_browser.open(KEYS).text


@pytest.mark.parametrize("path", [NEW, *(f"{KEYS}/{{key}}/{path}" for path in WRITES)])
def test_form_from_another_origin_is_rejected(browser: Browser, client: FlaskClient, alice: User, path: str) -> None:
    make_key(client, alice)
    key = get_only_key(client, alice)
    response = browser.send(path.format(key=key["id"]), {"name": "x", "confirm": key["name"], "scopes": "usage:read"})
    assert response.status_code == 400
    assert get_only_key(client, alice) == key


def test_empty_list_offers_to_create_a_key(browser: Browser) -> None:
    response = browser.open(KEYS)
    assert "Create your first key" in response.text
    assert "<table" not in response.text


def test_key_page_says_what_was_done_with_the_key(browser: Browser, client: FlaskClient, alice: User) -> None:
    make_key(client, alice, name="Production")
    page = browser.open(f"{KEYS}/{get_only_key(client, alice)['id']}").text
    assert re.search(r"<b>.*alice@acme\.example.*</b> created API key <b>.*Production.*</b>", page)


def test_member_sees_only_permitted_buttons(app: Flask, client: FlaskClient, alice: User, bob: User) -> None:
    make_key(client, alice)
    page = Browser(app, bob).open(f"{KEYS}/{get_only_key(client, alice)['id']}").text
    assert not any(word in page for word in ("/revoke", "/roll", "/edit", "Activity of this key"))
    assert NEW in Browser(app, bob).open(KEYS).text


def test_filters_apply_and_an_invalid_one_is_reported(browser: Browser, client: FlaskClient, alice: User) -> None:
    make_key(client, alice, name="Real one")
    make_key(client, alice, name="Trial one", mode="test")
    page = browser.open(f"{KEYS}?mode=test&status=active").text
    assert ("Trial one" in page, "Real one" in page) == (True, False)
    assert "No keys match these filters" in browser.open(f"{KEYS}?status=revoked").text
    for bad in ("mode=both", "status=gone"):
        response = browser.open(f"{KEYS}?{bad}")
        assert (response.status_code, "Must be one of" in response.text) == (422, True)
    assert browser.open(f"{KEYS}?cursor=nonsense").status_code == 422


def test_list_in_test_mode_has_test_keys(browser: Browser, client: FlaskClient, alice: User) -> None:
    """G3: the list showed the live keys under the words "Test data"."""
    make_key(client, alice, name="Live key")
    make_key(client, alice, name="Trial key", mode="test")
    assert "Live key" in browser.open(KEYS).text
    browser.client.set_cookie("mode", "test")
    page = browser.open(KEYS).text
    assert ("Live key" in page, "Trial key" in page, "<strong>Test data.</strong>" in page) == (False, True, True)
    page = browser.open(f"{KEYS}?mode=live").text
    assert ("Live key" in page, "Trial key" in page, "<strong>Test data.</strong>" in page) == (True, False, False)


def test_older_keys_are_on_the_next_page(browser: Browser, client: FlaskClient, alice: User) -> None:
    for n in range(26):
        make_key(client, alice, name=f"Key number {n:02}")
    first = browser.open(KEYS).text
    assert first.count("<tr>") == 26
    assert "Key number 00" not in first
    older = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
    second = browser.open(older.replace("&amp;", "&")).text
    assert "Key number 00" in second
    assert second.count("<tr>") == 2


def test_figures_equal_the_api(app: Flask, client: FlaskClient) -> None:
    organization = sign_up_organization(client)
    organization.make_key("busy")
    organization.make_key("idle")
    organization.open_period(clock.now())
    organization.use(3, key="busy")
    organization.use(2, key="busy")
    organization.refuse("failed", times=2, key="busy")
    organization.refuse("rate_limited", key="busy")
    counts = {key["name"]: key["requests_30d"] for key in organization.get("/dashboard/api-keys")["api_keys"]}
    assert counts == {"busy": 5, "idle": 0}
    browser = _owner(app, organization)
    rows = browser.open(KEYS).text.split("<tr>")
    for name, count in counts.items():
        (row,) = [row for row in rows if f">{name}</bdi></a>" in row]
        assert f"<span>{count}</span>" in row
        heights = [float(height) for height in re.findall(r'<rect [^>]*height="([^"]+)"', row)]
        assert heights == ([1.0] * 29 + [47.0] if count else [])
    detail = re.sub(r"</?a\b[^>]*>", "", browser.open(f"{KEYS}/key_{organization.keys['busy'].hex}").text)
    for label, value in {"Requests": 5, "Accepted": 2, "Rejected": 2, "Rate limited": 1}.items():
        assert f'<p class="stat-label">{label}</p><p class="stat-value">{value}</p>' in detail
    assert "POST /api/v1/messages/send" in detail
    assert "<dd>5</dd>" in browser.open(f"{KEYS}/key_{organization.keys['busy'].hex}/revoke").text


def _owner(app: Flask, organization: UsageOrganization) -> Browser:
    return Browser(app, organization.owner)


@pytest.mark.parametrize("path", ["", "/new", "/{key}", "/{key}/roll", "/{key}/revoke"])
def test_page_takes_few_statements(app: Flask, browser: Browser, client: FlaskClient, alice: User, path: str) -> None:
    make_key(client, alice)
    make_key(client, alice, mode="test")
    page_path = f"{KEYS}{path}".format(key=list_keys(client, alice)[0]["id"])
    browser.open(page_path)
    with count_statements(app) as statements:
        browser.open(page_path)
    assert 0 < len(statements) <= MAX_PAGE_STATEMENTS, "\n".join(statements)
