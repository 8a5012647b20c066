"""What a portal session reaches: pages of its scopes, in its organization, by its own cookie; and nothing else."""

import html
import re
from collections.abc import Iterator
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.portal.scopes import PERMISSIONS
from saas_api.services import services
from saas_api.usage import request_recorder
from tests.architecture.test_access_matrix import report_organization
from tests.architecture.test_routes import access
from tests.support.accounts import Headers, User, create_key
from tests.support.pages import Browser, form_of
from tests.support.portal import ORIGIN, create_link, embedders, open_portal
from tests.support.services import change_service, create_service, service_headers

READ_KEYS = {"GET /api-keys", "GET /api-keys/:id"}
READ_WEBHOOKS = {
    *("GET /webhooks", "GET /webhooks/deliveries", "GET /webhooks/deliveries/:id"),
    *("GET /webhooks/events", "GET /webhooks/events/:id", "GET /webhooks/event-types"),
}
READ_INVOICES = {
    *("GET /billing/invoices", "GET /billing/invoices/:id", "GET /billing/invoices/:id.pdf"),
    *("GET /billing/invoices/:id/print", "GET /billing/invoices/:id/lines/:id"),
    "GET /billing/invoices/:id/lines/:id/events.csv",
}
EDITED_ENDPOINT = ("edit", "recover", "delete", "roll")
REACHED = {
    "keys:read": READ_KEYS,
    "keys:write": READ_KEYS
    | {"GET /api-keys/new", "POST /api-keys/new", "POST /api-keys/:id/end-old"}
    | {"GET /api-keys/revoke", "POST /api-keys/revoke"}
    | {f"{method} /api-keys/:id/{form}" for method in ("GET", "POST") for form in ("edit", "roll", "revoke")},
    "usage:read": {"GET /usage", "GET /logs", "GET /logs/:id"},
    "invoices:read": READ_INVOICES,
    "invoices:pay": READ_INVOICES | {"POST /billing/invoices/:id/pay"},
    "webhooks:read": READ_WEBHOOKS,
    "webhooks:write": READ_WEBHOOKS
    | {"GET /webhooks/new", "POST /webhooks/new", "GET /webhooks/:id", "POST /webhooks/deliveries/resend"}
    | {"POST /webhooks/deliveries/:id/resend", "POST /webhooks/events/:id/replay"}
    | {f"POST /webhooks/:id/{act}" for act in ("disable", "enable", "test")}
    | {f"{method} /webhooks/:id/{form}" for method in ("GET", "POST") for form in EDITED_ENDPOINT},
}
"""Pages and forms of the dashboard by the scope of the portal that reaches them."""
OPEN_TO_EVERY_SESSION = {"GET /portal", "POST /portal/preferences", "POST /portal/end"}
REFUSALS = (303, 401, 404, 405)
"""Outside of the portal: sent to sign in, without a credential, not found."""
LINK = re.compile(r'href="([^"]*)"([^>]*)>')
ARGUMENT = re.compile(r"<[^>]+>")


def routes(app: Flask, key_id: UUID) -> Iterator[tuple[str, str, str]]:
    """Each route that is not public: its method, its path as the tables write it, and one with ids.

    key_id: of a key that exists: forms of keys are refused before their views run
    """
    for rule in app.url_map.iter_rules():
        if access(app, rule).is_public:
            continue
        values = {argument: key_id if argument == "key_id" else ids.new_id() for argument in rule.arguments}
        built = rule.build({name: "x" if "any(" in rule.rule else value for name, value in values.items()})
        path = built[1] if built else ARGUMENT.sub("x", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, ARGUMENT.sub(":id", rule.rule), path


def csrf_token(browser: Browser) -> str:
    section = browser.open("/portal").location
    return browser.form(section, "/portal/end")["csrf_token"][0]


def test_every_scope_has_its_row_in_this_test() -> None:
    assert REACHED.keys() == PERMISSIONS.keys()


def report_organizations(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each view that is not public return the organization that is bound."""
    for rule in app.url_map.iter_rules():
        if not access(app, rule).is_public:
            monkeypatch.setitem(app.view_functions, rule.endpoint, report_organization(app, rule))


@pytest.mark.parametrize("scope", REACHED)
def test_session_reaches_the_pages_of_its_scope_and_no_others(
    app: Flask, client: FlaskClient, alice: User, maker: Headers, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    key_id = ids.parse_id("key", create_key(client, alice)[0])
    browser = open_portal(app, maker, alice, scope)
    token = csrf_token(browser)
    report_organizations(app, monkeypatch)
    organization_id, wrong, reached = str(ids.parse_id("org", alice.organization_id)), [], set()
    for method, name, path in routes(app, key_id):
        if not path.startswith("/dashboard"):
            continue
        response = browser.client.open(f"/portal{path}", method=method, data={"csrf_token": token})
        if response.status_code == 200 and response.text == organization_id:
            reached.add(f"{method} {name.removeprefix('/dashboard')}")
        elif response.status_code != 403:
            wrong.append((method, path, response.status_code))
    assert wrong == []
    assert reached == REACHED[scope]


def test_session_of_every_scope_reaches_nothing_outside_the_portal(
    app: Flask, client: FlaskClient, alice: User, maker: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = ids.parse_id("key", create_key(client, alice)[0])
    browser = open_portal(app, maker, alice, *REACHED)
    token = csrf_token(browser)
    report_organizations(app, monkeypatch)
    wrong, reached = [], set()
    for method, name, path in routes(app, key_id):
        for address in (path, f"/portal{path}"):
            if address.startswith("/portal/dashboard"):
                continue
            response = browser.client.open(address, method=method, data={"csrf_token": token})
            if response.status_code == 200:
                reached.add(f"{method} {address.removesuffix(path)}{name}")
            elif response.status_code not in REFUSALS:
                wrong.append((method, address, response.status_code))
    assert wrong == []
    assert reached == OPEN_TO_EVERY_SESSION


def test_wrong_scope_is_refused_with_its_code(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice, "usage:read")
    page = browser.open("/portal/dashboard/api-keys")
    assert page.status_code == 403
    assert "/docs/errors/INSUFFICIENT_PORTAL_SCOPE" in page.text
    assert 'href="/portal/dashboard/usage"' in page.text


def test_portal_and_dashboard_do_not_share_a_session(app: Flask, alice: User, maker: Headers) -> None:
    user = Browser(app, alice)
    assert user.open("/portal/dashboard/api-keys").status_code == 401
    assert user.open("/dashboard/api-keys").status_code == 200
    assert user.open("/dashboard/billing/invoices").status_code == 404
    portal = open_portal(app, maker, alice)
    assert portal.open("/dashboard/api-keys").location.startswith("/login")


def test_objects_of_another_organization_are_not_found(
    app: Flask, client: FlaskClient, alice: User, carol: User, maker: Headers
) -> None:
    key_id, _ = create_key(client, carol)
    assert open_portal(app, maker, alice).open(f"/portal/dashboard/api-keys/{key_id}").status_code == 404
    assert open_portal(app, maker, carol).open(f"/portal/dashboard/api-keys/{key_id}").status_code == 200


def test_form_of_another_session_in_the_same_browser_is_refused(
    app: Flask, client: FlaskClient, alice: User, carol: User, maker: Headers
) -> None:
    browser = open_portal(app, maker, alice)
    form = browser.form("/portal/dashboard/api-keys/new")
    browser.open(create_link(client, maker, carol.organization_id))
    response = browser.send("/portal/dashboard/api-keys/new", {**form, "name": "server"})
    assert (response.status_code, "This form is no longer valid" in response.text) == (400, True)
    assert carol.call("GET", "/keys")[1]["keys"] == []


def test_forms_of_other_sites_are_refused(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice)
    form = browser.form("/portal/dashboard/api-keys/new")
    for headers in ({"Origin": ORIGIN}, {"Origin": "null", "Sec-Fetch-Site": "cross-site"}):
        data = {**form, "name": "server"}
        response = browser.client.post("/portal/dashboard/api-keys/new", data=data, headers=headers)
        assert response.status_code == 400
    assert alice.call("GET", "/keys")[1]["keys"] == []


def test_key_of_the_portal_is_refused_nothing_that_it_was_given(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice, "keys:write")
    path = "/portal/dashboard/api-keys/new"
    page = browser.submit(path, name="server", mode="live")
    assert browser.send(path, form_of(page, path, path)).status_code == 200
    (key,) = alice.call("GET", "/keys")[1]["keys"]
    assert (key["name"], key["mode"], key["created_by"], key["is_orphaned"]) == ("server", "live", None, False)
    page = browser.submit(f"/portal/dashboard/api-keys/{key['id']}/revoke", confirm="server")
    assert page.location == f"/portal/dashboard/api-keys/{key['id']}"
    assert alice.call("GET", f"/keys/{key['id']}")[1]["status"] == "revoked"


def test_mode_and_theme_are_of_the_portal_alone(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice, "usage:read")
    response = browser.submit("/portal/dashboard/usage", "/portal/preferences", mode="test")
    assert response.location == "/portal/dashboard/usage"
    assert "Test data." in browser.open("/portal/dashboard/usage").text
    assert browser.client.get_cookie("mode") is None
    away = browser.submit("/portal/dashboard/usage", "/portal/preferences", mode="live", back="//elsewhere.example")
    assert away.status_code == 422


def test_only_listed_origins_embed_the_portal(app: Flask, alice: User, maker: Headers) -> None:
    browser = open_portal(app, maker, alice, "usage:read")
    for path in ("/portal", "/portal/dashboard/usage", "/portal/dashboard/api-keys"):
        page = browser.open(path)
        assert (embedders(page), page.headers.get("X-Frame-Options")) == (ORIGIN, None)
    for path in ("/", "/login", "/portal/nothing"):
        page = browser.open(path)
        assert (embedders(page), page.headers["X-Frame-Options"]) == ("'none'", "DENY")


@pytest.mark.parametrize(
    "scopes", [*((scope,) for scope in REACHED if scope.endswith(":read")), tuple(REACHED)], ids="+".join
)
def test_links_of_the_portal_lead_to_pages_that_its_session_may_open(
    app: Flask, client: FlaskClient, alice: User, maker: Headers, scopes: tuple[str, ...]
) -> None:
    _, key = create_key(client, alice, mode="test")
    assert client.post("/api/v1/messages/send", json={}, headers=key).status_code == 422
    endpoint = {"url": "https://a.example/hook", "mode": "test"}
    assert alice.call("POST", "/webhooks/endpoints", **endpoint)[0] == 201
    with app.app_context():
        request_recorder.flush()
    browser = open_portal(app, maker, alice, *scopes)
    browser.submit(browser.open("/portal").location, "/portal/preferences", mode="test")
    waiting, opened, wrong = ["/portal"], set(), []
    while waiting:
        path = waiting.pop()
        response = browser.client.get(path, follow_redirects=True)
        opened.add(path)
        if response.status_code != 200:
            wrong.append((path, response.status_code))
        for href, rest in LINK.findall(response.text):
            target = html.unescape(href).partition("#")[0]
            if target.startswith("/portal"):
                waiting += [] if {target} & (opened | {*waiting}) or "?" in target else [target]
            elif target.startswith("/") and not target.startswith("/static/") and "_blank" not in rest:
                wrong.append((path, target))
    assert wrong == []


@pytest.mark.parametrize(
    ("origins", "scope"), [([], "SameSite=Lax"), ([ORIGIN], "SameSite=None; Partitioned")], ids=["own", "embedded"]
)
def test_cookies_are_of_the_portal_and_work_in_frames_only_where_they_are_allowed(
    app: Flask, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch, origins: list[str], scope: str
) -> None:
    headers = service_headers(create_service(app))
    change_service(app, services.set_portal_origins, "lookups", origins)
    for name in ("SESSION_COOKIE_SECURE", "JWT_COOKIE_SECURE"):
        monkeypatch.setitem(app.config, name, True)
    browser, https = Browser(app), {"base_url": "https://localhost"}
    cookies = browser.client.get(create_link(client, headers, alice.organization_id), **https).headers.getlist(
        "Set-Cookie"
    )
    page = browser.client.get("/portal/dashboard/usage?mode=test", **https)
    cookies += page.headers.getlist("Set-Cookie")
    names = [cookie.partition("=")[0] for cookie in cookies]
    assert names == ["__Secure-portal-session", "__Secure-portal-mode"]
    for cookie in cookies:
        attributes = {attribute.strip() for attribute in cookie.split(";")}
        assert {"Secure", "HttpOnly", "Path=/portal", *scope.split("; ")} <= attributes
        assert ("Partitioned" in attributes) == bool(origins)
