"""Invoices in the browser: billed by the operator, paid by the owner at the mock checkout, and failed payments."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import Actor
from saas_api.billing import period_close, subscriptions
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.browser.conftest import OpenWindow, use_session
from tests.browser.window import NARROW, NARROWEST, WIDE, Window
from tests.support.accounts import User, make_key, sign_up
from tests.support.billing import BillingOrganization


@pytest.fixture
def payer(app: Flask, client: FlaskClient, alice: User) -> User:
    """Alice, whose organization is on a paid plan and has sent three messages more than it includes."""
    organization_id = ids.parse_id("org", alice.organization_id)
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        actor = Actor("user", str(ids.parse_id("usr", alice.user_id)))
        subscriptions.change_plan(session, organization_id, "starter", "now", actor)
    with app.app_context():
        BillingOrganization(organization_id).use(5_000)
    key = make_key(client, alice)
    for _ in range(3):
        response = client.post(
            "/api/v1/messages/send", json={"to": "+2348012345678", "type": "sms", "message": "Hello"}, headers=key
        )
        assert response.status_code == 202
    return alice


def bill(app: Flask, organization_id: UUID) -> None:
    with app.app_context():
        assert not period_close.close_now(organization_id).failed


def pay(window: Window, action: str) -> None:
    """Open the checkout of the newest invoice and press a button."""
    window.open("/dashboard/billing")
    window.activate(window.page.locator('main a[href*="/billing/invoices/inv_"]').first)
    window.press("Pay ", exact=False)
    window.page.wait_for_url("**/payments/mock/**")
    window.press(action)
    window.page.wait_for_url("**/payments/return/**")


def change_plan(window: Window, name: str) -> None:
    """Change the plan from the page of plans, after the page that says what it changes."""
    window.open("/dashboard/billing/plans")
    for activate in (window.follow, window.press):
        activate(f"Change to {name}")
    window.page.wait_for_load_state()


def change_price(window: Window, plan: str, base: str) -> None:
    """Change the base price of a plan from the list of plans, as an operator."""
    window.activate(window.page.get_by_role("link", name="Plans", exact=True).locator("visible=true").first)
    window.follow(f"{plan}@1")
    window.follow("Edit plan")
    window.fill(base_amount=base)
    window.press("Review and publish")
    window.sees("This is a preview")
    window.fill(reason="Costs rose, as the board decided.")
    window.press("Publish plan")
    window.sees(f"{plan}@2 published")


def test_operator_bills_a_month_and_owner_pays(
    operator: Window, open_window: OpenWindow, payer: User, work: Callable[[], None]
) -> None:
    """The operator sees who owes and who pays, and changes a price; the owner changes the plan by keyboard."""
    operator.open(f"/admin/organizations/{payer.organization_id}/bill-now")
    operator.sees("This is a preview")
    operator.fill(name="Acme", reason="The owner requested an invoice today.")
    operator.press("Close period and invoice")
    operator.page.wait_for_load_state()
    operator.inspect()
    operator.open("/admin")
    owing = operator.page.locator("main tr", has_text="Acme")
    operator.activate(operator.page.get_by_role("link", name="Invoices", exact=True).locator("visible=true").first)
    operator.page.get_by_role("link", name="Open", exact=False).first.click()
    owing.first.wait_for()
    owner = open_window(has_pointer=False)
    use_session(owner, payer)
    pay(owner, "Pay")
    work()
    owner.open("/dashboard/billing")
    owner.page.locator('main a[href*="/billing/invoices/inv_"]').first.click()
    owner.sees("Paid")
    owner.inspect()
    operator.page.reload()
    assert owing.count() == 0
    operator.page.get_by_role("link", name="Paid", exact=False).first.click()
    owing.first.wait_for()
    change_price(operator, "pro", "109.00")
    change_plan(owner, "Pro")
    owner.open("/dashboard/billing")
    owner.sees("$109.00")


def test_invoice_is_legible_on_a_phone(app: Flask, open_window: OpenWindow, payer: User) -> None:
    """G6: the facts of the invoice were broken into lines of a letter at 360 px."""
    bill(app, ids.parse_id("org", payer.organization_id))
    owner = open_window()
    use_session(owner, payer)
    owner.open("/dashboard/billing")
    owner.page.locator('main a[href*="/billing/invoices/inv_"]').first.click()
    owner.sees("Details")
    for width in (WIDE, 768, NARROW, NARROWEST):
        owner.size(width)
        owner.check_width()


def test_declined_payment_is_retried_without_javascript(app: Flask, open_window: OpenWindow, payer: User) -> None:
    bill(app, ids.parse_id("org", payer.organization_id))
    owner = open_window(java_script_enabled=False)
    use_session(owner, payer)
    pay(owner, "Decline")
    owner.sees("Payment declined")
    pay(owner, "Pay")
    owner.sees("Payment received")
    change_plan(owner, "Pro")
    owner.open("/dashboard/billing/plans")
    owner.sees("Your plan", within="thead th:has-text('Pro')")


def test_payment_of_a_wrong_amount_is_quarantined(
    app: Flask, operator: Window, open_window: OpenWindow, payer: User
) -> None:
    bill(app, ids.parse_id("org", payer.organization_id))
    owner = open_window()
    use_session(owner, payer)
    pay(owner, "Pay the wrong amount")
    owner.sees("Payment under review")
    operator.open("/admin/payments")
    operator.sees("Quarantined")


def test_invoice_is_not_found_by_another_organization(
    app: Flask, open_window: OpenWindow, payer: User, client: FlaskClient
) -> None:
    bill(app, ids.parse_id("org", payer.organization_id))
    response: Any = client.get("/api/v1/billing/history", headers=payer.headers).json
    [invoice] = response["data"]["invoices"]
    carol = open_window()
    use_session(carol, sign_up(client, "carol@carol.example", "Carol & Co"))
    carol.open(f"/dashboard/billing/invoices/{invoice['id']}", 404)
    assert "Acme" not in carol.page.content()
