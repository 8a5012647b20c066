"""Browser sessions at the pages: cookies, refresh within a request, CSRF tokens, and forms that survive signing in.

Without a session a page redirects to the sign-in page, and a form gets 401; a form without its token gets 400.
"""

import io
import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.models import Membership
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.dashboard import navigation
from tests.architecture.source import PACKAGE, ROOT
from tests.support.accounts import PASSWORD, User, join, sign_in
from tests.support.console import open_console, sign_in_without_organization
from tests.support.pages import Browser, form_of

HOME, STEPS = "/dashboard", "/dashboard/first-steps"
OWN_ORIGIN = {"Origin": "http://localhost"}


def later(minutes: int) -> Any:
    return time_machine.travel(clock.now() + timedelta(minutes=minutes), tick=True)


def test_anonymous_visitor_signs_in_and_returns_to_the_page(app: Flask, alice: User) -> None:
    browser = Browser(app)
    response = browser.open("/dashboard/usage?range=7d")
    assert (response.status_code, response.location) == (303, "/login?next=/dashboard/usage?range%3D7d")
    back = browser.submit(response.location, "/login", email=alice.email, password=PASSWORD)
    assert (back.status_code, back.location) == (303, "/dashboard/usage?range=7d")


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "/a b", ""])
def test_sign_in_never_redirects_to_another_site(app: Flask, alice: User, path: str) -> None:
    response = Browser(app).submit("/login", email=alice.email, password=PASSWORD, next=path)
    assert (response.status_code, response.location) == (303, HOME)


def test_pages_ignore_headers_and_the_api_ignores_cookies(app: Flask, client: FlaskClient, alice: User) -> None:
    assert client.get(HOME, headers=alice.headers).status_code == 303
    assert Browser(app, alice).open("/api/v1/auth/me").status_code == 401


def test_expired_access_token_is_refreshed_within_the_request(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    form = browser.form(HOME, STEPS)
    with later(16):
        assert browser.open(HOME).status_code == 200
        cookie = browser.client.get_cookie("at")
        assert cookie is not None
        assert cookie.value != alice.token
        assert browser.send(STEPS, form).status_code == 303, "the open page still works"


def test_form_refreshes_the_session(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    form = browser.form(HOME, STEPS)
    with later(16):
        response = browser.send(STEPS, form)
    assert (response.status_code, response.location) == (303, HOME)


def test_form_without_csrf_token_does_not_refresh(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    before = browser.client.get_cookie("rt")
    with later(16):
        assert browser.send(STEPS, {}).status_code == 400
        assert browser.client.get_cookie("rt") == before


def test_poll_does_not_refresh(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    before = browser.client.get_cookie("rt")
    with later(16):
        response = browser.open(STEPS, **{"HX-Request": "true", "X-Poll": "1"})
    assert (response.status_code, response.get_data()) == (204, b"")
    assert browser.client.get_cookie("rt") == before


@pytest.mark.parametrize("token", [None, "", "0" * 32, "ä"])
def test_form_requires_the_csrf_token_of_its_session(app: Flask, alice: User, token: str | None) -> None:
    browser = Browser(app, alice)
    sent = {} if token is None else {"csrf_token": token}
    assert browser.send(STEPS, sent).status_code == 400
    assert "Get started" in browser.open(HOME).text, "the form had no effect"


def test_csrf_token_of_another_session_is_rejected(app: Flask, client: FlaskClient, alice: User) -> None:
    foreign_form = Browser(app, alice).form(HOME, STEPS)
    own = Browser(app, sign_in(client, alice.email))
    assert own.send(STEPS, foreign_form).status_code == 400


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_form_of_another_site_is_rejected_with_a_valid_token(app: Flask, alice: User, header: dict[str, str]) -> None:
    browser = Browser(app, alice)
    form = {**browser.form(HOME, STEPS), "note": "typed"}
    response = browser.client.post(STEPS, data=form, headers=header)
    assert response.status_code == 400
    assert "typed" not in response.text


def test_form_with_null_origin_from_the_same_site_is_accepted(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    headers = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
    assert browser.client.post(STEPS, data=browser.form(HOME, STEPS), headers=headers).status_code == 303


def test_form_of_an_ended_session_can_be_resubmitted(app: Flask, client: FlaskClient, alice: User) -> None:
    old = Browser(app, alice).form(HOME, STEPS)
    browser = Browser(app, sign_in(client, alice.email))
    response = browser.send(STEPS, {**old, "note": "<b>typed</b>", "new_password": "s3cret-s3cret"})
    assert response.status_code == 400
    assert "&lt;b&gt;typed&lt;/b&gt;" in response.text
    assert "s3cret" not in response.text
    again = form_of(response, STEPS)
    assert again["note"] == ["<b>typed</b>"]
    assert browser.send(STEPS, again).status_code == 303


def test_form_survives_signing_in_again(app: Flask, client: FlaskClient, alice: User) -> None:
    browser = Browser(app, alice)
    form = browser.form(HOME, STEPS)
    client.post("/api/v1/auth/logout", headers=alice.headers)
    refused = browser.send(STEPS, {**form, "note": "typed"})
    assert refused.status_code == 401
    sign_in_form = {**form_of(refused, "/login"), "email": alice.email, "password": PASSWORD}
    back = browser.send("/login", sign_in_form)
    assert back.status_code == 200
    assert "You are signed in again" in back.text
    again = form_of(back, STEPS)
    assert again["note"] == ["typed"]
    assert browser.send(STEPS, again).status_code == 303
    assert "Get started" not in browser.open(HOME).text


def test_form_survives_a_wrong_password(app: Flask, alice: User) -> None:
    refused = Browser(app).send(STEPS, {"note": "typed"})
    browser = Browser(app)
    browser.open("/login")
    fields = {**form_of(refused, "/login"), "csrf_token": browser.form("/login")["csrf_token"]}
    wrong = browser.send("/login", {**fields, "email": alice.email, "password": "wrong"})
    assert wrong.status_code == 401
    assert form_of(wrong, "/login")["resume_fields"] == fields["resume_fields"]


def test_sign_in_form_of_another_tab_is_refused_after_signing_in(app: Flask, alice: User, bob: User) -> None:
    browser = Browser(app)
    form = browser.form("/login")
    browser.submit("/login", email=alice.email, password=PASSWORD)
    response = browser.send("/login", {**form, "email": bob.email, "password": PASSWORD})
    assert response.status_code == 400
    assert "This form is no longer valid" in response.text
    assert alice.email in browser.open("/dashboard/account").text


def test_form_of_a_page_in_the_other_mode_is_refused_and_offered_again(app: Flask, alice: User) -> None:
    """B3: the page was open while another tab switched to test data."""
    browser = Browser(app, alice)
    form = browser.form(HOME, STEPS)
    browser.client.set_cookie("mode", "test")
    refused = browser.send(STEPS, {**form, "note": "typed"})
    assert refused.status_code == 400
    assert "You switched to test data before the form was submitted." in refused.text
    assert "Get started" in browser.open(HOME).text
    again = form_of(refused, STEPS)
    assert (again["note"], again["page_mode"]) == (["typed"], ["test"])
    assert browser.send(STEPS, again).status_code == 303


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/dashboard/messages/msg_01900000000070008000000000000000", 404, "This page does not exist"),
        ("/dashboard/team/invite", 403, "ask an owner or admin"),
        ("/dashboard/messages?cursor=x", 422, "Messages"),
    ],
)
def test_page_that_fails_keeps_the_navigation(app: Flask, bob: User, path: str, status: int, words: str) -> None:
    """R16: an error led out of the dashboard."""
    page = Browser(app, bob).open(path)
    assert page.status_code == status
    assert words in page.text
    assert '<nav aria-label="Dashboard">' in page.text
    assert "Acme" in page.text


def test_error_page_is_shown_without_the_navigation_when_that_fails(
    app: Flask, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(navigation, "get_organization_state", lambda *_: 1 / 0)
    page = Browser(app, bob).open("/dashboard/team/invite")
    assert page.status_code == 403
    assert "ask an owner or admin" in page.text
    assert "<nav" in page.text
    assert '<nav aria-label="Dashboard">' not in page.text


def test_signing_out_ends_the_session_and_deletes_the_cookies(app: Flask, client: FlaskClient, alice: User) -> None:
    browser = Browser(app, alice)
    response = browser.submit(HOME, "/logout")
    assert (response.status_code, response.location) == (303, "/login")
    assert browser.client.get_cookie("at") is None
    assert client.get("/api/v1/auth/me", headers=alice.headers).status_code == 401


def test_removed_member_is_redirected_on_the_next_request(
    app: Flask, client: FlaskClient, alice: User, bob: User
) -> None:
    browser = Browser(app, bob)
    assert browser.open(HOME).status_code == 200
    assert client.delete(f"/api/v1/team/members/{bob.user_id}", headers=alice.headers).status_code == 200
    assert browser.open(HOME).status_code == 303


def test_switch_requires_a_token_and_membership(app: Flask, client: FlaskClient, alice: User, carol: User) -> None:
    join(app, carol.organization_id, "erin@both.example", "viewer")
    erin = sign_in(client, "erin@both.example")
    browser = Browser(app, erin)
    assert browser.send("/dashboard/switch", {"organization_id": alice.organization_id}).status_code == 400
    form = browser.form(HOME, STEPS)
    foreign = browser.send("/dashboard/switch", {**form, "organization_id": alice.organization_id})
    assert foreign.status_code == 404


def test_preferences_are_stored_and_invalid_ones_rejected(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    form = browser.form(HOME, "/preferences")
    assert browser.send("/preferences", {**form, "theme": "dark", "mode": "test"}).location == HOME
    page = browser.open(HOME)
    assert 'data-theme="dark"' in page.text
    assert "Test data." in page.text
    assert "Verify your email" in page.text
    assert browser.send("/preferences", {**form, "theme": "<script>"}).status_code == 422
    assert browser.send("/preferences", {**form, "back": "//evil.example"}).status_code == 422


def test_console_is_not_found_for_other_users(app: Flask, alice: User) -> None:
    response = Browser(app, alice).open("/admin")
    assert response.status_code == 404
    assert "Not found." in response.text


def test_operator_without_organization_signs_in_to_the_console(app: Flask, client: FlaskClient) -> None:
    browser = sign_in_without_organization(app)
    assert browser.open("/admin").status_code == 200
    assert browser.open(HOME).location == "/admin"
    body = {"email": "olga@platform.example", "password": PASSWORD}
    assert client.post("/api/v1/auth/login", json=body).json["data"]["organization"] is None


def test_form_of_one_organization_is_rejected_in_another(
    app: Flask, client: FlaskClient, alice: User, carol: User
) -> None:
    with app.app_context(), tenancy.system_session("auth.register") as session:
        organization_id = ids.parse_id("org", carol.organization_id)
        session.add(
            Membership(organization_id=organization_id, user_id=ids.parse_id("usr", alice.user_id), role="admin")
        )
    browser = Browser(app, alice)
    form = browser.form("/dashboard/settings")
    browser.submit(HOME, "/dashboard/switch", organization_id=carol.organization_id)
    response = browser.send("/dashboard/settings", {**form, "name": "Renamed by mistake"})
    assert response.status_code == 400
    assert "apply it to <strong>Carol &amp; Co</strong>" in response.text
    assert (
        client.get("/api/v1/organization", headers=carol.headers).json["data"]["organization"]["name"] == "Carol & Co"
    )


def test_signing_in_again_continues_in_the_last_organization(
    app: Flask, client: FlaskClient, alice: User, carol: User
) -> None:
    with app.app_context(), tenancy.system_session("auth.register") as session:
        organization_id = ids.parse_id("org", carol.organization_id)
        session.add(
            Membership(organization_id=organization_id, user_id=ids.parse_id("usr", alice.user_id), role="admin")
        )
    browser = Browser(app, alice)
    browser.submit(HOME, "/dashboard/switch", organization_id=carol.organization_id)
    form = browser.form(HOME, STEPS)
    client.post("/api/v1/auth/logout", headers=alice.headers)
    refused = browser.send(STEPS, form)
    sign_in_form = {**form_of(refused, "/login"), "email": alice.email, "password": PASSWORD}
    assert "apply it to <strong>Carol &amp; Co</strong>" in browser.send("/login", sign_in_form).text


def test_fragment_without_a_session_does_not_redirect(app: Flask) -> None:
    response = Browser(app).open("/dashboard/messages", **{"HX-Request": "true"})
    assert response.status_code == 401
    assert "Your input is preserved" in response.text
    assert "HX-Redirect" not in response.headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": {"email": "x" * 70_000}}, 413),
        ({"data": {"email": "a\0b"}}, 400),
        ({"data": {"file": (io.BytesIO(b"x" * 70_000), "big")}}, 413),
    ],
)
def test_oversized_and_malformed_forms_are_rejected(app: Flask, sent: Any, status: int) -> None:
    assert app.test_client().post("/login", headers=OWN_ORIGIN, **sent).status_code == status


@pytest.mark.parametrize("path", ["/dashboard/billing/plans/%00", "/admin/plans/%00", "/pricing?sms=%00"])
def test_null_byte_in_a_path_is_rejected(app: Flask, alice: User, path: str) -> None:
    assert Browser(app, alice).open(path).status_code in (400, 404)


def test_csrf_token_of_a_visitor_is_rejected_in_a_session(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    visitor = Browser(app)
    token = visitor.form("/login")["csrf_token"]
    cookie = visitor.client.get_cookie("visit")
    assert cookie is not None
    browser.client.set_cookie("visit", cookie.value)
    assert browser.send(STEPS, {"csrf_token": token}).status_code == 400


def test_console_is_shown_to_allowed_addresses_only(app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    open_console(app, alice)
    assert Browser(app, alice).open("/admin").status_code == 200
    monkeypatch.setitem(app.config, "ADMIN_ALLOWED_IPS", ["203.0.113.0/24"])
    assert Browser(app, alice).open("/admin").status_code == 404


def test_cookies_are_read_and_written_by_the_gate_only() -> None:
    use = re.compile(r"\.cookies\b|\b(set|delete)_cookie\(")
    sources = [*PACKAGE.rglob("*.py"), *(ROOT / "templates").rglob("*.html")]
    files = [str(path.relative_to(ROOT)) for path in sources if use.search(path.read_text(encoding="utf-8"))]
    assert files == ["saas_api/gate/browser_sessions.py"]
