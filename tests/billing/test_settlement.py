"""Payments of invoices: applied once, never above the amount due, and the excess goes to the wallet."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.billing import invoice_lifecycle, invoices, settlement
from saas_api.billing.invoices import InvoiceNotOpen
from saas_api.billing.settlement import SettlementResult
from saas_api.core import clock
from saas_api.core.errors import NotFound
from tests.support.billing import create_organization, day
from tests.support.billing_actions import (
    MAY,
    OPERATOR,
    audit_actions,
    close_periods,
    create_invoice,
    newest_invoice,
    published_events,
    settle_payment,
    system_session,
)

pytestmark = pytest.mark.usefixtures("context")


def test_payment_of_the_amount_due_settles_the_invoice_and_publishes_it() -> None:
    organization, invoice = create_invoice()
    assert settle_payment(organization, invoice.id, 3205) == SettlementResult(3205, 0)
    paid = newest_invoice(organization)
    assert (paid.state, paid.due_minor, paid.paid_at) == ("paid", 0, MAY)
    [(_, data)] = published_events(organization, "invoice.paid")
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
    assert "invoice.paid" in audit_actions(organization)


def test_partial_payment_leaves_the_rest_due() -> None:
    organization, invoice = create_invoice()
    assert settle_payment(organization, invoice.id, 3000) == SettlementResult(3000, 0)
    assert (newest_invoice(organization).state, newest_invoice(organization).due_minor) == ("open", 205)
    assert settle_payment(organization, invoice.id, 205, "payment:2") == SettlementResult(205, 0)
    assert newest_invoice(organization).state == "paid"


def test_payment_above_the_amount_due_goes_to_the_wallet() -> None:
    organization, invoice = create_invoice()
    settle_payment(organization, invoice.id, 3000)
    assert settle_payment(organization, invoice.id, 3205, "payment:2") == SettlementResult(205, 3000)
    [grant] = organization.rows("SELECT kind, source_key, amount_minor FROM credit_grants")
    assert tuple(grant) == ("overpayment", "payment:2", 3000)


def test_second_payment_of_a_paid_invoice_goes_to_the_wallet() -> None:
    organization, invoice = create_invoice()
    settle_payment(organization, invoice.id, 3205)
    assert settle_payment(organization, invoice.id, 3205, "payment:2") == SettlementResult(0, 3205)
    assert newest_invoice(organization).paid_minor == 3205
    assert len(published_events(organization, "invoice.paid")) == 1


def test_payment_of_a_void_invoice_goes_to_the_wallet() -> None:
    organization, invoice = create_invoice()
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR)
    assert settle_payment(organization, invoice.id, 3205) == SettlementResult(0, 3205)


def test_uncollectible_invoice_can_be_paid() -> None:
    organization, invoice = create_invoice()
    with system_session() as session:
        invoices.mark_uncollectible(session, organization.id, invoice.id)
    with system_session() as session:
        invoices.mark_uncollectible(session, organization.id, invoice.id)
    assert newest_invoice(organization).state == "uncollectible"
    assert len(published_events(organization, "invoice.marked_uncollectible")) == 1
    assert settle_payment(organization, invoice.id, 3205) == SettlementResult(3205, 0)
    assert newest_invoice(organization).state == "paid"


def test_paid_invoice_cannot_be_marked_uncollectible() -> None:
    organization, invoice = create_invoice()
    settle_payment(organization, invoice.id, 3205)
    with pytest.raises(InvoiceNotOpen), system_session() as session:
        invoices.mark_uncollectible(session, organization.id, invoice.id)


def test_payment_of_an_unknown_invoice_is_rejected() -> None:
    organization, invoice = create_invoice()
    carol = create_organization("Carol")
    for owner, invoice_id in ((organization, uuid4()), (carol, invoice.id)):
        with pytest.raises(NotFound), system_session() as session:
            settlement.apply_payment(session, owner.id, invoice_id, 100, "payment:1")


def test_concurrent_settlements_never_allocate_more_than_is_due(app: Flask) -> None:
    organization, invoice = create_invoice()
    start = threading.Barrier(4)

    def pay(number: int) -> SettlementResult:
        with app.app_context():
            start.wait()
            return settle_payment(organization, invoice.id, 1000, f"payment:{number}")

    with ThreadPoolExecutor(4) as pool:
        settled = [run.result() for run in [pool.submit(pay, number) for number in range(4)]]
    assert sum(payment.allocated_minor for payment in settled) == 3205
    assert sum(payment.excess_minor for payment in settled) == 795
    assert newest_invoice(organization).state == "paid"


def test_event_versions_rise_after_older_events_were_purged() -> None:
    organization, invoice = create_invoice()
    clock.freeze_time(day(10, month=6))
    with system_session() as session:
        session.execute(text("DELETE FROM webhook_deliveries"))
        session.execute(text("DELETE FROM events"))
    settle_payment(organization, invoice.id, 3205)
    [(_, data)] = published_events(organization, "invoice.paid")
    assert data["version"] > 3


def test_finalization_stores_the_seller_publishes_and_mails() -> None:
    organization, invoice = create_invoice()
    assert invoice.seller == {"name": "saas-api"}
    [(_, data)] = published_events(organization, "invoice.finalized")
    assert (data["status"], data["version"], data["due_date"]) == ("open", 2, "2026-05-08T02:00:00.000Z")
    mails = invoice_mails()
    assert [(mail.template, mail.recipient) for mail in mails] == [("invoice_ready", "alice@acme.example")]
    assert "$32.05" in mails[0].text_body
    assert all(text in mails[0].text_body for text in ("Period:     Apr 1 ", " Apr 30, 2026\n"))


def test_invoice_of_zero_is_paid_at_once_without_mail() -> None:
    organization = create_organization()
    assert close_periods(organization).state == "paid"
    assert invoice_mails() == []


def invoice_mails() -> list:
    with system_session() as session:
        return list(session.execute(text("SELECT * FROM mails WHERE template = 'invoice_ready'")))
