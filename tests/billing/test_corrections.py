"""Corrections of invoices: review of drafts, void and replacement, credit notes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from saas_api.billing import credit_notes, invoice_lifecycle, settlement
from saas_api.billing.credit_notes import CreditExceedsInvoice, CreditNoteInput
from saas_api.billing.invoice_lifecycle import InvoiceHasPayments, InvoiceNotDraft
from saas_api.billing.invoices import InvoiceNotOpen
from saas_api.billing.models import GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import ids
from saas_api.core.errors import ApiError, NotFound, ValidationFailed
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import (
    JUNE,
    OPERATOR,
    audit_actions,
    close_periods,
    create_credit_note,
    create_invoice,
    newest_invoice,
    published_events,
    require_review,
    settle_payment,
    system_session,
)

pytestmark = pytest.mark.usefixtures("context")


def line(organization: BillingOrganization, kind: str) -> Any:
    return organization.rows(f"SELECT id FROM invoice_lines WHERE source_key = '{kind}' ORDER BY id DESC LIMIT 1")[0].id


def test_credit_note_lowers_the_amount_due() -> None:
    organization, invoice = create_invoice(3_050, 12_345)
    credit_note = create_credit_note(
        organization, invoice.id, lines={line(organization, "usage:starter@1:email"): 1235}
    )
    assert (credit_note.number, credit_note.total_minor, credit_note.to_due_minor, credit_note.to_wallet_minor) == (
        "CN-000001",
        1235,
        1235,
        0,
    )
    after = newest_invoice(organization)
    assert (after.state, after.due_minor, after.credited_minor, after.reduced_minor) == ("open", 5950, 1235, 1235)
    assert "credit_note.issued" in audit_actions(organization)


def test_credit_note_on_a_paid_invoice_goes_to_the_wallet() -> None:
    organization, invoice = create_invoice(3_050, 12_345)
    settle_payment(organization, invoice.id, 7185)
    create_credit_note(organization, invoice.id, lines={line(organization, "usage:starter@1:email"): 1235})
    [grant] = organization.rows("SELECT kind, amount_minor FROM credit_grants")
    assert tuple(grant) == ("credit_note", 1235)
    organization.use(5_305, at=day(10, month=5))
    assert close_periods(organization, JUNE).due_minor == 1970


def test_credit_note_over_the_amount_due_settles_the_invoice() -> None:
    organization, invoice = create_invoice()
    settle_payment(organization, invoice.id, 1000)
    credit_note = create_credit_note(organization, invoice.id)
    assert (credit_note.total_minor, credit_note.to_due_minor, credit_note.to_wallet_minor) == (3205, 2205, 1000)
    assert newest_invoice(organization).state == "paid"
    assert len(published_events(organization, "invoice.paid")) == 1


def test_refund_is_at_most_what_was_paid() -> None:
    organization, invoice = create_invoice()
    settle_payment(organization, invoice.id, 3205)
    first = create_credit_note(organization, invoice.id, amount_minor=1205, is_refund=True)
    second = create_credit_note(organization, invoice.id, is_refund=True)
    assert (first.to_refund_minor, second.to_refund_minor, second.to_wallet_minor) == (1205, 2000, 0)


def test_wallet_credit_is_not_refunded() -> None:
    organization = create_organization(plan="starter@1")
    organization.grant(1000, "promotional", 5)
    invoice = close_periods(organization)
    settle_payment(organization, invoice.id, 1900)
    credit_note = create_credit_note(organization, invoice.id, is_refund=True)
    assert (credit_note.to_refund_minor, credit_note.to_wallet_minor) == (1900, 1000)


def test_credit_amount_reduces_the_lines_in_their_order() -> None:
    organization, invoice = create_invoice()
    credit_note = create_credit_note(organization, invoice.id, amount_minor=3000)
    taken = organization.rows("SELECT amount_minor FROM credit_note_lines ORDER BY amount_minor DESC")
    assert [row.amount_minor for row in taken] == [2900, 100]
    assert credit_note.total_minor == 3000


@pytest.mark.parametrize("content", [{"amount_minor": 3206}, {"lines": {"base:starter@1": 2901}}])
def test_credit_above_the_invoice_or_a_line_is_rejected(content: dict[str, Any]) -> None:
    organization, invoice = create_invoice()
    lines = {line(organization, key): amount for key, amount in content.get("lines", {}).items()}
    with pytest.raises(CreditExceedsInvoice) as refused:
        create_credit_note(organization, invoice.id, lines=lines, amount_minor=content.get("amount_minor"))
    assert (refused.value.status, refused.value.code) == (409, "CREDIT_EXCEEDS_INVOICE")
    assert newest_invoice(organization).credited_minor == 0


def test_second_credit_note_is_limited_to_what_the_first_left() -> None:
    organization, invoice = create_invoice()
    base = line(organization, "base:starter@1")
    create_credit_note(organization, invoice.id, lines={base: 2000})
    with pytest.raises(CreditExceedsInvoice):
        create_credit_note(organization, invoice.id, lines={base: 901})
    create_credit_note(organization, invoice.id)
    with pytest.raises(CreditExceedsInvoice):
        create_credit_note(organization, invoice.id)


@pytest.mark.parametrize("amount", [0, -5])
def test_credit_of_zero_or_less_is_rejected(amount: int) -> None:
    organization, invoice = create_invoice()
    with pytest.raises(ValidationFailed):
        create_credit_note(organization, invoice.id, amount_minor=amount)
    with pytest.raises(ValidationFailed):
        create_credit_note(organization, invoice.id, lines={line(organization, "base:starter@1"): amount})


def test_credit_of_foreign_lines_or_for_unknown_reasons_is_rejected() -> None:
    carol, _ = create_invoice(name="Carol")
    organization, invoice = create_invoice()
    with pytest.raises(ValidationFailed):
        create_credit_note(organization, invoice.id, lines={line(carol, "base:starter@1"): 100})
    with pytest.raises(ValidationFailed), system_session() as session:
        credit_notes.create_credit_note(session, organization.id, invoice.id, CreditNoteInput("because"), OPERATOR)
    with pytest.raises(NotFound):
        create_credit_note(carol, invoice.id)


def test_concurrent_credit_notes_stay_within_the_invoice_and_leave_no_number_gap(app: Flask) -> None:
    organization, invoice = create_invoice()
    start = threading.Barrier(4)

    def write(_: int) -> bool:
        with app.app_context():
            start.wait()
            try:
                create_credit_note(organization, invoice.id, amount_minor=1500)
            except CreditExceedsInvoice:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(write, range(4))) == [False, False, True, True]
    assert [row.serial for row in organization.rows("SELECT serial FROM credit_notes ORDER BY serial")] == [1, 2]
    assert newest_invoice(organization).due_minor == 205


def test_void_invoice_is_replaced_by_a_recalculated_one() -> None:
    organization, invoice = create_invoice()
    with system_session() as session:
        replacement = invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR, is_replaced=True)
    old, new = organization.rows("SELECT * FROM invoices ORDER BY serial")
    assert (old.state, old.number, new.number, new.replaces_id) == ("void", "INV-000001", "INV-000002", old.id)
    assert replacement is not None
    assert (replacement.invoice.id, replacement.invoice.status, replacement.period.seq) == (new.id, "open", 1)
    assert (new.billing_period_id, new.total_minor, new.state) == (old.billing_period_id, 3205, "open")
    assert [kind for kind, _ in published_events(organization)] == [
        "invoice.finalized",
        "invoice.voided",
        "invoice.finalized",
    ]
    assert "invoice.voided" in audit_actions(organization)


def test_replacement_uses_the_credit_that_the_void_invoice_returned() -> None:
    organization = create_organization(plan="starter@1")
    organization.grant(1000, "promotional", 5)
    invoice = close_periods(organization)
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR, is_replaced=True)
    assert newest_invoice(organization).credits_applied_minor == 1000


def test_invoice_with_a_payment_cannot_be_voided() -> None:
    organization, invoice = create_invoice()
    settle_payment(organization, invoice.id, 100)
    with pytest.raises(InvoiceHasPayments) as refused, system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR)
    assert (refused.value.status, refused.value.code) == (409, "INVOICE_HAS_PAYMENTS")


def test_invoice_that_is_not_open_cannot_be_voided() -> None:
    organization = create_organization()
    paid = close_periods(organization)
    with pytest.raises(InvoiceNotOpen), system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, paid.id, OPERATOR)


def test_draft_under_review_is_finalized_once() -> None:
    organization = create_organization(plan="starter@1")
    require_review(organization)
    draft = close_periods(organization)
    assert (draft.state, draft.number) == ("draft", None)
    with system_session() as session:
        assert (
            invoice_lifecycle.finalize_invoice(session, organization.id, draft.id, OPERATOR).invoice.number
            == "INV-000001"
        )
    with pytest.raises(InvoiceNotDraft), system_session() as session:
        invoice_lifecycle.finalize_invoice(session, organization.id, draft.id, OPERATOR)


def test_reviewed_draft_below_zero_carries_the_difference() -> None:
    organization = create_organization(at=day(1, month=3))
    organization.use(1_001, at=day(10, month=3))
    failed = organization.use(2, at=day(11, month=3))
    close_periods(organization, day(1, 2))
    organization.reverse(failed)
    require_review(organization)
    draft = close_periods(organization)
    with system_session() as session:
        invoice_lifecycle.finalize_invoice(session, organization.id, draft.id, OPERATOR)
    [grant] = organization.rows("SELECT kind, amount_minor FROM credit_grants")
    assert tuple(grant) == ("carry", 2)


def test_draft_is_recalculated_or_deleted() -> None:
    organization = create_organization(plan="starter@1")
    require_review(organization)
    draft = close_periods(organization)
    with system_session() as session:
        session.execute(text("UPDATE invoice_lines SET amount_minor = 1"))
        assert (
            invoice_lifecycle.recalculate_draft(session, organization.id, draft.id, OPERATOR).invoice.total_minor
            == 2900
        )
    assert organization.rows("SELECT amount_minor FROM invoice_lines") == [(2900,)]
    with system_session() as session:
        invoice_lifecycle.delete_draft(session, organization.id, draft.id, OPERATOR)
    assert organization.invoices() == []
    assert audit_actions(organization)[-2:] == ["invoice.redone", "invoice.draft_deleted"]


def test_draft_can_be_neither_credited_nor_voided() -> None:
    organization = create_organization(plan="starter@1")
    require_review(organization)
    draft = close_periods(organization)
    with pytest.raises(InvoiceNotOpen):
        create_credit_note(organization, draft.id)
    with pytest.raises(InvoiceNotOpen), system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, draft.id, OPERATOR)


def test_tenant_role_cannot_credit_or_void() -> None:
    organization, invoice = create_invoice()
    for action in (
        lambda session: invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR),
        lambda session: credit_notes.create_credit_note(
            session, organization.id, invoice.id, CreditNoteInput("goodwill"), OPERATOR
        ),
        lambda session: settlement.apply_payment(session, organization.id, invoice.id, 100, "payment:1"),
    ):
        with pytest.raises((DBAPIError, ApiError)), organization.transaction() as session:
            action(session)


def test_correction_commands(app: Flask) -> None:
    organization, invoice = create_invoice(3_050, 12_345)
    target = [ids.format_id("org", organization.id), ids.format_id("inv", invoice.id)]

    def run_command(*arguments: str) -> tuple[int, str]:
        result = app.test_cli_runner().invoke(args=["billing", *arguments])
        return result.exit_code, result.output

    assert run_command("credit", *target, "--amount", "12.35", "--reason", "wrong") == (
        0,
        "CN-000001 12.35 USD: 12.35 to due.\n",
    )
    by_line = f"{ids.format_id('lin', line(organization, 'usage:starter@1:email'))}=99.00"
    exceeding = run_command("credit", *target, "--line", by_line, "--reason", "wrong")
    assert (exceeding[0], "CREDIT_EXCEEDS_INVOICE" in exceeding[1]) == (1, True)
    assert run_command("void", *target, "--reason", " ")[0] == 1
    code, output = run_command("void", *target, "--reason", "wrong tax id", "--replace")
    assert (code, "INV-000002" in output) == (0, True)
    assert run_command("finalize", *target, "--reason", "again")[1].startswith("INVOICE_NOT_DRAFT")
    assert run_command("void", "org_1", target[1], "--reason", "x")[0] == 2


def test_promotional_credit_comes_back_as_promotional_credit_with_its_end() -> None:
    """B15: a credit note makes no money that never expires out of a promotion; what was paid comes back first."""
    organization = create_organization(plan="starter@1")
    ends_at = day(1, month=7)
    with system_session() as session:
        source = GrantSource("welcome", GrantKind.PROMOTIONAL)
        settlement.grant_credit(session, organization.id, source, 1000, OPERATOR, expires_at=ends_at)
    invoice = close_periods(organization)
    settle_payment(organization, invoice.id, 1900)
    for amount in (1500, 1000, 400):
        create_credit_note(organization, invoice.id, amount_minor=amount)
    grants = organization.rows("""SELECT kind, amount_minor, expires_at FROM credit_grants
      WHERE starts_with(source_key, 'credit_note') ORDER BY created_at, kind""")
    assert [tuple(grant) for grant in grants] == [
        ("credit_note", 1500, None),
        ("credit_note", 400, None),
        ("promotional", 600, ends_at),
        ("promotional", 400, ends_at),
    ]


def test_refund_after_a_note_to_the_wallet_is_at_most_the_money_that_is_left() -> None:
    """B15: money comes back once, into the wallet or as a refund."""
    organization = create_organization(plan="starter@1")
    organization.grant(1000, "promotional", 5)
    invoice = close_periods(organization)
    settle_payment(organization, invoice.id, 1900)
    create_credit_note(organization, invoice.id, amount_minor=1000)
    note = create_credit_note(organization, invoice.id, is_refund=True)
    assert (note.to_refund_minor, note.to_wallet_minor) == (900, 1000)


def test_line_that_is_named_twice_is_credited_with_both_amounts(app: Flask) -> None:
    """B15: `--line X=1 --line X=2` takes 3.00 off the line."""
    organization, invoice = create_invoice()
    base = ids.format_id("lin", line(organization, "base:starter@1"))
    arguments = ["billing", "credit", ids.format_id("org", organization.id), ids.format_id("inv", invoice.id)]
    options = ["--line", f"{base}=1.00", "--line", f"{base}=2.00", "--reason", "wrong"]
    assert app.test_cli_runner().invoke(args=[*arguments, *options]).exit_code == 0
    assert newest_invoice(organization).credited_minor == 300
