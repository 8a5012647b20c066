"""Live and test data: the switch, what stays in which mode, and what test mode never does.

Each section shows one mode, or says that it shows live data.
"""

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import Headers, User, make_key
from tests.support.billing_pages import page_text
from tests.support.key_pages import KEYS, list_keys
from tests.support.key_pages import NEW as NEW_KEY
from tests.support.message_pages import MESSAGES
from tests.support.message_pages import NEW as NEW_MESSAGE
from tests.support.messages import send_message
from tests.support.pages import Browser, Page
from tests.support.request_log import record_request

HOME, CLOSE = "/dashboard", "/dashboard/settings/close"


@pytest.fixture
def browser(app: Flask, alice: User) -> Browser:
    return Browser(app, alice)


@pytest.fixture
def trial(client: FlaskClient, alice: User) -> Headers:
    return make_key(client, alice, name="Trial key", mode="test")


def shown_mode(browser: Browser, path: str = HOME) -> str:
    """The mode that the switch of a page shows as chosen."""
    (mode,) = re.findall(r'name="mode" value="(\w+)" aria-pressed="true"', browser.open(path).text)
    return str(mode)


def test_switch_changes_the_pages_that_follow_and_returns_to_the_list(browser: Browser, alice: User) -> None:
    record = f"/dashboard/logs/{record_request(alice, 422)}"
    fields = [fields for action, fields in Page(browser.open(record).text).forms if action == "/preferences"][-1]
    response = browser.send("/preferences", {**fields, "mode": "test"})
    assert response.location == "/dashboard/logs"
    assert shown_mode(browser) == "test"
    assert browser.send("/preferences", {**fields, "mode": "live"}).status_code == 303
    assert shown_mode(browser) == "live"


def test_mode_in_the_address_of_a_page_stays(browser: Browser) -> None:
    """4.1: it applied to one request, and the next page showed the other mode."""
    assert shown_mode(browser, f"{MESSAGES}?mode=test") == "test"
    assert shown_mode(browser) == "test"
    assert browser.open(f"{MESSAGES}?mode=both").status_code == 422
    assert shown_mode(browser) == "test"


def test_poll_of_a_page_in_another_tab_switches_nothing(browser: Browser, client: FlaskClient, trial: Headers) -> None:
    message_id = send_message(client, trial)
    for path in (f"{MESSAGES}?mode=test&after=2026-01-01T00:00:00Z", f"{MESSAGES}/{message_id}"):
        assert browser.open(path, **{"HX-Request": "true"}).status_code in (200, 286)
        assert shown_mode(browser) == "live", path


def test_console_filter_does_not_switch_the_dashboard(browser: Browser) -> None:
    assert browser.open("/admin?mode=test").status_code == 404
    assert browser.open("/login?mode=test").headers.getlist("Set-Cookie") == []
    assert shown_mode(browser) == "live"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (HOME, "Test data."),
        (MESSAGES, "Test data."),
        (KEYS, "Test data."),
        ("/dashboard/usage", "Test data."),
        ("/dashboard/logs", "Test data."),
        ("/dashboard/webhooks", "Test data."),
        ("/dashboard/billing", "Live data."),
        ("/dashboard/team", "Live data."),
        ("/dashboard/audit-log", "Live data."),
        ("/dashboard/settings", "Live data."),
        ("/dashboard/account", "Live data."),
    ],
)
def test_page_says_in_test_mode_whose_data_it_shows(browser: Browser, path: str, words: str) -> None:
    browser.client.set_cookie("mode", "test")
    assert f"<strong>{words}</strong>" in browser.open(path).text
    assert "data.</strong>" not in browser.open(f"{path}?mode=live").text


def test_lists_have_the_objects_of_one_mode_and_no_filter_for_it(
    browser: Browser, client: FlaskClient, alice: User, trial: Headers
) -> None:
    """4.4: the list of keys showed both modes as live data."""
    make_key(client, alice, name="Shop key")
    send_message(client, trial)
    page = browser.open(KEYS).text
    assert ("Shop key" in page, "Trial key" in page) == (True, False)
    page = browser.open(f"{KEYS}?mode=test").text
    assert ("Shop key" in page, "Trial key" in page) == (False, True)
    for path in (KEYS, MESSAGES, "/dashboard/usage", "/dashboard/logs"):
        assert '<select id="f-mode"' not in browser.open(path).text, path


def test_page_of_an_object_switches_to_its_mode(
    browser: Browser, client: FlaskClient, alice: User, trial: Headers
) -> None:
    key_id = list_keys(client, alice)[0]["id"]
    for path in (f"{MESSAGES}/{send_message(client, trial)}", f"{KEYS}/{key_id}", f"{KEYS}/{key_id}/edit"):
        browser.client.set_cookie("mode", "live")
        page = page_text(browser.open(path))
        assert ("Test data." in page, "You're viewing test data." in page) == (True, True), path
        assert shown_mode(browser) == "test", path
    request = record_request(alice, 422)
    assert shown_mode(browser, f"/dashboard/logs/{request}") == "live"


def test_sending_a_test_message_from_live_data_switches_to_test_data(browser: Browser) -> None:
    """R13: its page was of the other mode, and the list that the user came from stayed empty."""
    assert "Test data." in page_text(browser.open(NEW_MESSAGE))
    assert shown_mode(browser) == "live"
    response = browser.submit(NEW_MESSAGE)
    page = page_text(browser.open(response.location))
    assert "Test message accepted. You're viewing test data." in page
    assert shown_mode(browser) == "test"
    page = page_text(browser.open(f"{MESSAGES}?mode=live"))
    assert "No live messages yet" in page
    assert "View 1 test message" in page


def test_live_key_is_never_created_in_test_mode(browser: Browser, client: FlaskClient, alice: User) -> None:
    browser.client.set_cookie("mode", "test")
    fields = {**browser.form(NEW_KEY), "name": "Smuggled"}
    assert fields["mode"] == ["test"]
    response = browser.send(NEW_KEY, {**fields, "mode": "live"})
    assert (response.status_code, "Switch to live data to create a live key." in response.text) == (422, True)
    assert list_keys(client, alice) == []
    assert browser.send(NEW_KEY, fields).status_code == 200
    assert [key["mode"] for key in list_keys(client, alice)] == ["test"]


@pytest.mark.parametrize("form", ["edit", "roll", "end-old", "revoke"])
def test_live_key_is_never_changed_in_test_mode(browser: Browser, client: FlaskClient, alice: User, form: str) -> None:
    make_key(client, alice, name="Shop key")
    (before,) = list_keys(client, alice)
    path = f"{KEYS}/{before['id']}"
    fields = browser.form(path if form == "end-old" else f"{path}/{form}", "/logout")
    browser.client.set_cookie("mode", "test")
    changes = {**fields, "page_mode": "test", "name": "Changed", "confirm": "Shop key", "form_key": ids.new_id().hex}
    assert browser.send(f"{path}/{form}", changes).status_code == 409
    assert list_keys(client, alice) == [before]


def test_new_key_is_a_test_key_unless_live_is_chosen(browser: Browser, client: FlaskClient, alice: User) -> None:
    """R12: the form of live data began with a key that charges."""
    fields = {**browser.form(NEW_KEY), "name": "First"}
    page = page_text(browser.send(NEW_KEY, fields))
    assert ("You're viewing test data." in page, "Copy your key now" in page) == (True, True)
    assert browser.send(NEW_KEY, fields).status_code == 200
    assert [key["mode"] for key in list_keys(client, alice)] == ["test"]
    assert "First" in browser.open(KEYS).text


def charging_forms(app: Flask) -> Iterator[str]:
    """Address of each form of billing, with unknown IDs, and of the one that closes the organization."""
    for rule in app.url_map.iter_rules():
        if "POST" in (rule.methods or ()) and rule.rule.startswith("/dashboard/billing"):
            built = rule.build({name: ids.new_id() for name in rule.arguments})
            assert built is not None, rule
            yield built[1]
    yield CLOSE


def test_nothing_charges_in_test_mode(app: Flask, browser: Browser, client: FlaskClient, alice: User) -> None:
    """4.5: an organization was closed, with its final invoice, below the words "Test data"."""
    fields = browser.form(CLOSE)
    browser.client.set_cookie("mode", "test")
    forms = list(charging_forms(app))
    assert len(forms) > 4
    values = {**fields, "page_mode": "test", "name": "Acme"}
    assert {path: browser.send(path, values).status_code for path in forms} == dict.fromkeys(forms, 409)
    assert 'action="/dashboard/settings/close"' not in browser.open(CLOSE).text
    organization = client.get("/api/v1/organization", headers=alice.headers).json["data"]["organization"]
    assert organization["status"] == "active"
