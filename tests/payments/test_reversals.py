"""Refunds that were made at a provider, and disputes: both reach the books through the provider's events."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from flask import Flask

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import invariants
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.payments import dunning, jobs, payments, payouts, reversals
from saas_api.payments.payments import OfflinePayment
from saas_api.payments.payouts import PayoutExceedsWallet
from saas_api.providers import mock_payments
from tests.support import paystack_server, stripe_server
from tests.support.billing_actions import OPERATOR, audit_actions
from tests.support.payments import MOCK, PAYSTACK, STRIPE, PayingOrganization, inbox_events, mail_templates
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer


@pytest.fixture
def reference(acme: PayingOrganization, stripe: StripeServer) -> str:
    """Reference of a payment at Stripe that has paid the invoice of 99.00."""
    reference = acme.begin("stripe")
    stripe.pay(reference)
    assert payments.settle_payment("stripe", reference) == "done"
    return reference


def deliver(acme: PayingOrganization, body: bytes) -> None:
    assert acme.post(STRIPE, body, stripe_server.sign(body)) == 200
    jobs.process_inbox()
    assert {event.status for event in inbox_events()} == {"processed"}


def standing(acme: PayingOrganization) -> str:
    return str(acme.rows("SELECT standing FROM subscriptions")[0].standing)


def books_hold(acme: PayingOrganization) -> bool:
    checks = {result.check.name for result in invariants.check_invariants(acme.id) if result.violations}
    return not {name for name in checks if name.startswith(("sums", "amounts", "numbers"))}


def test_refund_at_the_provider_is_booked_once_with_a_credit_note(
    acme: PayingOrganization, olga: None, stripe: StripeServer, reference: str
) -> None:
    """B15: it was ignored; no second refund of the same money can be asked for afterwards."""
    for _ in range(2):
        deliver(acme, stripe.refund_by_hand(reference, 2500))
    deliver(acme, stripe.refund_by_hand(reference, 1000, number=2))
    assert acme.payment().refunded_minor == 3500
    notes = acme.rows("SELECT to_refund_minor, to_due_minor FROM credit_notes ORDER BY serial")
    assert [tuple(note) for note in notes] == [(2500, 0), (1000, 0)]
    assert (acme.invoice().state, acme.invoice().credited_minor) == ("paid", 3500)
    assert mail_templates("operator_alert") == ["operator_alert"] * 2
    jobs.reconcile()
    assert len(stripe.refunds) == 2
    assert books_hold(acme)


def test_refund_at_the_provider_takes_wallet_money_of_the_payment_first(
    acme: PayingOrganization, stripe: StripeServer
) -> None:
    """B15: what was paid twice and lies in the wallet is what goes back; it cannot be paid out again."""
    reference = acme.begin("stripe")
    stripe.pay(reference)
    money = OfflinePayment(9900, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    jobs.reconcile()
    deliver(acme, stripe.refund_by_hand(reference, 9900))
    assert (acme.wallet(), acme.rows("SELECT * FROM credit_notes")) == (0, [])
    with pytest.raises(PayoutExceedsWallet), tenancy.system_session("admin.act") as session:
        payouts.pay_out(session, acme.id, (1, "USD"), OPERATOR, "MT940 0816")
    assert books_hold(acme)


def test_dispute_reverses_the_payment_and_restricts_until_it_is_won(
    acme: PayingOrganization, olga: None, stripe: StripeServer, reference: str
) -> None:
    """B15: alert, standing, reversal; a dispute that is won pays the invoice again."""
    deliver(acme, stripe.dispute(reference, 9900))
    assert (acme.invoice().state, acme.invoice().due_minor, standing(acme)) == ("open", 9900, "restricted")
    deliver(acme, stripe.dispute(reference, 9900, "under_review"))
    deliver(acme, stripe.dispute(reference, 9900, "won"))
    assert (acme.invoice().state, acme.invoice().due_minor, standing(acme)) == ("paid", 0, "good")
    assert (acme.payment().disputed_minor, acme.payment().allocated_minor) == (0, 9900)
    assert mail_templates("operator_alert") == ["operator_alert"] * 2
    assert [name for name in audit_actions(acme) if "disput" in name] == ["payment.disputed", "payment.dispute_won"]
    assert books_hold(acme)


def test_lost_dispute_is_dunned_and_paid_another_way(
    acme: PayingOrganization, stripe: StripeServer, reference: str
) -> None:
    """B15: the dunning of the invoice goes on; a transfer ends it, and a dispute won later goes into the wallet."""
    dunning.run_dunning(clock.now())
    deliver(acme, stripe.dispute(reference, 9900, "lost"))
    clock.freeze_time(max(clock.now(), acme.invoice().due_at))
    assert [step.action for step in dunning.run_dunning(clock.now()).done] == ["remind"]
    money = OfflinePayment(9900, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    assert (acme.invoice().state, standing(acme)) == ("paid", "good")
    clock.freeze_time(None)
    deliver(acme, stripe.dispute(reference, 9900, "won"))
    assert acme.wallet() == 9900
    assert books_hold(acme)


def test_concurrent_events_book_a_refund_and_a_dispute_once(
    app: Flask, acme: PayingOrganization, stripe: StripeServer, reference: str
) -> None:
    """B15: four workers ask at the same time."""
    stripe.refund_by_hand(reference, 2500)
    stripe.dispute(reference, 4000)

    def apply(_: int) -> str:
        with app.app_context():
            return reversals.apply_reversals("stripe", f"pi_{reference}")

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(apply, range(4))) == {"done"}
    assert (acme.payment().refunded_minor, acme.payment().disputed_minor) == (2500, 4000)
    assert acme.invoice().due_minor == 4000
    assert books_hold(acme)


def test_inquiry_takes_no_money(acme: PayingOrganization, stripe: StripeServer, reference: str) -> None:
    """B15: Stripe withdraws nothing for an inquiry."""
    deliver(acme, stripe.dispute(reference, 9900, "warning_needs_response"))
    assert (acme.invoice().state, standing(acme)) == ("paid", "good")


def paystack_event(kind: str, data: dict[str, Any]) -> bytes:
    return orjson.dumps({"event": kind, "data": {"id": 7, **data}})


def test_refund_and_dispute_at_paystack(acme: PayingOrganization, paystack: PaystackServer) -> None:
    """B15: Paystack's events name the transaction in two other places."""
    reference = acme.begin("paystack")
    paystack.finish(reference)
    payments.settle_payment("paystack", reference)
    refund = {"id": 9, "status": "processed", "amount": 900, "transaction": reference, "merchant_note": "by olga"}
    paystack.refunds.append(refund)
    paystack.disputes.append({"id": 8, "status": "pending", "resolution": None, "refund_amount": 5000})
    for kind, data in (
        ("refund.processed", {"transaction_reference": reference}),
        ("charge.dispute.create", {"transaction": {"reference": reference}}),
    ):
        body = paystack_event(kind, data)
        assert acme.post(PAYSTACK, body, paystack_server.sign(body)) == 200
        jobs.process_inbox()
    assert (acme.payment().refunded_minor, acme.payment().disputed_minor) == (900, 5000)
    assert (acme.invoice().state, acme.invoice().due_minor) == ("open", 5000)
    assert books_hold(acme)


def test_refund_and_dispute_at_the_mock_provider(app: Flask, acme: PayingOrganization) -> None:
    """B15: the provider that takes no money can show both."""
    reference = acme.begin()
    acme.choose(reference, "pay")
    jobs.process_inbox()
    for changes in ({"returned_minor": 900}, {"returned_minor": 900, "disputed_minor": 9000}):
        event = mock_payments.submit_reversal(reference, **changes)
        assert acme.post(MOCK, event.body, event.signature) == 200
        jobs.process_inbox()
    assert (acme.payment().refunded_minor, acme.invoice().due_minor) == (900, 9000)
