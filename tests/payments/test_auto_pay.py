"""Auto-pay charges a new invoice once, whatever fails between the provider and us; what fails is dunning's."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from saas_api.billing import period_close, periods, settlement, wallet
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.payments import automatic, dunning, jobs, payment_methods
from tests.support import stripe_server
from tests.support.billing import day
from tests.support.billing_pages import API
from tests.support.faults import InjectFault
from tests.support.payments import (
    STRIPE,
    PayingOrganization,
    payment_amounts,
    system_rows,
)
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer

LATER = timedelta(hours=2)


def save_card(acme: PayingOrganization, provider: str = "mock", server: Any = None, action: str = "save") -> Any:
    """Save a card; returns the row of the method."""
    body = {"provider": provider}
    acme.client.post(f"{API}/payment-methods", json=body, headers=acme.owner.headers)
    reference = acme.rows("SELECT setup_reference FROM payment_methods ORDER BY id DESC LIMIT 1")[0].setup_reference
    if server:
        server.save_card(reference)
    else:
        acme.client.post(f"/payments/mock/setups/{reference}", data={"action": action})
    payment_methods.settle_setup(provider, reference)
    return acme.rows("SELECT * FROM payment_methods ORDER BY id DESC LIMIT 1")[0]


def begin_auto_pay(acme: PayingOrganization, provider: str = "mock", server: Any = None, action: str = "save") -> Any:
    """Save a card that is charged for the open invoice, too, as if it had been saved before that was issued."""
    method = save_card(acme, provider, server, action)
    system_rows("UPDATE payment_methods SET charges_from = '2026-01-01'")
    return method


def reconcile(acme: PayingOrganization) -> None:
    """Run reconciliation when the next check of the payment is due."""
    system_rows("UPDATE payments SET next_check_at = now() - interval '1 minute' WHERE next_check_at IS NOT NULL")
    jobs.reconcile()


def mock_charges() -> list[tuple[str, int]]:
    return [(row.state, row.captured_minor) for row in system_rows("SELECT * FROM mock_checkouts ORDER BY reference")]


def test_new_invoice_is_charged_to_the_default_method_before_dunning(acme: PayingOrganization) -> None:
    save_card(acme)
    jobs.charge_new_invoices()
    assert acme.rows("SELECT * FROM payments") == [], "an invoice from before the card is the customer's to pay"
    clock.freeze_time(max(clock.now(), day(1, month=6)) + timedelta(days=62))
    periods.ensure_accounts(clock.now(), acme.id)
    period_close.close_due(clock.now(), acme.id)
    issued = [invoice for invoice in acme.invoices() if invoice.id != acme.invoice_id]
    assert issued
    jobs.charge_new_invoices()
    dunning.run_dunning(clock.now())
    clock.freeze_time(None)
    statuses = {invoice.id: invoice.state for invoice in acme.invoices()}
    assert {statuses[invoice.id] for invoice in issued} == {"paid"}
    assert statuses[acme.invoice_id] == "open"
    assert {row.initiated_by for row in acme.rows("SELECT * FROM payments")} == {"auto"}
    assert "payment_received" in acme.mails()


@pytest.mark.parametrize("provider", ["mock", "stripe", "paystack"])
def test_each_provider_charges_once(
    acme: PayingOrganization, stripe: StripeServer, paystack: PaystackServer, provider: str
) -> None:
    server = {"stripe": stripe, "paystack": paystack}.get(provider)
    method = begin_auto_pay(acme, provider, server)
    for _ in range(2):
        jobs.charge_new_invoices()
        reconcile(acme)
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    [payment] = acme.rows("SELECT * FROM payments")
    assert payment.payment_method_id == method.id
    assert acme.invoice().state == "paid"
    assert acme.mails() == ["payment_received"]
    charges = {
        "mock": mock_charges,
        "stripe": lambda: [(one["status"], one["amount_received"]) for one in stripe.intents.values()],
        "paystack": lambda: [
            (one["status"], one["amount"]) for one in paystack.transactions.values() if one["amount"] == 9900
        ],
    }[provider]()
    assert [amount for _, amount in charges] == [9900]


@pytest.mark.parametrize(
    ("fault", "provider"),
    [
        ("payments.before_charge", "mock"),
        ("payments.after_ask", "stripe"),
        *(("payments.after_charge", provider) for provider in ("mock", "stripe", "paystack")),
    ],
)
def test_killed_charge_is_finished_by_reconciliation_and_made_once(
    acme: PayingOrganization,
    stripe: StripeServer,
    paystack: PaystackServer,
    inject_fault: InjectFault,
    fault: str,
    provider: str,
) -> None:
    begin_auto_pay(acme, provider, {"stripe": stripe, "paystack": paystack}.get(provider))
    inject_fault(f"{fault}:raise")
    assert automatic.charge_new_invoices().failed == 1
    assert acme.invoice().state == "open"
    stripe.forget_keys()  # as after a day
    jobs.charge_new_invoices()
    reconcile(acme)
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    charged = [one["amount_received"] for one in stripe.intents.values()]
    charged += [minor for _, minor in mock_charges()]
    charged += [one["amount"] for one in paystack.transactions.values() if one["amount"] == 9900]
    assert charged == [9900]


def test_lost_answer_of_the_provider_charges_once(acme: PayingOrganization, stripe: StripeServer) -> None:
    begin_auto_pay(acme, "stripe", stripe)
    stripe.is_losing_responses = True
    jobs.charge_new_invoices()
    assert payment_amounts(acme)[0] == "created"
    stripe.is_losing_responses = False
    reconcile(acme)
    assert payment_amounts(acme) == ("succeeded", 9900, 9900, 0)
    assert len(stripe.intents) == 1


@pytest.mark.parametrize("provider", ["mock", "stripe", "paystack"])
def test_declined_charge_is_told_once_and_left_to_dunning(
    acme: PayingOrganization, stripe: StripeServer, paystack: PaystackServer, provider: str
) -> None:
    stripe.declines_with, paystack.declines = "card_declined", True
    server = {"stripe": stripe, "paystack": paystack}.get(provider)
    begin_auto_pay(acme, provider, server, "save_declining")
    for _ in range(2):
        jobs.charge_new_invoices()
        reconcile(acme)
    [payment] = acme.rows("SELECT * FROM payments")
    assert (payment.state, payment.captured_minor) == ("failed", 0)
    assert acme.mails() == ["payment_failed"]
    dunning.run_dunning(acme.invoice().due_at)
    assert [row.state for row in acme.rows("SELECT * FROM dunning_runs")] == ["active"]
    assert acme.begin() == acme.payment().provider_reference, "the customer pays by hand"


def test_auto_pay_that_is_off_charges_nothing_and_what_was_issued_meanwhile_stays(acme: PayingOrganization) -> None:
    begin_auto_pay(acme)
    for is_on in (False, True):
        body = {"enabled": is_on}
        assert acme.client.put(f"{API}/auto-pay", json=body, headers=acme.owner.headers).json["data"] == body
        jobs.charge_new_invoices()
    assert acme.rows("SELECT * FROM payments") == []


def test_provider_that_is_no_longer_configured_charges_nothing_and_fails_no_job(
    app: Flask, acme: PayingOrganization, stripe: StripeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_auto_pay(acme, "stripe", stripe)
    monkeypatch.setitem(app.config, "STRIPE_SECRET_KEY", "")
    jobs.charge_new_invoices()
    assert acme.rows("SELECT * FROM payments") == []


def test_invoice_that_is_being_paid_is_not_charged(acme: PayingOrganization) -> None:
    begin_auto_pay(acme)
    acme.begin()
    jobs.charge_new_invoices()
    assert [row.initiated_by for row in acme.rows("SELECT * FROM payments")] == ["customer"]


@pytest.mark.parametrize(
    ("fault", "provider"),
    [
        ("payments.after_charge", "stripe"),
        *(("payments.before_charge", provider) for provider in ("mock", "stripe", "paystack")),
    ],
)
def test_method_that_was_removed_is_not_charged_again(
    acme: PayingOrganization,
    stripe: StripeServer,
    paystack: PaystackServer,
    inject_fault: InjectFault,
    fault: str,
    provider: str,
) -> None:
    """A charge that the provider had accepted counts; one that it had not is never made."""
    method = begin_auto_pay(acme, provider, {"stripe": stripe, "paystack": paystack}.get(provider))
    inject_fault(f"{fault}:raise")
    automatic.charge_new_invoices()
    path = f"{API}/payment-methods/{ids.format_id('pmd', method.id)}"
    assert acme.client.delete(path, headers=acme.owner.headers).status_code == 200
    payment_methods.follow_due(clock.now())
    reconcile(acme)
    is_accepted = fault == "payments.after_charge"
    assert payment_amounts(acme)[0] == ("succeeded" if is_accepted else "failed")
    payment_methods.follow_due(clock.now() + LATER)
    assert [row.reference for row in acme.rows("SELECT * FROM payment_methods")] == [None]


def test_credit_that_comes_during_a_charge_goes_to_the_wallet(
    acme: PayingOrganization, inject_fault: InjectFault
) -> None:
    begin_auto_pay(acme)
    inject_fault("payments.after_charge:raise")
    automatic.charge_new_invoices()
    with tenancy.system_session("payments.settle") as session:
        source = GrantSource("test:1", GrantKind.PROMOTIONAL)
        wallet.add_grant(session, acme.id, source, 2_000, "USD")
        settlement.finish(session, acme.id)
    assert acme.invoice().due_minor == 7_900
    reconcile(acme)
    assert acme.invoice().state == "paid"
    assert payment_amounts(acme) == ("succeeded", 9900, 7900, 2000)


def test_payment_with_a_saved_method_is_refunded(acme: PayingOrganization, stripe: StripeServer) -> None:
    begin_auto_pay(acme, "stripe", stripe)
    jobs.charge_new_invoices()
    reference = acme.payment().provider_reference
    event = stripe.refund_by_hand(reference.removeprefix("pi_"), 1_000)
    assert acme.post(STRIPE, event, stripe_server.sign(event)) == 200
    jobs.process_inbox()
    assert acme.payment().refunded_minor == 1_000
