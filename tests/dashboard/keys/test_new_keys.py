"""Creation of keys on the pages: validation, the secret that is displayed once, and examples that run."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from saas_api.core import clock
from saas_api.services import services
from tests.support.accounts import PASSWORD, User
from tests.support.key_pages import (
    KEYS,
    NEW,
    PreTexts,
    create_live_key,
    displayed_secret,
    get_only_key,
    list_keys,
    refresh_session,
)
from tests.support.pages import Browser, form_of
from tests.support.services import change_service, create_service


def test_key_is_created_as_requested_and_shown_once(browser: Browser, client: FlaskClient, alice: User) -> None:
    fields = {
        "name": "Order <service>",
        "expiry": "30",
        "preset": "read",
        "allowed_ips": "203.0.113.0/24\n2001:db8::/32",
        "rate_limit_per_minute": "7",
    }
    response = create_live_key(browser, **fields)
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    assert "<dialog" in response.text
    assert 'data-guard="You have not copied the key"' in response.text
    assert "Order &lt;service&gt;" in response.text
    secret, key = displayed_secret(response), get_only_key(client, alice)
    assert secret.startswith(key["prefix"])
    assert secret.endswith(key["last_four"])
    assert (key["name"], key["mode"], key["scopes"]) == (
        "Order <service>",
        "live",
        ["messages:read", "usage:read"],
    )
    assert (key["allowed_ips"], key["rate_limit_per_minute"]) == (["203.0.113.0/24", "2001:db8::/32"], 7)
    left = datetime.fromisoformat(key["expires_at"]) - clock.now()
    assert timedelta(days=30) - timedelta(minutes=2) < left <= timedelta(days=30)
    for path in (KEYS, f"{KEYS}/{key['id']}"):
        assert secret not in browser.open(path).text


@pytest.mark.parametrize(
    ("preset", "chosen", "scopes"),
    [
        ("all", [], ["messages:read", "messages:write", "usage:read"]),
        ("send", ["usage:read"], ["messages:write"]),
        ("own", ["usage:read"], ["usage:read"]),
    ],
)
def test_presets_stand_for_scopes(
    browser: Browser, client: FlaskClient, alice: User, preset: str, chosen: list[str], scopes: list[str]
) -> None:
    assert browser.submit(NEW, name="k", preset=preset, scopes=chosen).status_code == 200
    assert get_only_key(client, alice)["scopes"] == scopes


def test_form_offers_scopes_of_services_by_service(
    app: Flask, browser: Browser, client: FlaskClient, alice: User
) -> None:
    create_service(app, scopes=["lookups:export"])
    page = browser.open(NEW).text
    headings = re.findall(r'class="check-heading"[^>]*>([^<]+)<', page)
    assert headings == ["messages", "usage", "lookups"]
    assert browser.submit(NEW, name="k", preset="own", scopes=["lookups:export"]).status_code == 200
    assert get_only_key(client, alice)["scopes"] == ["lookups:export"]
    change_service(app, services.revoke_service, "lookups")
    assert "lookups" not in browser.open(NEW).text
    edit = f"{KEYS}/{get_only_key(client, alice)['id']}/edit"
    assert "No longer offered" in browser.open(edit).text
    assert browser.submit(edit, name="renamed").status_code == 303
    assert get_only_key(client, alice)["scopes"] == ["lookups:export"]


def test_full_access_is_shown_and_kept_by_a_change(browser: Browser, client: FlaskClient, alice: User) -> None:
    browser.submit(NEW, name="k")
    key = get_only_key(client, alice)
    assert (key["has_full_access"], "Full access" in browser.open(KEYS).text) == (True, True)
    assert "including services added later" in browser.open(f"{KEYS}/{key['id']}").text
    edit = f"{KEYS}/{key['id']}/edit"
    assert browser.submit(edit, name="renamed").status_code == 303
    assert get_only_key(client, alice)["has_full_access"] is True
    assert browser.submit(edit, access="own", scopes=["usage:read"]).status_code == 303
    assert get_only_key(client, alice)["has_full_access"] is False


def test_key_expires_at_the_end_of_a_local_day(browser: Browser, client: FlaskClient, alice: User) -> None:
    changed = client.patch("/api/v1/organization", json={"timezone": "Asia/Tokyo"}, headers=alice.headers)
    assert changed.status_code == 200, changed.json
    assert browser.submit(NEW, name="k", expiry="date", expires_on="2031-05-06").status_code == 200
    assert get_only_key(client, alice)["expires_at"] == "2031-05-06T15:00:00.000Z"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "Fill this in."),
        ({"expiry": "date"}, "Choose the day on which the key expires."),
        ({"expiry": "date", "expires_on": "2020-01-01"}, "This day is in the past."),
        ({"expiry": "date", "expires_on": "9999-12-31"}, "Choose an earlier date."),
        ({"expiry": "7"}, "Must be one of"),
        ({"preset": "own"}, "Choose at least one scope."),
        ({"preset": "own", "scopes": ["admin"]}, "Must be one of"),
        ({"allowed_ips": "203.0.113.7\nhome"}, "Not an address or a network"),
        ({"allowed_ips": "\n".join(f"203.0.113.{host}" for host in range(51))}, "Longer than maximum length 50."),
        ({"rate_limit_per_minute": "ten"}, "Not a whole number."),
        ({"rate_limit_per_minute": "61"}, "Your plan allows at most 60 requests per minute."),
    ],
)
def test_rejected_form_shows_errors_and_keeps_its_values(
    browser: Browser, client: FlaskClient, alice: User, changes: dict[str, Any], message: str
) -> None:
    response = browser.submit(NEW, **{"name": "Mine & yours", "mode": "test", "allowed_ips": "10.0.0.0/8", **changes})
    assert response.status_code == 422
    assert message in response.text
    form = form_of(response, NEW)
    assert form["name"] == ([changes["name"]] if "name" in changes else ["Mine & yours"])
    assert form["allowed_ips"] == [changes.get("allowed_ips", "10.0.0.0/8")]
    assert form.get("scopes", []) == [scope for scope in changes.get("scopes", []) if ":" in scope]
    assert list_keys(client, alice) == []


def test_form_submitted_twice_creates_one_key(browser: Browser, client: FlaskClient, alice: User) -> None:
    fields = {**browser.form(NEW), "name": "k"}
    first, second = browser.send(NEW, fields), browser.send(NEW, fields)
    assert (first.status_code, second.status_code) == (200, 200)
    assert displayed_secret(first) == displayed_secret(second)
    assert len(list_keys(client, alice)) == 1
    assert browser.send(NEW, {**fields, "name": "another"}).status_code == 422
    assert len(list_keys(client, alice)) == 1


def test_live_key_requires_a_recent_password(app: Flask, client: FlaskClient, alice: User) -> None:
    user = refresh_session(client, alice)
    browser = Browser(app, user)
    refused = browser.submit(NEW, name="mine", mode="live")
    assert (refused.status_code, form_of(refused, NEW)["name"]) == (422, ["mine"])
    assert "Enter your password to go on." in refused.text
    assert "The password is wrong." in browser.submit(NEW, name="k", mode="live", confirm_password="guess").text
    assert list_keys(client, user) == []
    assert browser.submit(NEW, name="tried", mode="test").status_code == 200
    assert browser.open(f"{NEW}?mode=live").status_code == 200
    assert create_live_key(browser, name="real", confirm_password=PASSWORD).status_code == 200
    assert {(key["name"], key["mode"]) for key in list_keys(client, user)} == {("tried", "test"), ("real", "live")}


def test_live_key_is_created_once_it_is_confirmed(browser: Browser, client: FlaskClient, alice: User) -> None:
    choices = {"name": "Shop", "preset": "own", "scopes": ["usage:read", "messages:read"], "allowed_ips": "10.0.0.0/8"}
    asked = browser.submit(NEW, mode="live", **choices)
    assert "Calls with a live key count toward your usage and are billed." in asked.text
    assert all(text in asked.text for text in ("Shop", "usage:read", "10.0.0.0/8"))
    assert list_keys(client, alice) == []
    fields = form_of(asked, NEW)
    first, second = browser.send(NEW, fields), browser.send(NEW, fields)
    assert displayed_secret(first) == displayed_secret(second)
    key = get_only_key(client, alice)
    assert (key["name"], key["mode"], key["scopes"]) == ("Shop", "live", ["messages:read", "usage:read"])
    assert key["allowed_ips"] == ["10.0.0.0/8"]
    wrong = browser.submit(NEW, mode="live", name="k", preset="own", scopes=["admin"])
    assert (wrong.status_code, "Must be one of" in wrong.text) == (422, True)


def test_live_key_requires_a_verified_address_if_configured(
    app: Flask, browser: Browser, client: FlaskClient, alice: User
) -> None:
    app.config["REQUIRE_VERIFIED_EMAIL"] = True
    try:
        response = browser.submit(NEW, name="k", mode="live")
    finally:
        app.config["REQUIRE_VERIFIED_EMAIL"] = False
    assert response.status_code == 403
    assert "Verify your email address first." in response.text
    assert list_keys(client, alice) == []


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    """The application on a port, for programs that are not tests."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("preset", ["all", "read"])
@pytest.mark.parametrize("program", ["curl", "python"])
def test_curl_line_of_the_dialog_works(
    app: Flask, browser: Browser, client: FlaskClient, alice: User, address: str, program: str, preset: str
) -> None:
    app_url = app.config["APP_URL"]
    app.config["APP_URL"] = address
    try:
        texts = PreTexts(browser.submit(NEW, name="k", mode="test", preset=preset).text).texts
    finally:
        app.config["APP_URL"] = app_url
    curl, python = texts[1], texts[2]
    command = ["/bin/sh", "-c", curl] if program == "curl" else [sys.executable, "-c", python]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "success" in ran.stdout
    assert "True" in ran.stdout or "true" in ran.stdout
    sent = client.get("/api/v1/messages", headers=alice.headers).json["data"]["messages"]
    assert len(sent) == (1 if preset == "all" else 0)
