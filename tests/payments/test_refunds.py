"""Refunds of credit notes, offline payments, and their commands."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, current_app
from flask.testing import FlaskClient

from saas_api.accounts import audit as audit_log
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.accounts.models import Organization
from saas_api.billing import credit_notes
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.db.pagination import PageRequest
from saas_api.dashboard import audit
from saas_api.payments import jobs, labels, payments, payouts
from saas_api.payments import refunds as refund_acts
from saas_api.payments.payments import OfflinePayment
from saas_api.payments.payouts import PayoutExceedsWallet
from saas_api.payments.refunds import RefundNotFailed
from tests.support.accounts import sign_up
from tests.support.billing_actions import JUNE, audit_actions, close_periods
from tests.support.payments import PayingOrganization
from tests.support.paystack_server import PaystackServer
from tests.support.stripe_server import StripeServer


def pay(acme: PayingOrganization, provider: str, server: Any) -> None:
    reference = acme.begin(provider)
    finish = {"stripe": "pay", "paystack": "finish"}[provider]
    getattr(server, finish)(reference)
    assert payments.settle_payment(provider, reference) == "done"


def create_refund(acme: PayingOrganization, minor: int) -> None:
    """Create a credit note with a refund."""
    with tenancy.system_session("admin.act") as session:
        credit = CreditNoteInput("service_issue", amount_minor=minor, is_refund=True)
        credit_notes.create_credit_note(
            session, acme.id, acme.invoice_id, credit, OperatorContext(SYSTEM_ACTOR, "sorry")
        )


def refunds(acme: PayingOrganization) -> list[tuple[str, int]]:
    rows = acme.rows("SELECT state, amount_minor FROM refunds ORDER BY created_at, id")
    return [(row.state, row.amount_minor) for row in rows]


def test_credit_note_is_refunded_once(acme: PayingOrganization, stripe: StripeServer) -> None:
    pay(acme, "stripe", stripe)
    create_refund(acme, 2500)
    for _ in range(3):
        jobs.reconcile()
    assert refunds(acme) == [("succeeded", 2500)]
    assert acme.payment().refunded_minor == 2500
    assert [refund["amount"] for refund in stripe.refunds.values()] == ["2500"]


def test_audit_log_calls_payments_and_refunds_by_their_invoice(
    acme: PayingOrganization, client: FlaskClient, stripe: StripeServer
) -> None:
    pay(acme, "stripe", stripe)
    create_refund(acme, 2500)
    jobs.reconcile()
    number = acme.invoice().number
    subjects = [(acme.id, acme.payment().id), (acme.id, acme.rows("SELECT id FROM refunds")[0].id)]
    with acme.transaction() as session:
        page = audit_log.list_events(session, session.get_one(Organization, acme.id), PageRequest(50))
        names = audit.get_names(session, acme.id, page.items)
        assert {names[str(subject)] for _, subject in subjects} == {f"for {number}"}
        assert names[str(acme.invoice_id)] == number
    other = sign_up(client, "carol@carol.example", "Carol & Co")
    with tenancy.tenant_session(ids.parse_id("org", other.organization_id)) as session:
        assert labels.find_labels(session, [*subjects, (acme.id, acme.invoice_id)]) == {}, "of another organization"


def test_pending_refund_is_checked_and_not_requested_again(acme: PayingOrganization, stripe: StripeServer) -> None:
    pay(acme, "stripe", stripe)
    create_refund(acme, 2500)
    stripe.refund_status = "pending"
    jobs.reconcile()
    stripe.forget_keys()
    jobs.reconcile()
    assert refunds(acme) == [("pending", 2500)]
    assert len(stripe.refunds) == 1
    stripe.refunds["re_1"]["status"] = "succeeded"
    jobs.reconcile()
    assert refunds(acme) == [("succeeded", 2500)]
    assert len(stripe.refunds) == 1


def test_concurrent_runs_plan_a_refund_once(acme: PayingOrganization, stripe: StripeServer) -> None:
    pay(acme, "stripe", stripe)
    create_refund(acme, 2500)
    app = current_app._get_current_object()

    def run(_: int) -> None:
        with app.app_context():
            jobs.reconcile()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert refunds(acme) == [("succeeded", 2500)]
    assert sum(int(refund["amount"]) for refund in stripe.refunds.values()) == 2500


@pytest.mark.parametrize("name", ["stripe", "paystack"])
def test_refund_with_a_lost_response_is_not_sent_twice(
    acme: PayingOrganization, stripe: StripeServer, paystack: PaystackServer, name: str
) -> None:
    server: Any = {"stripe": stripe, "paystack": paystack}[name]
    pay(acme, name, server)
    create_refund(acme, 2500)
    original, lost = server.process, []

    def lose_the_refund(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        status, response = original(method, path, headers, body)
        if method == "POST" and not lost:
            lost.append(path)
            return 502, {"status": False, "error": {"message": "lost", "type": "api_error"}}
        return status, response

    server.process = lose_the_refund
    jobs.reconcile()
    assert refunds(acme) == [("pending", 2500)]
    jobs.reconcile()
    assert refunds(acme) == [("succeeded", 2500)]
    assert len(server.refunds) == 1


def test_refund_that_the_provider_rejects_fails_and_stays_visible(acme: PayingOrganization) -> None:
    money = OfflinePayment(9900, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    create_refund(acme, 900)
    jobs.reconcile()
    assert refunds(acme) == [("failed", 900)]
    assert acme.payment().refunded_minor == 0


@pytest.fixture
def failed_refund(acme: PayingOrganization) -> str:
    """Id of a refund of 9.00 of a bank transfer, which no provider can send back."""
    money = OfflinePayment(9900, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    create_refund(acme, 900)
    jobs.reconcile()
    return ids.format_id("rfd", acme.rows("SELECT id FROM refunds")[0].id)


def test_failed_refund_is_recorded_as_paid_back_by_hand(
    app: Flask, acme: PayingOrganization, failed_refund: str
) -> None:
    """B3: paid by transfer, credited with a refund that fails: the transfer back is recorded, once."""
    assert failed_refund in invoke(app, "list").output
    for expected in (0, 1):
        done = invoke(app, "refund-by-hand", failed_refund, "MT940 0816", "--reason", "paid by transfer")
        assert done.exit_code == expected, done.output
    [refund] = acme.rows("SELECT state, provider_reference FROM refunds")
    assert tuple(refund) == ("succeeded", "MT940 0816")
    assert (acme.payment().refunded_minor, acme.wallet()) == (900, 0)
    assert "refund.paid_by_hand" in audit_actions(acme)


def test_failed_refund_is_turned_into_credit_that_pays_the_open_invoice(
    app: Flask, acme: PayingOrganization, failed_refund: str
) -> None:
    """B3: the credit pays what is open, and the refund ends."""
    close_periods(acme, JUNE)
    assert invoke(app, "refund-to-wallet", failed_refund, "--reason", "the customer agreed").exit_code == 0
    assert refunds(acme) == [("canceled", 900)]
    assert acme.invoices()[-1].credits_applied_minor == 900
    assert invoke(app, "refund-to-wallet", failed_refund, "--reason", "the customer agreed").exit_code == 1
    assert invoke(app, "refund-by-hand", failed_refund, "1", "--reason", "paid by transfer").exit_code == 1


def test_refund_of_a_transfer_cannot_be_retried(app: Flask, failed_refund: str) -> None:
    """B3: there is no provider to ask."""
    refused = invoke(app, "refund-retry", failed_refund, "--reason", "once more")
    assert (refused.exit_code, "NO_REFUND_PROVIDER" in refused.output) == (1, True)


def test_refund_that_the_provider_refused_is_retried(
    app: Flask, acme: PayingOrganization, stripe: StripeServer
) -> None:
    """B3: the provider forgets nothing, so each attempt has a key of its own."""
    pay(acme, "stripe", stripe)
    create_refund(acme, 2500)
    stripe.refund_status = "failed"
    jobs.reconcile()
    assert refunds(acme) == [("failed", 2500)]
    stripe.refund_status = "succeeded"
    refund = ids.format_id("rfd", acme.rows("SELECT id FROM refunds")[0].id)
    assert invoke(app, "refund-retry", refund, "--reason", "the balance is topped up").exit_code == 0
    for _ in range(2):
        jobs.reconcile()
    assert refunds(acme) == [("succeeded", 2500)]
    assert [one["status"] for one in stripe.refunds.values()] == ["failed", "succeeded"]
    assert acme.payment().refunded_minor == 2500


def test_concurrent_decisions_on_a_failed_refund_move_the_money_once(
    app: Flask, acme: PayingOrganization, failed_refund: str
) -> None:
    """B3: of two operators who decide differently one is refused."""
    refund_id = ids.parse_id("rfd", failed_refund)

    def decide(number: int) -> bool:
        operator = OperatorContext(SYSTEM_ACTOR, "decided")
        try:
            with app.app_context(), tenancy.system_session("admin.act") as session:
                if number % 2:
                    refund_acts.turn_into_credit(session, refund_id, operator)
                else:
                    refund_acts.record_paid_back(session, refund_id, operator, "MT940 0816")
        except RefundNotFailed:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(decide, range(4))) == [False, False, False, True]
    assert acme.payment().refunded_minor + acme.wallet() == 900


def overpay(acme: PayingOrganization, stripe: StripeServer) -> None:
    """Pay the invoice by transfer while its page at Stripe is paid too: 99.00 go into the wallet."""
    reference = acme.begin("stripe")
    stripe.pay(reference)
    money = OfflinePayment(9900, "USD", "MT940 0815")
    payments.record_offline_payment(acme.id, [acme.invoice_id], money, SYSTEM_ACTOR, "bank transfer")
    jobs.reconcile()
    assert acme.wallet() == 9900


def test_wallet_money_is_paid_out_through_its_provider(
    app: Flask, acme: PayingOrganization, stripe: StripeServer
) -> None:
    """B7: what was paid twice goes back the way it came, at most as much as is left of it."""
    overpay(acme, stripe)
    organization = ids.format_id("org", acme.id)
    refused = invoke(app, "payout", organization, "99.01", "--reason", "paid twice")
    assert (refused.exit_code, "PAYOUT_EXCEEDS_WALLET" in refused.output) == (1, True)
    assert invoke(app, "payout", organization, "60.00", "--reason", "paid twice").exit_code == 0
    for _ in range(2):
        jobs.reconcile()
    assert (refunds(acme), acme.wallet()) == ([("succeeded", 6000)], 3900)
    assert [one["amount"] for one in stripe.refunds.values()] == ["6000"]
    assert invoke(app, "payout", organization, "60.00", "--reason", "paid twice").exit_code == 1


def test_wallet_money_is_paid_out_by_hand_once(app: Flask, acme: PayingOrganization, stripe: StripeServer) -> None:
    """B7: a bank reference is paid out once; promotional credit never."""
    overpay(acme, stripe)
    acme.grant(500, "promotional", 5)
    organization = ids.format_id("org", acme.id)
    arguments = ("payout", organization, "39.00", "--reference", "MT940 0816", "--reason", "paid twice")
    assert [invoke(app, *arguments).exit_code for _ in range(2)] == [0, 1]
    assert (refunds(acme), acme.wallet()) == ([], 6500)
    rest = invoke(app, "payout", organization, "65.00", "--reference", "MT940 0817", "--reason", "paid twice")
    assert (rest.exit_code, "60.00" in rest.output) == (1, True), rest.output


def test_concurrent_payouts_take_the_money_once(app: Flask, acme: PayingOrganization, stripe: StripeServer) -> None:
    """B7: four payouts of 60.00 out of 99.00: one is made."""
    overpay(acme, stripe)

    def take(number: int) -> bool:
        operator = OperatorContext(SYSTEM_ACTOR, "paid twice")
        try:
            with app.app_context(), tenancy.system_session("admin.act") as session:
                payouts.pay_out(session, acme.id, (6000, "USD"), operator, f"MT940 {number}")
        except PayoutExceedsWallet:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, range(4))) == [False, False, False, True]
    assert acme.wallet() == 3900


def invoke(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["payments", *arguments])


def test_bank_transfer_is_recorded_once_and_its_excess_goes_to_the_wallet(app: Flask, acme: PayingOrganization) -> None:
    arguments = (ids.format_id("org", acme.id), ids.format_id("inv", acme.invoice_id), "120.00")
    options = ("--reference", "MT940 0815", "--reason", "bank transfer")
    booked = invoke(app, "record", *arguments, *options)
    assert (booked.exit_code, "99.00 USD on inv_" in booked.output) == (0, True)
    assert (acme.invoice().state, acme.wallet()) == ("paid", 2100)
    again = invoke(app, "record", *arguments, *options)
    assert (again.exit_code, "was booked before" in again.output) == (1, True)
    assert acme.wallet() == 2100


def test_quarantined_payment_is_listed_checked_and_resolved(app: Flask, acme: PayingOrganization) -> None:
    acme.choose(acme.begin(), "pay_wrong")
    jobs.process_inbox()
    payment = ids.format_id("pay", acme.payment().id)
    assert "more_than_asked" in invoke(app, "list", "--state", "quarantined").output
    assert "is quarantined" in invoke(app, "check", payment).output
    assert invoke(app, "resolve", payment, "--reason", "paid back by hand").exit_code == 0
    assert acme.payment().state == "canceled"
    assert invoke(app, "resolve", payment, "--reason", "again").exit_code == 1
    assert acme.invoice().state == "open"
