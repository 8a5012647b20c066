"""What requires a password given within ten minutes, and the audiences of tokens."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import AUTH, PASSWORD, User, add_member, create_key
from tests.support.pages import Browser, as_page_token
from tests.support.team import audit_events

ME, REAUTHENTICATE = f"{AUTH}/me", f"{AUTH}/reauthenticate"
HOOK = "https://hooks.acme.example/in"
REQUIRED = (401, "FRESH_TOKEN_REQUIRED")


@pytest.fixture
def network(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints at names that do not resolve may be saved."""
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["0.0.0.0/0"])


def refreshed(user: User) -> User:
    """The user with tokens of a refresh, who is not recently authenticated."""
    body = {"refresh_token": user.refresh_token}
    data = user.client.post(f"{AUTH}/refresh", json=body).json["data"]  # type: ignore[index]  # a JSON response
    return replace(user, token=data["token"], refresh_token=data["refresh_token"])


def reauthenticated(user: User) -> User:
    status, data = user.call("POST", "/auth/reauthenticate", password=PASSWORD)
    assert status == 200
    return replace(user, token=data["token"])


def audited(user: User) -> list[str]:
    return [event["action"] for event in audit_events(user)]


def sensitive_calls(owner: User, member: User) -> list[tuple[str, str, dict[str, Any]]]:
    """Calls of an owner that require a recent password, in an order in which each works."""
    key, _ = create_key(owner.client, owner, name="live")
    other, _ = create_key(owner.client, owner, name="other")
    status, endpoint = owner.call("POST", "/webhooks/endpoints", url=HOOK)
    assert status == 201
    hook = f"/webhooks/endpoints/{endpoint['id']}"
    return [
        ("POST", "/keys", {"name": "live", "mode": "live"}),
        ("PATCH", f"/keys/{key}", {"scopes": ["usage:read"]}),
        ("PATCH", f"/keys/{key}", {"allowed_ips": ["203.0.113.0/24"]}),
        ("POST", f"/keys/{key}/rotate", {}),
        ("DELETE", f"/keys/{key}", {}),
        ("DELETE", f"/api-keys/{other}", {}),
        ("PUT", "/billing/spend-cap", {"amount": None, "action": "block"}),
        ("POST", "/webhooks/endpoints", {"url": HOOK}),
        ("PATCH", hook, {"url": "https://elsewhere.example/in"}),
        ("POST", f"{hook}/rotate-secret", {}),
        ("POST", "/team/invite", {"email": "dave@acme.example", "role": "admin"}),
        ("PUT", f"/team/members/{member.user_id}/role", {"role": "admin"}),
        ("POST", "/team/transfer-ownership", {"user_id": member.user_id}),
        ("DELETE", f"/team/members/{member.user_id}", {}),
    ]


@pytest.mark.usefixtures("network")
def test_sensitive_calls_of_the_api_require_a_recent_password(alice: User, bob: User) -> None:
    """R3: with any access token the API made, rotated and revoked live keys, raised the cap and invited admins."""
    calls = sensitive_calls(alice, bob)
    stale, before = refreshed(alice), audited(alice)
    for method, path, body in calls:
        assert stale.call(method, path, **body) == REQUIRED, (method, path)
    assert audited(alice) == before


@pytest.mark.usefixtures("network")
def test_reauthentication_allows_the_sensitive_calls(alice: User, bob: User) -> None:
    calls = sensitive_calls(alice, bob)
    fresh = reauthenticated(refreshed(alice))
    for method, path, body in calls[:-2]:
        status, data = fresh.call(method, path, **body)
        assert status in (200, 201), (method, path, data)


@pytest.mark.usefixtures("network")
def test_other_calls_do_not_ask_for_the_password(alice: User) -> None:
    live, _ = create_key(alice.client, alice, name="live")
    stale = refreshed(alice)
    test_key, _ = create_key(alice.client, stale, mode="test")
    assert stale.call("POST", f"/keys/{test_key}/rotate")[0] == 201
    assert stale.call("DELETE", f"/keys/{test_key}")[0] == 200
    assert stale.call("PATCH", f"/keys/{live}", name="renamed")[0] == 200
    assert stale.call("POST", "/team/invite", email="dave@acme.example", role="member")[0] == 201


def test_reauthentication_lasts_ten_minutes(alice: User) -> None:
    status, data = refreshed(alice).call("POST", "/auth/reauthenticate", password=PASSWORD)
    assert (status, sorted(data)) == (200, ["expires_at", "fresh_until", "token"])
    fresh = replace(alice, token=data["token"])
    with time_machine.travel(clock.now() + timedelta(minutes=9)):
        assert fresh.call("POST", "/keys", name="k")[0] == 201
    with time_machine.travel(clock.now() + timedelta(minutes=11)):
        assert fresh.call("POST", "/keys", name="k") == REQUIRED


def test_reauthentication_requires_the_right_password_and_counts_attempts(alice: User) -> None:
    for _ in range(10):
        assert alice.call("POST", "/auth/reauthenticate", password="guess") == (401, "INVALID_CREDENTIALS")
    assert alice.call("POST", "/auth/reauthenticate", password=PASSWORD)[0] == 429


def test_page_cookies_are_no_credentials_of_the_api(app: Flask, client: FlaskClient, alice: User) -> None:
    """R3: the tokens in the cookies of a page worked as bearer tokens of the API."""
    token, refresh_token = as_page_token(app, alice.token), as_page_token(app, alice.refresh_token)
    assert replace(alice, token=token).call("GET", "/auth/me") == (401, "INVALID_TOKEN")
    response = client.post(f"{AUTH}/refresh", json={"refresh_token": refresh_token})
    assert response.json["error"]["code"] == "INVALID_TOKEN"  # type: ignore[index]  # a JSON response
    assert Browser(app, alice).open("/dashboard").status_code == 200


def test_tokens_of_the_api_are_no_page_cookies(app: Flask, alice: User) -> None:
    browser = Browser(app)
    browser.client.set_cookie("at", alice.token)
    browser.client.set_cookie("rt", alice.refresh_token)
    assert browser.open("/dashboard").status_code == 303


def test_cookies_of_a_sign_in_page_have_the_audience_of_pages(app: Flask, alice: User) -> None:
    browser = Browser(app)
    browser.submit("/login", email=alice.email, password=PASSWORD)
    cookie = browser.client.get_cookie("at")
    assert cookie is not None
    assert browser.open("/dashboard").status_code == 200
    assert replace(alice, token=cookie.value).call("GET", "/auth/me") == (401, "INVALID_TOKEN")


def test_page_asks_for_the_password_before_an_admin_is_invited_or_a_member_removed(app: Flask, alice: User) -> None:
    member = add_member(alice, "bob@acme.example", "member")
    stale = refreshed(alice)
    for page, fields in (
        ("/dashboard/team/invite", {"email": "dave@acme.example", "role": "admin"}),
        (f"/dashboard/team/members/{member.user_id}/remove", {"typed": member.email}),
    ):
        browser = Browser(app, stale)
        refused = browser.submit(page, **fields)
        assert (refused.status_code, "Enter your password to go on." in refused.text) == (422, True), page
        assert browser.submit(page, **fields, confirm_password=PASSWORD).status_code == 303, page
