"""Access to the billing pages and their forms.

| page | permission |
|---|---|
| every page | billing:read, in every role |
| change the plan, pay | billing:write: owner, billing |
| change the cap, alerts | spend-cap:write: owner, admin, billing |
"""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import join, sign_in, sign_up
from tests.support.billing_pages import BILLING, browse, first_line, invoice_page, list_payments, page_text
from tests.support.pages import Browser, check_access
from tests.support.payments import PayingOrganization, create_paying_organization
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements

PAGES = {
    "GET /dashboard/billing": "billing:read",
    "GET /dashboard/billing?format=csv": "billing:read",
    "GET /dashboard/billing/plans": "billing:read",
    "GET /dashboard/billing/plans/starter": "billing:read",
    "GET /dashboard/billing/spending": "billing:read",
    "GET /dashboard/billing/current-bill.csv": "billing:read",
    "GET /dashboard/billing/credits": "billing:read",
    "GET {invoice}": "billing:read",
    "GET {invoice}.pdf": "billing:read",
    "GET {invoice}/print": "billing:read",
    "GET {line}": "billing:read",
    "GET {line}/events.csv": "billing:read",
}
FORMS = {
    ("{invoice}", "{invoice}/pay"): ("owner", "billing"),
    ("/dashboard/billing/plans/starter", "/dashboard/billing/plans/starter"): ("owner", "billing"),
    ("/dashboard/billing/spending", "/dashboard/billing/spending/cap"): ("owner", "admin", "billing"),
    ("/dashboard/billing/spending", "/dashboard/billing/spending/alerts"): ("owner", "admin", "billing"),
}


def page_path(acme: PayingOrganization, path: str) -> str:
    return path.format(invoice=invoice_page(acme), line=first_line(acme))


def test_pages_require_their_permission(app: Flask, client: FlaskClient) -> None:
    with app.app_context():
        acme = create_paying_organization(client)
        pages = {page_path(acme, name): permission for name, permission in PAGES.items()}
    check_access(app, client, acme.owner, pages)


@pytest.mark.parametrize("role", ["admin", "member", "billing", "viewer"])
def test_forms_require_their_permission(app: Flask, acme: PayingOrganization, owner: Browser, role: str) -> None:
    join(app, acme.owner.organization_id, "member@acme.example", role)
    member = browse(app, sign_in(acme.client, "member@acme.example"))
    for (page, form), allowed in FORMS.items():
        path, to = page_path(acme, page), page_path(acme, form)
        has_form = f'action="{to}"' in member.open(path).text
        assert has_form == (role in allowed), (role, form)
        if not has_form:
            fields = owner.form(path, to)
            token = {"csrf_token": member.form("/dashboard/account", "/preferences")["csrf_token"]}
            assert member.send(to, {**fields, **token}).status_code == 403
    assert acme.rows("SELECT id FROM payments") == []


def test_pages_are_not_found_by_another_organization(app: Flask, acme: PayingOrganization, owner: Browser) -> None:
    carol = browse(app, sign_up(acme.client, "carol@carol.example", "Carol & Co"))
    for name in (name for name in PAGES if "{" in name):
        path = page_path(acme, name.removeprefix("GET "))
        assert owner.open(path).status_code == 200
        assert carol.open(path).status_code == 404, path
    token = carol.form(f"{BILLING}/spending", f"{BILLING}/spending/cap")["csrf_token"]
    fields = {**owner.form(invoice_page(acme), f"{invoice_page(acme)}/pay"), "csrf_token": token}
    assert carol.send(f"{invoice_page(acme)}/pay", fields).status_code == 404
    rule = acme.rows("SELECT id FROM alert_rules LIMIT 1")[0].id
    switch = f"{BILLING}/spending/alerts/{ids.format_id('alr', rule)}/switch"
    assert carol.send(switch, {"csrf_token": token}).status_code == 404
    assert "INV-" not in carol.open(BILLING).text


def test_unknown_ids_are_not_found(owner: Browser, acme: PayingOrganization) -> None:
    for path in (
        f"{BILLING}/invoices/{ids.format_id('inv', ids.new_id())}",
        f"{BILLING}/invoices/{ids.format_id('inv', ids.new_id())}.pdf",
        f"{invoice_page(acme)}/lines/{ids.format_id('lin', ids.new_id())}",
        f"{BILLING}/plans/nothing",
    ):
        assert owner.open(path).status_code == 404, path


def test_form_without_csrf_token_is_rejected(owner: Browser, acme: PayingOrganization) -> None:
    fields = owner.form(invoice_page(acme), f"{invoice_page(acme)}/pay")
    del fields["csrf_token"]
    assert owner.send(f"{invoice_page(acme)}/pay", fields).status_code == 400
    assert acme.rows("SELECT id FROM payments") == []


@pytest.mark.parametrize(
    "path", ["/dashboard/billing", "/dashboard/billing/plans/starter", "/dashboard/billing/spending", "{invoice}"]
)
def test_billing_page_in_test_mode_says_that_it_is_live(acme: PayingOrganization, owner: Browser, path: str) -> None:
    """G3: "Nothing here is delivered or billed." stood above the live bill."""
    owner.client.set_cookie("mode", "test")
    page = page_text(owner.open(page_path(acme, path)))
    assert "Live data. This page has no test mode." in page
    assert "Nothing here is delivered or billed." not in page
    assert ("This page has no test mode. Switch to live data to make changes." in page) == (
        path != "/dashboard/billing"
    )


def test_home_page_in_test_mode_shows_no_bill(acme: PayingOrganization, owner: Browser) -> None:
    """G3: the invoice to pay stood below "Nothing here is delivered or billed."."""
    assert "Invoices to pay" in owner.open("/dashboard").text
    owner.client.set_cookie("mode", "test")
    page = page_text(owner.open("/dashboard"))
    assert "Test data. Nothing here is delivered or billed." in page
    assert "An invoice is past due." in page
    assert "Invoices to pay" not in page


@pytest.mark.parametrize(("page", "action"), FORMS)
def test_form_of_billing_is_refused_in_test_mode(
    acme: PayingOrganization, owner: Browser, page: str, action: str
) -> None:
    """G3: a plan is not changed, nor an invoice paid, by accident; as when another tab has switched to test data."""
    path, target = page_path(acme, page), page_path(acme, action)
    fields = owner.form(path, target)
    owner.client.set_cookie("mode", "test")
    stale = owner.send(target, fields)
    assert (stale.status_code, "You switched to test data" in stale.text) == (400, True)
    response = owner.send(target, {**fields, "page_mode": ["test"]})
    assert response.status_code == 409
    assert "This page has no test mode." in response.text
    assert list_payments(acme) == []
    assert not acme.rows("SELECT id FROM subscription_segments WHERE plan_version_id = 'starter@1'")


def test_page_takes_few_statements(app: Flask, acme: PayingOrganization, owner: Browser) -> None:
    counts = {}
    for name in PAGES:
        path = page_path(acme, name.removeprefix("GET "))
        owner.open(path)
        with count_statements(app) as statements:
            owner.open(path)
        # statements that bind a transaction to its organization do not count
        counts[name] = len([statement for statement in statements if "set_config" not in statement])
    del counts["GET /dashboard/billing/plans/starter"]  # it works out two whole bills as the change itself would
    assert not {name: count for name, count in counts.items() if count > MAX_PAGE_STATEMENTS}
