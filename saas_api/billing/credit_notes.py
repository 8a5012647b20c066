"""List and create credit notes, allocation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import invoice_lifecycle, invoices, wallet
from saas_api.billing.invoices import PAYABLE_STATUSES, InvoiceNotOpen
from saas_api.billing.models import CreditNote, CreditNoteLine, Invoice, InvoiceLine
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids, money
from saas_api.core.db.pagination import Page
from saas_api.core.errors import Conflict, ValidationFailed


@dataclass(frozen=True)
class CreditNoteView:
    """A credit note, the number of its invoice, and what it takes off each line."""

    note: CreditNote
    invoice_number: str | None
    lines: Sequence[CreditNoteLine]


def list_credit_notes(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Note`.

    query: limit, cursor
    raises: Invalid for a cursor of another list
    """
    wanted = select(CreditNote).where(CreditNote.organization_id == organization_id)
    rows, cursor = wallet.paginate_rows(session, wanted, (CreditNote.issued_at, CreditNote.id), query)
    ids = [row.id for row in rows]
    numbers = dict(
        session.execute(
            select(Invoice.id, Invoice.number)
            .where(Invoice.organization_id == organization_id)
            .where(Invoice.id.in_([row.invoice_id for row in rows]))
        ).all()
    )
    lines: defaultdict[UUID, list[CreditNoteLine]] = defaultdict(list)
    for line in session.scalars(
        select(CreditNoteLine)
        .where(CreditNoteLine.organization_id == organization_id, CreditNoteLine.credit_note_id.in_(ids))
        .order_by(CreditNoteLine.invoice_line_id)
    ):
        lines[line.credit_note_id].append(line)
    return Page(
        [CreditNoteView(row, numbers.get(row.invoice_id), lines[row.id]) for row in rows], cursor, query["limit"]
    )


CREDIT_NOTE_SERIES = "CN"
CREDIT_NOTE_REASONS = ("billing_error", "order_change", "service_issue", "goodwill", "duplicate", "cancellation")


class CreditExceedsInvoice(Conflict):
    """More would be credited than is left of a line or of the invoice."""

    code, message = "CREDIT_EXCEEDS_INVOICE", "That is more than what is left of the invoice or of one of its lines."


@dataclass(frozen=True)
class CreditNoteInput:
    """What a credit note is to say.

    reason: one of REASONS
    lines: minor units by line id; empty to take `amount_minor` off the lines in their order
    amount_minor: None for all that is left of the invoice
    is_refund: send back what is left over, as far as it was paid, instead of putting it into the wallet
    """

    reason: str
    lines: Mapping[UUID, int] = field(default_factory=dict)
    amount_minor: int | None = None
    memo: str = ""
    is_refund: bool = False


@dataclass(frozen=True)
class CreditAllocation:
    """Where the amount of a credit note goes, in minor units."""

    to_due_minor: int
    to_wallet_minor: int
    to_refund_minor: int

    @property
    def total_minor(self) -> int:
        """All of it."""
        return self.to_due_minor + self.to_wallet_minor + self.to_refund_minor


def create_credit_note(
    session: Session, organization_id: UUID, invoice_id: UUID, wanted: CreditNoteInput, act: OperatorContext
) -> CreditNote:
    """Write a credit note: it lowers what is due first; the rest goes to the wallet, or back where it came from.

    session: of the system
    raises: NotFound, InvoiceNotOpen, Invalid, CreditExceedsInvoice
    """
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.status in {"draft", "void"}:
        raise InvoiceNotOpen
    if wanted.reason not in CREDIT_NOTE_REASONS:
        raise ValidationFailed.at_field("reason", f"Must be one of {', '.join(CREDIT_NOTE_REASONS)}.")
    amounts = _amounts(session, invoice, wanted)
    due = invoices.amount_due_minor(invoice) if invoice.status in PAYABLE_STATUSES else 0
    split = _allocate(sum(amounts.values()), due, _refundable(session, invoice) if wanted.is_refund else 0)
    note = _write(session, invoice, wanted, split)
    session.add_all(
        CreditNoteLine(
            organization_id=organization_id, credit_note_id=note.id, invoice_line_id=line_id, amount_minor=amount
        )
        for line_id, amount in amounts.items()
    )
    if split.to_wallet_minor:
        source = GrantSource(f"credit_note:{note.id}", "credit_note")
        wallet.add_grant(session, organization_id, source, split.to_wallet_minor, invoice.currency)
    total = money.format_minor(note.total_minor, invoice.currency)
    data = {"number": note.number, "invoice": invoice.number, "total": total, "kind": note.reason}
    act.record(session, organization_id, "credit_note.issued", ("credit_note", note.id), data)
    session.flush()  # a violated constraint belongs to this note
    return note


def _amounts(session: Session, invoice: Invoice, wanted: CreditNoteInput) -> dict[UUID, int]:
    left = _creditable_amount(session, invoice)
    room = invoice.total_minor - invoice.credited_minor
    if not wanted.lines:
        amount = room if wanted.amount_minor is None else wanted.amount_minor
        amounts = _reduce_lines(left, amount)
    else:
        amount, amounts = sum(wanted.lines.values()), dict(wanted.lines)
    unknown = [line_id for line_id in amounts if line_id not in left]
    if unknown or any(minor <= 0 for minor in amounts.values()) or (amount <= 0 and room > 0):
        raise ValidationFailed.at_field(
            "lines" if wanted.lines else "amount", "Must be above zero, on lines of this invoice."
        )
    if not 0 < amount <= room or sum(amounts.values()) != amount or any(amounts[k] > left[k] for k in amounts):
        raise CreditExceedsInvoice(details={"left": money.format_minor(room, invoice.currency)})
    return amounts


def _creditable_amount(session: Session, invoice: Invoice) -> dict[UUID, int]:
    credited = (
        select(CreditNoteLine.invoice_line_id, func.sum(CreditNoteLine.amount_minor).label("minor"))
        .where(CreditNoteLine.organization_id == invoice.organization_id)
        .group_by(CreditNoteLine.invoice_line_id)
        .subquery()
    )
    rows = session.execute(
        select(InvoiceLine.id, InvoiceLine.amount_minor - func.coalesce(credited.c.minor, 0))
        .outerjoin(credited, credited.c.invoice_line_id == InvoiceLine.id)
        .where(InvoiceLine.organization_id == invoice.organization_id, InvoiceLine.invoice_id == invoice.id)
        .order_by(InvoiceLine.position)
    )
    return {line_id: int(minor) for line_id, minor in rows}


def _refundable(session: Session, invoice: Invoice) -> int:
    notes = select(func.coalesce(func.sum(CreditNote.to_refund_minor), 0)).where(
        CreditNote.organization_id == invoice.organization_id, CreditNote.invoice_id == invoice.id
    )
    return invoice.paid_minor - int(session.scalar(notes) or 0)


def _write(session: Session, invoice: Invoice, wanted: CreditNoteInput, split: CreditAllocation) -> CreditNote:
    invoice.credited_minor += split.total_minor
    invoice.reduced_minor += split.to_due_minor
    invoices.mark_paid_if_settled(session, invoice)
    serial, number = invoice_lifecycle.next_serial_number(session, CREDIT_NOTE_SERIES)
    note = CreditNote(
        organization_id=invoice.organization_id,
        id=ids.new_id(),
        invoice_id=invoice.id,
        series=CREDIT_NOTE_SERIES,
        serial=serial,
        number=number,
        currency=invoice.currency,
        reason=wanted.reason,
        memo=wanted.memo,
        total_minor=split.total_minor,
        to_due_minor=split.to_due_minor,
        to_wallet_minor=split.to_wallet_minor,
        to_refund_minor=split.to_refund_minor,
        issued_at=clock.now(),
    )
    session.add(note)
    session.flush()  # its lines refer to it
    return note


def _reduce_lines(left: Mapping[UUID, int], amount_minor: int) -> dict[UUID, int]:
    """Take an amount off lines, one after the other, from each at most what is left of it.

    returns: less than the amount when there is not enough
    """
    taken: dict[UUID, int] = {}
    for line_id, minor in left.items():
        part = min(minor, amount_minor - sum(taken.values()))
        if part > 0:
            taken[line_id] = part
    return taken


def _allocate(amount_minor: int, due_minor: int, refundable_minor: int) -> CreditAllocation:
    """Lower what is due first, send back what may be, and put the rest into the wallet.

    refundable_minor: 0 when nothing is to be sent back
    """
    to_due = min(amount_minor, due_minor)
    to_refund = min(amount_minor - to_due, max(refundable_minor, 0))
    return CreditAllocation(to_due, amount_minor - to_due - to_refund, to_refund)
