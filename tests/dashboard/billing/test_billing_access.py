"""Who may open the billing pages, and who may send their forms.

| page | asks for |
|---|---|
| every page | billing:read, which everybody has |
| change the plan, pay | billing:write: owner, billing |
| change the cap, alerts | spend-cap:write: owner, admin, billing |
"""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from tests.support.accounts import join, sign_in, sign_up
from tests.support.billing_pages import BILLING, browse, first_line, invoice_page
from tests.support.pages import Browser, check_access
from tests.support.payments import Customer, create_customer
from tests.support.statements import count_statements

PAGES = {
    "GET /dashboard/billing": "billing:read",
    "GET /dashboard/billing?format=csv": "billing:read",
    "GET /dashboard/billing/plans": "billing:read",
    "GET /dashboard/billing/plans/starter": "billing:read",
    "GET /dashboard/billing/spending": "billing:read",
    "GET /dashboard/billing/wallet": "billing:read",
    "GET /dashboard/billing/credit-notes": "billing:read",
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
MOST_QUERIES = 12


def there(customer: Customer, path: str) -> str:
    return path.format(invoice=invoice_page(customer), line=first_line(customer))


def test_pages_require_their_permission(app: Flask, client: FlaskClient) -> None:
    with app.app_context():
        customer = create_customer(client)
        pages = {there(customer, name): permission for name, permission in PAGES.items()}
    check_access(app, client, customer.person, pages)


@pytest.mark.parametrize("role", ["admin", "member", "billing", "viewer"])
def test_forms_require_their_permission(app: Flask, customer: Customer, owner: Browser, role: str) -> None:
    join(app, customer.person.organization_id, "somebody@acme.example", role)
    somebody = browse(app, sign_in(customer.client, "somebody@acme.example"))
    for (page, form), allowed in FORMS.items():
        path, to = there(customer, page), there(customer, form)
        has_form = f'action="{to}"' in somebody.open(path).text
        assert has_form == (role in allowed), (role, form)
        if not has_form:
            fields = owner.form(path, to)
            token = {"csrf_token": somebody.form("/dashboard/account", "/preferences")["csrf_token"]}
            assert somebody.send(to, {**fields, **token}).status_code == 403
    assert customer.rows("SELECT id FROM payments") == []


def test_pages_are_not_found_by_another_organization(app: Flask, customer: Customer, owner: Browser) -> None:
    carol = browse(app, sign_up(customer.client, "carol@carol.example", "Carol & Co"))
    for name in (name for name in PAGES if "{" in name):
        path = there(customer, name.removeprefix("GET "))
        assert owner.open(path).status_code == 200
        assert carol.open(path).status_code == 404, path
    token = carol.form(f"{BILLING}/spending", f"{BILLING}/spending/cap")["csrf_token"]
    fields = {**owner.form(invoice_page(customer), f"{invoice_page(customer)}/pay"), "csrf_token": token}
    assert carol.send(f"{invoice_page(customer)}/pay", fields).status_code == 404
    rule = customer.rows("SELECT id FROM alert_rules LIMIT 1")[0].id
    switch = f"{BILLING}/spending/alerts/{ids.format_id('alr', rule)}/switch"
    assert carol.send(switch, {"csrf_token": token}).status_code == 404
    assert "INV-" not in carol.open(BILLING).text


def test_unknown_ids_are_not_found(owner: Browser, customer: Customer) -> None:
    for path in (
        f"{BILLING}/invoices/{ids.format_id('inv', ids.new_id())}",
        f"{BILLING}/invoices/{ids.format_id('inv', ids.new_id())}.pdf",
        f"{invoice_page(customer)}/lines/{ids.format_id('lin', ids.new_id())}",
        f"{BILLING}/plans/nothing",
    ):
        assert owner.open(path).status_code == 404, path


def test_form_without_csrf_token_is_rejected(owner: Browser, customer: Customer) -> None:
    fields = owner.form(invoice_page(customer), f"{invoice_page(customer)}/pay")
    del fields["csrf_token"]
    assert owner.send(f"{invoice_page(customer)}/pay", fields).status_code == 400
    assert customer.rows("SELECT id FROM payments") == []


def test_page_takes_few_statements(app: Flask, customer: Customer, owner: Browser) -> None:
    counts = {}
    for name in PAGES:
        path = there(customer, name.removeprefix("GET "))
        owner.open(path)
        with count_statements(app) as statements:
            owner.open(path)
        # statements that bind a transaction to its organization do not count
        counts[name] = len([statement for statement in statements if "set_config" not in statement])
    del counts["GET /dashboard/billing/plans/starter"]  # it works out two whole bills as the change itself would
    assert not {name: count for name, count in counts.items() if count > MOST_QUERIES}
