"""Refunds of credit notes, offline payments, and their commands."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, current_app

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.payments import jobs, payments
from saas_api.payments.payments import OfflinePayment
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
    payments.record_offline_payment(acme.id, acme.invoice_id, money, SYSTEM_ACTOR, "bank transfer")
    create_refund(acme, 900)
    jobs.reconcile()
    assert refunds(acme) == [("failed", 900)]
    assert acme.payment().refunded_minor == 0


def invoke(app: Flask, *arguments: str) -> Any:
    return app.test_cli_runner().invoke(args=["payments", *arguments])


def test_bank_transfer_is_recorded_once_and_its_excess_goes_to_the_wallet(app: Flask, acme: PayingOrganization) -> None:
    arguments = (ids.format_id("org", acme.id), ids.format_id("inv", acme.invoice_id), "120.00")
    options = ("--reference", "MT940 0815", "--reason", "bank transfer")
    booked = invoke(app, "record", *arguments, *options)
    assert (booked.exit_code, "99.00 USD on the bill" in booked.output) == (0, True)
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
