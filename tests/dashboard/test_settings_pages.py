"""Settings of the organization, and the account of a user."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations
from saas_api.accounts.models import Organization
from saas_api.billing import profiles
from saas_api.billing.profiles import BillingDetails
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import PASSWORD, User, join, sign_in
from tests.support.pages import Browser, check_access, form_of
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements

SETTINGS, ACCOUNT = "/dashboard/settings", "/dashboard/account"
NEW_PASSWORD = "seven blue elephants"

PAGES = {
    "GET /dashboard/settings": "organization:read",
    "GET /dashboard/account": None,
    "GET /dashboard/account/password": None,
}


@pytest.fixture
def browser(app: Flask, alice: User) -> Browser:
    return Browser(app, alice)


def read_settings(app: Flask, user: User) -> tuple[Organization, BillingDetails]:
    organization_id = ids.parse_id("org", user.organization_id)
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        return organizations.get_organization(session, organization_id), profiles.get_billing_details(
            session, organization_id
        )


def sessions(client: FlaskClient, user: User) -> list[dict[str, Any]]:
    return list(client.get("/api/v1/auth/sessions", headers=user.headers).json["data"]["sessions"])


def test_pages_require_their_permission(app: Flask, client: FlaskClient, alice: User) -> None:
    check_access(app, client, alice, PAGES)


def test_saved_settings_appear_on_the_next_invoice(app: Flask, browser: Browser, alice: User) -> None:
    response = browser.submit(
        SETTINGS,
        name="Acme & Sons",
        timezone="Africa/Lagos",
        billing_email="bills@acme.example",
        legal_name="Acme Limited",
        address="1 Marina\r\n\r\nLagos",
        tax_id="NG-1",
    )
    assert response.status_code == 303
    organization, buyer = read_settings(app, alice)
    assert (organization.name, organization.timezone) == ("Acme & Sons", "Africa/Lagos")
    assert organization.billing_email == "bills@acme.example"
    assert buyer == BillingDetails("Acme Limited", ["1 Marina", "Lagos"], "NG-1")
    again = browser.form(SETTINGS)
    assert again["address"] == ["1 Marina\nLagos"]
    assert again["timezone"] == ["Africa/Lagos"]
    assert browser.submit(SETTINGS, billing_email="", address="", legal_name="", tax_id="").status_code == 303
    organization, buyer = read_settings(app, alice)
    assert organization.billing_email is None
    assert buyer == BillingDetails(None, [], None)


def test_pages_write_by_the_locale_of_their_organization(
    app: Flask, browser: Browser, alice: User, carol: User
) -> None:
    """Both are served by one thread, which must not keep the locale of the page before."""
    assert browser.submit(SETTINGS, locale="en-DE").status_code == 303
    assert browser.form(SETTINGS)["locale"] == ["en-DE"]
    day, other_day = (f">{clock.now():{pattern}}, " for pattern in ("%-d %b %Y", "%b %-d, %Y"))
    for _ in range(2):
        assert day in browser.open(SETTINGS).text
        page = Browser(app, carol).open(SETTINGS).text
        assert other_day in page
        assert day not in page
    assert "$0.00" in app.test_client().get("/pricing").text
    assert browser.submit(SETTINGS, locale="de-DE").status_code == 422


def test_rejected_form_keeps_its_values(app: Flask, browser: Browser, alice: User) -> None:
    wrong = browser.submit(SETTINGS, name="<i>Acme", billing_email="bills", address="\n".join("1234567"))
    assert wrong.status_code == 422
    fields = form_of(wrong, SETTINGS)
    assert (fields["name"], fields["billing_email"]) == (["<i>Acme"], ["bills"])
    assert 'id="e-billing_email"' in wrong.text
    assert 'id="e-address"' in wrong.text
    assert "<i>Acme" not in wrong.text
    assert read_settings(app, alice)[0].name == "Acme"
    assert browser.submit(SETTINGS, timezone="Mars/Olympus").status_code == 422
    assert browser.submit(SETTINGS, name="").status_code == 422


def test_member_cannot_change_settings(app: Flask, alice: User, bob: User) -> None:
    browser = Browser(app, bob)
    text = browser.open(SETTINGS).text
    assert alice.organization_id in text
    assert 'name="billing_email"' not in text
    token = form_of(browser.open(SETTINGS), "/logout")["csrf_token"]
    fields = {"csrf_token": token, "name": "Bobs", "timezone": "UTC"}
    assert browser.send(SETTINGS, fields).status_code == 403
    assert read_settings(app, alice)[0].name == "Acme"


def test_form_without_csrf_token_is_rejected(app: Flask, browser: Browser, alice: User) -> None:
    assert browser.submit(SETTINGS, name="Other", csrf_token="x").status_code == 400
    assert read_settings(app, alice)[0].name == "Acme"


def test_user_name_is_changed(browser: Browser) -> None:
    assert browser.submit(ACCOUNT, full_name="Alice <3").status_code == 303
    text = browser.open(ACCOUNT).text
    assert "Alice &lt;3" in text
    assert "Alice <3" not in text
    assert "user.renamed" in browser.open("/dashboard/audit-log").text
    assert browser.submit(ACCOUNT, full_name="").status_code == 303
    assert browser.submit(ACCOUNT, full_name="x" * 101).status_code == 422


def test_password_change_requires_the_current_password(app: Flask, client: FlaskClient, alice: User) -> None:
    other = sign_in(client, alice.email)
    browser, path = Browser(app, alice), f"{ACCOUNT}/password"
    wrong = browser.submit(path, current_password="not it at all", new_password=NEW_PASSWORD)
    assert wrong.status_code == 401
    assert "The current password is wrong." in wrong.text
    weak = browser.submit(path, current_password=PASSWORD, new_password="password")
    assert weak.status_code == 422
    assert 'id="e-new_password"' in weak.text
    assert PASSWORD not in weak.text
    done = browser.submit(path, current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert done.status_code == 303
    assert browser.open(ACCOUNT).status_code == 200
    assert Browser(app, other).open(ACCOUNT).status_code == 303
    assert sign_in(client, alice.email, NEW_PASSWORD).email == alice.email


def test_sessions_are_ended_singly_and_together(app: Flask, client: FlaskClient, alice: User) -> None:
    one, two, three = (sign_in(client, alice.email) for _ in range(3))
    browser = Browser(app, alice)
    text = browser.open(ACCOUNT).text
    assert "4 sessions" in text
    assert text.count(">Werkzeug</th>") == 4, "not the whole header"
    ends = re.findall(r'action="(/dashboard/account/sessions/ses_[^"]+/end)"', text)
    assert len(ends) == 3
    assert browser.submit(ACCOUNT, ends[0]).status_code == 303
    assert [Browser(app, user).open(ACCOUNT).status_code for user in (one, two, three)].count(303) == 1
    assert browser.submit(ACCOUNT, f"{ACCOUNT}/sessions/end-others").status_code == 303
    assert {Browser(app, user).open(ACCOUNT).status_code for user in (one, two, three)} == {303}
    assert len(sessions(client, alice)) == 1


def test_session_of_another_user_is_not_found(app: Flask, client: FlaskClient, browser: Browser, carol: User) -> None:
    (theirs,) = sessions(client, carol)
    fields = form_of(browser.open(ACCOUNT), ACCOUNT)
    path = f"{ACCOUNT}/sessions/{theirs['id']}/end"
    assert browser.send(path, fields).status_code == 404
    assert Browser(app, carol).open(ACCOUNT).status_code == 200


def test_unverified_user_gets_a_new_link(browser: Browser) -> None:
    assert "Not verified yet" in browser.open(ACCOUNT).text
    responses = [browser.submit(ACCOUNT, f"{ACCOUNT}/verification").status_code for _ in range(4)]
    assert responses == [303, 303, 303, 429]


def test_theme_is_stored(browser: Browser) -> None:
    assert 'data-theme="system"' in browser.open(ACCOUNT).text
    fields = {**form_of(browser.open(ACCOUNT), ACCOUNT), "theme": "dark", "back": ACCOUNT}
    response = browser.send("/preferences", {name: fields[name] for name in ("csrf_token", "theme", "back")})
    assert response.location.endswith(ACCOUNT)
    text = browser.open(ACCOUNT).text
    assert 'data-theme="dark"' in text
    assert '<option value="dark" selected>' in text


def test_pages_take_few_statements(app: Flask, client: FlaskClient, alice: User) -> None:
    join(app, alice.organization_id, "vera@acme.example", "viewer")
    for user in (alice, sign_in(client, "vera@acme.example")):
        browser = Browser(app, user)
        for name in PAGES:
            browser.open(name.removeprefix("GET "))
            with count_statements(app) as statements:
                assert browser.open(name.removeprefix("GET ")).status_code == 200
            assert len(statements) <= MAX_PAGE_STATEMENTS, (name, statements)
