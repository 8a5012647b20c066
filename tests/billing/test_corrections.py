"""Corrections: drafts reviewed, invoices voided and replaced, credit notes within what is left."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from saas_api.billing import credit_notes, invoice_lifecycle, invoices
from saas_api.billing.credit_notes import CreditExceedsInvoice, CreditNoteInput
from saas_api.billing.invoice_lifecycle import InvoiceHasPayments, InvoiceNotDraft
from saas_api.billing.invoices import InvoiceNotOpen
from saas_api.core import ids
from saas_api.core.errors import ApiError, NotFound, ValidationFailed
from tests.support.billing import Company, day, found
from tests.support.billing_actions import (
    ACT,
    JUNE,
    acts,
    close,
    credit,
    invoiced,
    newest,
    review,
    settle,
    system,
    told,
)

pytestmark = pytest.mark.usefixtures("context")


def line(company: Company, kind: str) -> Any:
    return company.rows(f"SELECT id FROM invoice_lines WHERE source_key = '{kind}' ORDER BY id DESC LIMIT 1")[0].id


def test_credit_note_lowers_the_amount_due() -> None:
    company, invoice = invoiced(3_050, 12_345)
    note = credit(company, invoice.id, lines={line(company, "usage:starter@1:email"): 1235})
    assert (note.number, note.total_minor, note.to_due_minor, note.to_wallet_minor) == ("CN-000001", 1235, 1235, 0)
    after = newest(company)
    assert (after.state, after.due_minor, after.credited_minor, after.reduced_minor) == ("open", 5950, 1235, 1235)
    assert "credit_note.issued" in acts(company)


def test_credit_note_on_a_paid_invoice_goes_to_the_wallet() -> None:
    company, invoice = invoiced(3_050, 12_345)
    settle(company, invoice.id, 7185)
    credit(company, invoice.id, lines={line(company, "usage:starter@1:email"): 1235})
    [grant] = company.rows("SELECT kind, amount_minor FROM credit_grants")
    assert tuple(grant) == ("credit_note", 1235)
    company.use(305, at=day(10, month=5))
    assert close(company, JUNE).due_minor == 1970


def test_credit_note_over_the_amount_due_settles_the_invoice() -> None:
    company, invoice = invoiced()
    settle(company, invoice.id, 1000)
    note = credit(company, invoice.id)
    assert (note.total_minor, note.to_due_minor, note.to_wallet_minor) == (3205, 2205, 1000)
    assert newest(company).state == "paid"
    assert len(told(company, "invoice.paid")) == 1


def test_refund_is_at_most_what_was_paid() -> None:
    company, invoice = invoiced()
    settle(company, invoice.id, 3205)
    first = credit(company, invoice.id, amount_minor=1205, is_refund=True)
    second = credit(company, invoice.id, is_refund=True)
    assert (first.to_refund_minor, second.to_refund_minor, second.to_wallet_minor) == (1205, 2000, 0)


def test_wallet_credit_is_not_refunded() -> None:
    company = found(plan="starter@1")
    company.grant(1000, "promotional", 5)
    invoice = close(company)
    settle(company, invoice.id, 1900)
    note = credit(company, invoice.id, is_refund=True)
    assert (note.to_refund_minor, note.to_wallet_minor) == (1900, 1000)


def test_credit_amount_reduces_the_lines_in_their_order() -> None:
    company, invoice = invoiced()
    note = credit(company, invoice.id, amount_minor=3000)
    taken = company.rows("SELECT amount_minor FROM credit_note_lines ORDER BY amount_minor DESC")
    assert [row.amount_minor for row in taken] == [2900, 100]
    assert note.total_minor == 3000


@pytest.mark.parametrize("wanted", [{"amount_minor": 3206}, {"lines": {"base:starter@1": 2901}}])
def test_credit_above_the_invoice_or_a_line_is_rejected(wanted: dict[str, Any]) -> None:
    company, invoice = invoiced()
    lines = {line(company, key): amount for key, amount in wanted.get("lines", {}).items()}
    with pytest.raises(CreditExceedsInvoice) as refused:
        credit(company, invoice.id, lines=lines, amount_minor=wanted.get("amount_minor"))
    assert (refused.value.status, refused.value.code) == (409, "CREDIT_EXCEEDS_INVOICE")
    assert newest(company).credited_minor == 0


def test_second_credit_note_is_limited_to_what_the_first_left() -> None:
    company, invoice = invoiced()
    base = line(company, "base:starter@1")
    credit(company, invoice.id, lines={base: 2000})
    with pytest.raises(CreditExceedsInvoice):
        credit(company, invoice.id, lines={base: 901})
    credit(company, invoice.id)
    with pytest.raises(CreditExceedsInvoice):
        credit(company, invoice.id)


@pytest.mark.parametrize("amount", [0, -5])
def test_credit_of_zero_or_less_is_rejected(amount: int) -> None:
    company, invoice = invoiced()
    with pytest.raises(ValidationFailed):
        credit(company, invoice.id, amount_minor=amount)
    with pytest.raises(ValidationFailed):
        credit(company, invoice.id, lines={line(company, "base:starter@1"): amount})


def test_credit_of_foreign_lines_or_for_unknown_reasons_is_rejected() -> None:
    carol, _ = invoiced(name="Carol")
    company, invoice = invoiced()
    with pytest.raises(ValidationFailed):
        credit(company, invoice.id, lines={line(carol, "base:starter@1"): 100})
    with pytest.raises(ValidationFailed), system() as session:
        credit_notes.create_credit_note(session, company.id, invoice.id, CreditNoteInput("because"), ACT)
    with pytest.raises(NotFound):
        credit(carol, invoice.id)


def test_concurrent_credit_notes_stay_within_the_invoice_and_leave_no_number_gap(app: Flask) -> None:
    company, invoice = invoiced()
    start = threading.Barrier(4)

    def write(_: int) -> bool:
        with app.app_context():
            start.wait()
            try:
                credit(company, invoice.id, amount_minor=1500)
            except CreditExceedsInvoice:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(write, range(4))) == [False, False, True, True]
    assert [row.serial for row in company.rows("SELECT serial FROM credit_notes ORDER BY serial")] == [1, 2]
    assert newest(company).due_minor == 205


def test_void_invoice_is_replaced_by_a_recalculated_one() -> None:
    company, invoice = invoiced()
    with system() as session:
        replacement = invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT, is_replaced=True)
    old, new = company.rows("SELECT * FROM invoices ORDER BY serial")
    assert (old.state, old.number, new.number, new.replaces_id) == ("void", "INV-000001", "INV-000002", old.id)
    assert replacement is not None
    assert (new.billing_period_id, new.total_minor, new.state) == (old.billing_period_id, 3205, "open")
    assert [kind for kind, _ in told(company)] == ["invoice.finalized", "invoice.voided", "invoice.finalized"]
    assert "invoice.voided" in acts(company)


def test_replacement_uses_the_credit_that_the_void_invoice_returned() -> None:
    company = found(plan="starter@1")
    company.grant(1000, "promotional", 5)
    invoice = close(company)
    with system() as session:
        invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT, is_replaced=True)
    assert newest(company).credits_applied_minor == 1000


def test_invoice_with_a_payment_cannot_be_voided() -> None:
    company, invoice = invoiced()
    settle(company, invoice.id, 100)
    with pytest.raises(InvoiceHasPayments) as refused, system() as session:
        invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT)
    assert (refused.value.status, refused.value.code) == (409, "INVOICE_HAS_PAYMENTS")


def test_invoice_that_is_not_open_cannot_be_voided() -> None:
    company = found()
    paid = close(company)
    with pytest.raises(InvoiceNotOpen), system() as session:
        invoice_lifecycle.void_invoice(session, company.id, paid.id, ACT)


def test_draft_under_review_is_finalized_once() -> None:
    company = found(plan="starter@1")
    review(company)
    draft = close(company)
    assert (draft.state, draft.number) == ("draft", None)
    with system() as session:
        assert invoice_lifecycle.finalize_invoice(session, company.id, draft.id, ACT).number == "INV-000001"
    with pytest.raises(InvoiceNotDraft), system() as session:
        invoice_lifecycle.finalize_invoice(session, company.id, draft.id, ACT)


def test_reviewed_draft_below_zero_carries_the_difference() -> None:
    company = found(at=day(1, month=3))
    company.use(1_001, at=day(10, month=3))
    failed = company.use(2, at=day(11, month=3))
    close(company, day(1, 2))
    company.reverse(failed)
    review(company)
    draft = close(company)
    with system() as session:
        invoice_lifecycle.finalize_invoice(session, company.id, draft.id, ACT)
    [grant] = company.rows("SELECT kind, amount_minor FROM credit_grants")
    assert tuple(grant) == ("carry", 2)


def test_draft_is_recalculated_or_deleted() -> None:
    company = found(plan="starter@1")
    review(company)
    draft = close(company)
    with system() as session:
        session.execute(text("UPDATE invoice_lines SET amount_minor = 1"))
        assert invoice_lifecycle.recalculate_draft(session, company.id, draft.id, ACT).total_minor == 2900
    assert company.rows("SELECT amount_minor FROM invoice_lines") == [(2900,)]
    with system() as session:
        invoice_lifecycle.delete_draft(session, company.id, draft.id, ACT)
    assert company.invoices() == []
    assert acts(company)[-2:] == ["invoice.redone", "invoice.draft_deleted"]


def test_draft_can_be_neither_credited_nor_voided() -> None:
    company = found(plan="starter@1")
    review(company)
    draft = close(company)
    with pytest.raises(InvoiceNotOpen):
        credit(company, draft.id)
    with pytest.raises(InvoiceNotOpen), system() as session:
        invoice_lifecycle.void_invoice(session, company.id, draft.id, ACT)


def test_tenant_role_cannot_credit_or_void() -> None:
    company, invoice = invoiced()
    for act in (
        lambda session: invoice_lifecycle.void_invoice(session, company.id, invoice.id, ACT),
        lambda session: credit_notes.create_credit_note(
            session, company.id, invoice.id, CreditNoteInput("goodwill"), ACT
        ),
        lambda session: invoices.apply_payment(session, company.id, invoice.id, 100, "payment:1"),
    ):
        with pytest.raises((DBAPIError, ApiError)), company.transaction() as session:
            act(session)


def test_correction_commands(app: Flask) -> None:
    company, invoice = invoiced(3_050, 12_345)
    who = [ids.format_id("org", company.id), ids.format_id("inv", invoice.id)]

    def ask(*words: str) -> tuple[int, str]:
        result = app.test_cli_runner().invoke(args=["billing", *words])
        return result.exit_code, result.output

    assert ask("credit", *who, "--amount", "12.35", "--reason", "wrong") == (0, "CN-000001 12.35 USD: 12.35 to due.\n")
    by_line = f"{ids.format_id('lin', line(company, 'usage:starter@1:email'))}=99.00"
    exceeding = ask("credit", *who, "--line", by_line, "--reason", "wrong")
    assert (exceeding[0], "CREDIT_EXCEEDS_INVOICE" in exceeding[1]) == (1, True)
    assert ask("void", *who, "--reason", " ")[0] == 1
    code, told_so = ask("void", *who, "--reason", "wrong tax id", "--replace")
    assert (code, "INV-000002" in told_so) == (0, True)
    assert ask("finalize", *who, "--reason", "again")[1].startswith("INVOICE_NOT_DRAFT")
    assert ask("void", "org_1", who[1], "--reason", "x")[0] == 2
