"""Closing of an organization with its final invoice, by its owner through the API and the dashboard."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import Actor
from saas_api.accounts.organizations import OrganizationClosed
from saas_api.billing import organization_closing, period_close, periods, plan_migrations, subscriptions
from saas_api.core import clock
from saas_api.core.roles import ROLES, MemberRole
from saas_api.payments import jobs
from saas_api.providers import mock_payments
from tests.support.accounts import Headers, User, add_member, make_key, sign_up
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import add_endpoint, published_events, require_review
from tests.support.billing_reads import period_end
from tests.support.pages import Browser
from tests.support.payments import EVENTS, MOCK, system_rows

OWNER = Actor("user", "00000000-0000-7000-8000-000000000001")


def close(organization: BillingOrganization) -> Any:
    return organization_closing.close_organization(organization.id, OWNER)


def test_closing_bills_the_time_and_usage_up_to_now(context: Flask) -> None:
    """B15: starter at 29.00, closed after half of April, 305 segments beyond the included: 14.50 + 3.05, no more."""
    organization = create_organization(plan="starter@1")
    organization.use(5_305, at=day(10))
    clock.freeze_time(day(16))
    [item] = close(organization).invoices
    assert (item.invoice.total_minor, item.invoice.status) == (1755, "open")
    assert organization.lines() == {"base:starter@1": 1450, "usage:starter@1:sms": 305}
    for at in (day(1, 2, month=5), day(1, 2, month=6), day(1, 2, month=9)):
        clock.freeze_time(at)
        periods.ensure_accounts(at)
        assert not period_close.close_due(at).invoices
    assert [invoice.total_minor for invoice in organization.invoices()] == [1755]


def test_closed_organization_is_not_closed_again(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    clock.freeze_time(day(16))
    close(organization)
    with pytest.raises(OrganizationClosed):
        close(organization)
    with pytest.raises(OrganizationClosed):
        organization_closing.preview_closing(organization.id)
    assert len(organization.invoices()) == 1


def test_preview_of_closing_equals_its_invoice(context: Flask) -> None:
    """B15: unpaid invoices, the final bill, credit and keys are shown before the closing, which charges the same."""
    organization = create_organization(plan="starter@1")
    clock.freeze_time(day(1, 2, month=5))
    period_close.close_due(clock.now())
    organization.grant(500, "purchased", 10)
    organization.use(6_000, at=clock.now())
    clock.freeze_time(day(16, month=5))
    preview = organization_closing.preview_closing(organization.id)
    assert (preview.unpaid_minor, preview.wallet_minor, preview.active_keys) == (2900, 500, 0)
    final = close(organization).invoices[-1].invoice
    assert preview.final_minor == final.total_minor == 2403  # 15 of 31 days: 14.03, and 10.00


def test_scheduled_plan_change_ends_with_the_subscription(context: Flask) -> None:
    organization = create_organization(plan="pro@1")
    clock.freeze_time(day(16))
    with organization.transaction() as session:
        subscriptions.change_plan(session, organization.id, "starter", None, OWNER)
    close(organization)
    assert [row.plan_version_id for row in organization.rows("SELECT * FROM subscription_segments")] == ["pro@1"]
    [subscription] = organization.rows("SELECT state, ended_at FROM subscriptions")
    assert tuple(subscription) == ("ended", day(16))
    with pytest.raises(OrganizationClosed), organization.transaction() as session:
        subscriptions.change_plan(session, organization.id, "scale", None, OWNER)


def test_message_that_fails_after_the_closing_returns_its_charge(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    event = organization.use(5_305, at=day(10))
    clock.freeze_time(day(16))
    close(organization)
    organization.reverse(event)
    [item] = period_close.close_due(day(1, 2, month=5)).invoices
    assert organization.lines() == {f"late:{organization.rows(FIRST_PERIOD)[0].id}:starter@1:sms": -305, "carry": 305}
    assert item.invoice.total_minor == 0
    assert [invoice.due_minor for invoice in organization.invoices()] == [1450, 0]  # the carry pays the final invoice


FIRST_PERIOD = "SELECT id FROM billing_periods WHERE seq = 1"


def test_closed_organization_is_not_moved_to_another_version(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    clock.freeze_time(day(16))
    assert len(plan_migrations.preview_migration("starter@1", "pro@1", "now", None)) == 1
    close(organization)
    assert plan_migrations.preview_migration("starter@1", "pro@1", "now", None) == []


def test_final_invoice_waits_for_a_review(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    require_review(organization)
    clock.freeze_time(day(16))
    assert organization_closing.preview_closing(organization.id).is_reviewed
    closed = close(organization)
    assert [item.invoice.status for item in closed.invoices] == ["draft"]
    assert closed.issued == []


def test_endpoints_hear_of_the_closing_and_of_the_final_invoice(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    add_endpoint(organization)
    clock.freeze_time(day(16))
    close(organization)
    kinds = [kind for kind, _ in published_events(organization)]
    assert kinds == ["organization.closed", "invoice.finalized"]
    [(_, data)] = published_events(organization, "organization.closed")
    assert (data["status"], data["reason"]) == ("closed", "owner")


def test_owner_closes_by_api_then_reads_and_pays(app: Flask, client: FlaskClient) -> None:
    """B15: keys end, the final invoice is due, reads and paying go on, and nothing new begins."""
    alice, key = begin_on_pro(client)
    status, preview = alice.call("GET", "/organization/close")
    assert (status, preview["final_amount"], preview["active_keys"]) == (200, "49.50", 1)
    assert alice.call("POST", "/organization/close", name="Acme Inc")[0] == 422
    status, closed = alice.call("POST", "/organization/close", name="Acme")
    assert (status, closed["organization"]["status"]) == (200, "closed")
    free, invoice = closed["invoices"]
    assert (free["total_amount"], free["status"]) == ("0.00", "paid")
    assert (invoice["total_amount"], invoice["status"]) == ("49.50", "open")
    assert client.get("/api/v1/messages", headers=key).status_code == 401
    for method, path, body in (
        ("GET", "/organization/close", {}),
        ("POST", "/organization/close", {"name": "Acme"}),
        ("POST", "/keys", {"name": "another"}),
        ("POST", "/billing/upgrade", {"plan": "scale"}),
    ):
        assert alice.call(method, path, **body) == (409, "ORGANIZATION_CLOSED")
    assert alice.call("PATCH", "/organization", billing_email="books@acme.example")[0] == 200
    pay(alice, invoice["id"])
    paid, _ = alice.call("GET", "/billing/history")[1]["invoices"]
    assert (paid["id"], paid["status"]) == (invoice["id"], "paid")


def test_owner_closes_in_the_dashboard(app: Flask, client: FlaskClient) -> None:
    """B15: the page says what is open, the name confirms, and the closed organization can be read and pays."""
    alice, _ = begin_on_pro(client)
    browser = Browser(app, alice)
    assert "/dashboard/settings/close" in browser.open("/dashboard/settings").text
    assert "49.50" in browser.open("/dashboard/settings/close").text
    refused = browser.submit("/dashboard/settings/close", name="Acme Inc")
    assert (refused.status_code, "Type the name as it is" in refused.text) == (422, True)
    assert browser.submit("/dashboard/settings/close", name="Acme").status_code == 303
    page = browser.open("/dashboard/billing")
    assert "This organization is closed." in page.text
    assert "/dashboard/settings/close" not in browser.open("/dashboard/settings").text
    invoice, _ = alice.call("GET", "/billing/history")[1]["invoices"]
    assert browser.open(f"/dashboard/billing/invoices/{invoice['id']}").status_code == 200


@pytest.mark.parametrize("role", [role for role in ROLES if role != MemberRole.OWNER])
def test_only_the_owner_closes(alice: User, role: str) -> None:
    member = add_member(alice, f"{role}@acme.example", role)
    assert member.call("POST", "/organization/close", name="Acme") == (403, "PERMISSION_DENIED")
    assert Browser(alice.client.application, member).open("/dashboard/settings/close").status_code == 403


def begin_on_pro(client: FlaskClient) -> tuple[User, Headers]:
    """The owner of Acme, on pro for the first half of a period that goes on, and a key; half of its base is 49.50."""
    alice = sign_up(client)
    key = make_key(client, alice)
    starts_at = period_end(client, alice)
    clock.freeze_time(starts_at)
    assert alice.call("POST", "/billing/upgrade", plan="pro", when="now")[0] == 200
    clock.freeze_time(starts_at + (period_end(client, alice) - starts_at) / 2)
    return alice, key


def pay(user: User, invoice_id: str) -> None:
    """Pay an invoice at the mock provider."""
    assert user.call("POST", "/billing/initiate-payment", invoice_id=invoice_id, provider="mock")[0] == 200
    with user.client.application.app_context():
        [payment] = system_rows("SELECT * FROM payments")
        user.client.post(f"/payments/mock/{payment.provider_reference}", data={"action": "pay"})
        event = mock_payments.new_event("checkout.completed", payment.provider_reference)
        user.client.post(EVENTS, data=event.body, headers={MOCK: event.signature})
        jobs.process_inbox()
