"""Portal links and sessions: made by services and operators, opened once, and ended by time or by their makers."""

import re
import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.models import Organization
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.portal import sessions
from saas_api.services import services
from tests.support.accounts import Headers, User, create_key
from tests.support.pages import Browser
from tests.support.portal import ORIGIN, PATH, create_link, embedders, open_portal
from tests.support.services import PURPOSE, change_service, create_service, service_headers

HOME = "/portal/dashboard/api-keys"


def travel(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + ahead)


def set_status(app: Flask, user: User, status: str) -> None:
    with app.app_context(), tenancy.system_session(PURPOSE) as session:
        organization_id = ids.parse_id("org", user.organization_id)
        session.execute(sa.update(Organization).filter_by(id=organization_id).values(status=status))


def test_link_leads_to_the_pages_of_its_scopes(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice, "usage:read", "keys:read", return_url=f"{ORIGIN}/account")
    page = browser.open("/portal")
    assert (page.status_code, page.location) == (303, HOME)
    page = browser.open(HOME)
    assert page.status_code == 200
    assert f'href="{ORIGIN}/account"' in page.text
    for path in (HOME, "/portal/dashboard/usage", "/portal/dashboard/logs"):
        assert f'href="{path}"' in page.text
    for path in ("/portal/dashboard/webhooks", "/portal/dashboard/billing", 'href="/dashboard', 'href="/docs'):
        assert path not in page.text


def test_link_names_an_organization_by_its_external_id(
    app: Flask, client: FlaskClient, alice: User, maker: Headers
) -> None:
    name = {"external_id": "customer-4711"}
    path = f"/api/v1/organizations/{alice.organization_id}/external-id"
    assert client.put(path, json=name, headers=maker).status_code == 200
    created = client.post(PATH, json={"organization": "customer-4711", "scopes": ["keys:read"]}, headers=maker)
    assert created.status_code == 201
    assert created.json["data"]["organization_id"] == alice.organization_id
    assert created.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"scopes": ["team:read"]}, 422, "scopes.0"),
        ({"scopes": []}, 422, "scopes"),
        ({"organization": "nobody"}, 404, None),
        ({"return_url": "https://elsewhere.example/"}, 422, "return_url"),
        ({"return_url": f"{ORIGIN}.elsewhere.example/"}, 422, "return_url"),
        ({"return_url": f"{ORIGIN}@elsewhere.example/"}, 422, "return_url"),
        ({"return_url": f"{ORIGIN}\\@elsewhere.example/"}, 422, "return_url"),
        ({"return_url": "//app.customer.example/"}, 422, "return_url"),
        ({"return_url": "https://[app/"}, 422, "return_url"),
        ({"return_url": "javascript:alert(1)"}, 422, "return_url"),
    ],
)
def test_body_of_a_link_is_checked(
    client: FlaskClient, alice: User, maker: Headers, body: dict[str, Any], status: int, field: str | None
) -> None:
    body = {"organization": alice.organization_id, "scopes": ["keys:read"], **body}
    response = client.post(PATH, json=body, headers=maker)
    assert response.status_code == status, response.json
    if field:
        assert [problem["field"] for problem in response.json["error"]["details"]["fields"]] == [field]


def test_link_is_not_made_by_users_and_keys(app: Flask, client: FlaskClient, alice: User, maker: Headers) -> None:
    body = {"organization": alice.organization_id, "scopes": ["keys:read"]}
    _, key = create_key(client, alice)
    refused = [client.post(PATH, json=body, headers=headers) for headers in (alice.headers, key, {})]
    assert [(answer.status_code, answer.json["error"]["code"]) for answer in refused] == [
        (404, "NOT_FOUND"),
        (401, "INVALID_SERVICE_TOKEN"),
        (401, "INVALID_SERVICE_TOKEN"),
    ]


def test_operator_makes_a_link_that_no_site_embeds(app: Flask, alice: User, olga: User, superuser: Any) -> None:
    with superuser, superuser.cursor() as cursor:
        cursor.execute("INSERT INTO operators (user_id, role) SELECT id, 'admin' FROM users WHERE email ~ '^olga'")
    browser = open_portal(app, olga.headers, alice, "keys:read")
    _, log = alice.call("GET", "/organization/audit-log?actor=operator")
    assert [(entry["action"], entry["actor"]["id"]) for entry in log["entries"]] == [
        ("portal_session.created", olga.user_id)
    ]
    page = browser.open(HOME)
    assert (page.status_code, embedders(page), page.headers["X-Frame-Options"]) == (200, "'none'", "DENY")
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DELETE FROM operators")
    assert browser.open(HOME).status_code == 401


def test_link_opens_once(app: Flask, client: FlaskClient, alice: User, maker: Headers) -> None:
    link = create_link(client, maker, alice.organization_id)
    assert Browser(app).client.head(link).status_code == 204
    assert Browser(app).open(link, **{"Sec-Purpose": "prefetch"}).status_code == 204
    first, second = Browser(app), Browser(app)
    assert first.open(link).status_code == 303
    response = second.open(link)
    assert (response.status_code, embedders(response)) == (410, ORIGIN)
    assert "This link is no longer valid" in response.text
    assert [browser.open(HOME).status_code for browser in (first, second)] == [200, 401]


def test_one_of_two_requests_at_once_opens_the_link(
    app: Flask, client: FlaskClient, alice: User, maker: Headers
) -> None:
    token = create_link(client, maker, alice.organization_id).partition("token=")[2]
    outcomes: list[str] = []
    ready = threading.Barrier(2)
    find_origins = sessions._find_origins

    def wait(*maker: Any) -> Any:
        ready.wait(10)  # both have read the link, and neither has opened it
        return find_origins(*maker)

    def open_it() -> None:
        with app.app_context():
            try:
                sessions.open_link(token)
                outcomes.append("opened")
            except sessions.PortalLinkInvalid:
                outcomes.append("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "_find_origins", wait)
        threads = [threading.Thread(target=open_it) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(outcomes) == ["opened", "refused"]


def test_link_expires_after_a_quarter_of_an_hour(
    app: Flask, client: FlaskClient, alice: User, maker: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = create_link(client, maker, alice.organization_id)
    travel(monkeypatch, timedelta(minutes=15))
    assert Browser(app).open(link).status_code == 410


def test_forged_links_and_cookies_are_refused(app: Flask, client: FlaskClient, alice: User, maker: Headers) -> None:
    browser = Browser(app)
    link = create_link(client, maker, alice.organization_id)
    forged = [link[:-1] + ("a" if link[-1] != "a" else "b"), link.replace("prl_", "prs_"), "/portal/open"]
    for address in forged:
        response = browser.open(address)
        assert (response.status_code, embedders(response)) == (410, "'none'")
    for value in ("", "prs_x", link.partition("token=")[2]):
        browser.client.set_cookie("portal-session", value, path="/portal")
        response = browser.open(HOME)
        assert (response.status_code, "Your session has ended" in response.text) == (401, True)


def test_session_ends_after_an_hour_without_use(
    app: Flask, alice: User, maker: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = open_portal(app, maker, alice)
    travel(monkeypatch, timedelta(minutes=59))
    assert browser.open(HOME).status_code == 200
    travel(monkeypatch, timedelta(minutes=59))
    assert browser.open(HOME, **{"X-Poll": "1"}).status_code == 200
    travel(monkeypatch, timedelta(minutes=1))  # the poll has not kept it
    response = browser.open(HOME)
    assert (response.status_code, embedders(response)) == (401, ORIGIN)


def test_session_ends_after_twelve_hours_of_use(
    app: Flask, alice: User, maker: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = open_portal(app, maker, alice)
    for _ in range(15):
        travel(monkeypatch, timedelta(minutes=47))
        assert browser.open(HOME).status_code == 200
    travel(monkeypatch, timedelta(minutes=15))
    assert browser.open(HOME).status_code == 401


def test_revoked_token_ends_the_sessions_and_links_it_made(
    app: Flask, client: FlaskClient, alice: User, maker: Headers
) -> None:
    browser, link = open_portal(app, maker, alice), create_link(client, maker, alice.organization_id)
    other = open_portal(app, service_headers(create_service(app, "other")), alice)
    change_service(app, services.rotate_token, "lookups", 0)
    assert browser.open(HOME).status_code == 401
    assert Browser(app).open(link).status_code == 410
    assert other.open(HOME).status_code == 200


def test_suspension_and_closing_refuse_links_and_sessions(
    app: Flask, client: FlaskClient, alice: User, maker: Headers
) -> None:
    browser, link = open_portal(app, maker, alice), create_link(client, maker, alice.organization_id)
    body = {"organization": alice.organization_id, "scopes": ["keys:read"]}
    for status, code in (("suspended", "ORGANIZATION_SUSPENDED"), ("closed", "ORGANIZATION_CLOSED")):
        set_status(app, alice, status)
        assert browser.open(HOME).status_code == 401
        assert Browser(app).open(link).status_code == 410
        assert client.post(PATH, json=body, headers=maker).json["error"]["code"] == code
    set_status(app, alice, "active")
    assert browser.open(HOME).status_code == 200


def test_customer_ends_the_session(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice)
    form = browser.form(HOME, "/portal/end")
    cookie = browser.client.get_cookie("portal-session", path="/portal")
    assert cookie is not None
    response = browser.send("/portal/end", form)
    assert (response.status_code, "Your session has ended" in response.text) == (200, True)
    assert "/portal/end" not in response.text
    assert browser.client.get_cookie("portal-session", path="/portal") is None
    browser.client.set_cookie("portal-session", cookie.value, path="/portal")
    assert browser.open(HOME).status_code == 401


def test_what_happens_is_in_the_audit_log_with_the_portal_as_actor(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice)
    created = browser.submit("/portal/dashboard/api-keys/new", name="server")
    assert created.status_code == 200, created.text
    browser.send("/portal/end", browser.form(HOME, "/portal/end"))
    _, log = alice.call("GET", "/organization/audit-log")
    events = [(entry["action"], entry["actor"]["type"]) for entry in log["entries"]]
    assert events[:4] == [
        ("portal_session.ended", "portal"),
        ("api_key.created", "portal"),
        ("portal_session.opened", "portal"),
        ("portal_session.created", "system"),
    ]
    (actor_id,) = {entry["actor"]["id"] for entry in log["entries"][:3]}
    assert actor_id == log["entries"][0]["target"]["id"]
    assert ids.is_public_id(actor_id, "prt")
    status, log = alice.call("GET", "/organization/audit-log?actor=portal")
    assert (status, len(log["entries"])) == (200, 3)
    page = re.sub(r"<[^>]+>", "", Browser(app, alice).open("/dashboard/audit-log?actor=portal").text)
    assert "Customer portal created API key" in page
