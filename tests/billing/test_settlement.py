"""Money that meets an invoice: it is booked once, never beyond what is due, and never lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.billing import invoice_lifecycle, invoices
from saas_api.billing.invoices import InvoiceNotOpen, SettlementResult
from saas_api.core import clock
from saas_api.core.errors import NotFound
from tests.support.billing import day, found
from tests.support.billing_actions import ACT, MAY, acts, close, invoiced, newest, settle, system, told

pytestmark = pytest.mark.usefixtures("context")


def test_payment_of_the_amount_due_settles_the_invoice_and_publishes_it() -> None:
    company, invoice = invoiced()
    assert settle(company, invoice.id, 3205) == SettlementResult(3205, 0, is_paid=True)
    paid = newest(company)
    assert (paid.state, paid.due_minor, paid.paid_at) == ("paid", 0, MAY)
    [(_, data)] = told(company, "invoice.paid")
    assert data == {
        "object": "invoice",
        "id": f"inv_{invoice.id.hex}",
        "number": "INV-000001",
        "status": "paid",
        "period": {
            "starts_at": "2026-04-01T00:00:00.000Z",
            "ends_at": "2026-05-01T00:00:00.000Z",
            "timezone": "UTC",
        },
        "total_amount": "32.05",
        "amount_due": "0.00",
        "currency": "USD",
        "due_date": "2026-05-08T02:00:00.000Z",
        "paid_at": "2026-05-01T02:00:00.000Z",
        "attempt": 0,
        "next_attempt_at": None,
        "version": 3,
    }
    assert "invoice.paid" in acts(company)


def test_partial_payment_leaves_the_rest_due() -> None:
    company, invoice = invoiced()
    assert settle(company, invoice.id, 3000) == SettlementResult(3000, 0, is_paid=False)
    assert (newest(company).state, newest(company).due_minor) == ("open", 205)
    assert settle(company, invoice.id, 205, "payment:2").is_paid


def test_payment_above_the_amount_due_goes_to_the_wallet() -> None:
    company, invoice = invoiced()
    settle(company, invoice.id, 3000)
    assert settle(company, invoice.id, 3205, "payment:2") == SettlementResult(205, 3000, is_paid=True)
    [grant] = company.rows("SELECT kind, source_key, amount_minor FROM credit_grants")
    assert tuple(grant) == ("overpayment", "payment:2", 3000)


def test_second_payment_of_a_paid_invoice_goes_to_the_wallet() -> None:
    company, invoice = invoiced()
    settle(company, invoice.id, 3205)
    assert settle(company, invoice.id, 3205, "payment:2") == SettlementResult(0, 3205, is_paid=True)
    assert newest(company).paid_minor == 3205
    assert len(told(company, "invoice.paid")) == 1


def test_payment_of_a_void_invoice_goes_to_the_wallet() -> None:
    company, invoice = invoiced()
    with system() as session:
        invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT)
    assert settle(company, invoice.id, 3205) == SettlementResult(0, 3205, is_paid=False)


def test_uncollectible_invoice_can_be_paid() -> None:
    company, invoice = invoiced()
    with system() as session:
        invoices.mark_uncollectible(session, company.id, invoice.id)
    with system() as session:
        invoices.mark_uncollectible(session, company.id, invoice.id)
    assert newest(company).state == "uncollectible"
    assert len(told(company, "invoice.marked_uncollectible")) == 1
    assert settle(company, invoice.id, 3205).is_paid


def test_paid_invoice_cannot_be_marked_uncollectible() -> None:
    company, invoice = invoiced()
    settle(company, invoice.id, 3205)
    with pytest.raises(InvoiceNotOpen), system() as session:
        invoices.mark_uncollectible(session, company.id, invoice.id)


def test_payment_of_an_unknown_invoice_is_rejected() -> None:
    company, invoice = invoiced()
    carol = found("Carol")
    for owner, invoice_id in ((company, uuid4()), (carol, invoice.id)):
        with pytest.raises(NotFound), system() as session:
            invoices.apply_payment(session, owner.id, invoice_id, 100, "payment:1")


def test_concurrent_settlements_never_allocate_more_than_is_due(app: Flask) -> None:
    company, invoice = invoiced()
    start = threading.Barrier(4)

    def pay(number: int) -> SettlementResult:
        with app.app_context():
            start.wait()
            return settle(company, invoice.id, 1000, f"payment:{number}")

    with ThreadPoolExecutor(4) as pool:
        settled = [run.result() for run in [pool.submit(pay, number) for number in range(4)]]
    assert sum(one.allocated_minor for one in settled) == 3205
    assert sum(one.excess_minor for one in settled) == 795
    assert newest(company).state == "paid"


def test_event_versions_rise_after_older_events_were_purged() -> None:
    company, invoice = invoiced()
    clock.freeze_time(day(10, month=6))
    with system() as session:
        session.execute(text("DELETE FROM webhook_deliveries"))
        session.execute(text("DELETE FROM events"))
    settle(company, invoice.id, 3205)
    [(_, data)] = told(company, "invoice.paid")
    assert data["version"] > 3


def test_finalization_stores_the_seller_publishes_and_mails() -> None:
    company, invoice = invoiced()
    assert invoice.seller == {"name": "saas-api"}
    [(_, data)] = told(company, "invoice.finalized")
    assert (data["status"], data["version"], data["due_date"]) == ("open", 2, "2026-05-08T02:00:00.000Z")
    mails = company_mails()
    assert [(mail.template, mail.recipient) for mail in mails] == [("invoice_ready", "alice@acme.example")]
    assert "32.05 USD" in mails[0].text_body


def test_invoice_of_zero_is_paid_at_once_without_mail() -> None:
    company = found()
    assert close(company).state == "paid"
    assert company_mails() == []


def company_mails() -> list:
    with system() as session:
        return list(session.execute(text("SELECT * FROM mails WHERE template = 'invoice_ready'")))
