"""Credit notes: the list, and how a new one is divided between what is due, a refund and the wallet."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import invoice_lifecycle, invoices, settlement, wallet
from saas_api.billing.invoices import InvoiceNotOpen
from saas_api.billing.models import (
    CreditGrant,
    CreditNote,
    CreditNoteLine,
    CreditNoteReason,
    GrantKind,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
)
from saas_api.billing.rating.bill import LineKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids, money
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, ValidationFailed

CREDIT_NOTE_SERIES = "CN"
CREDIT_NOTE_REASONS = tuple(reason.value for reason in CreditNoteReason)


class CreditExceedsInvoice(Conflict):
    """The credit is more than what is left of a line or of the invoice."""

    code, message = "CREDIT_EXCEEDS_INVOICE", "That is more than what is left of the invoice or of one of its lines."


@dataclass(frozen=True)
class CreditNoteView:
    """A credit note with the number of its invoice and its lines."""

    note: CreditNote
    invoice_number: str | None
    lines: Sequence[CreditNoteLine]

    @property
    def currency(self) -> str:
        return self.note.currency


@dataclass(frozen=True)
class CreditNoteInput:
    """Content of a new credit note.

    reason: a value of `CreditNoteReason`
    lines: minor units by line id; empty to reduce the lines in their order by `amount_minor`
    amount_minor: None for all that is left of the invoice
    is_refund: refund what exceeds the amount due, as far as it was paid, instead of adding it to the wallet
    is_refunded: the amount has gone back to the payer already, so it does not lower what is due
    """

    reason: str
    lines: Mapping[UUID, int] = field(default_factory=dict)
    amount_minor: int | None = None
    memo: str = ""
    is_refund: bool = False
    is_refunded: bool = False


@dataclass(frozen=True)
class CreditAllocation:
    """How the amount of a credit note is divided, in minor units."""

    to_due_minor: int
    to_wallet_minor: int
    to_refund_minor: int

    @property
    def total_minor(self) -> int:
        return self.to_due_minor + self.to_wallet_minor + self.to_refund_minor


def list_credit_notes(session: Session, organization_id: UUID, request: PageRequest) -> Page:
    """A page of `CreditNoteView`, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    statement = select(CreditNote).where(CreditNote.organization_id == organization_id)
    page = pagination.paginate(session, statement, CreditNote.issued_at.desc(), CreditNote.id.desc(), request=request)
    return replace(page, items=get_views(session, organization_id, page.items))


def get_views(session: Session, organization_id: UUID, notes: Sequence[CreditNote]) -> list[CreditNoteView]:
    """Credit notes with the numbers of their invoices and their lines, in the same order."""
    numbers = dict(
        session.execute(
            select(Invoice.id, Invoice.number)
            .where(Invoice.organization_id == organization_id)
            .where(Invoice.id.in_([note.invoice_id for note in notes]))
        ).all()
    )
    lines: defaultdict[UUID, list[CreditNoteLine]] = defaultdict(list)
    for line in session.scalars(
        select(CreditNoteLine)
        .where(CreditNoteLine.organization_id == organization_id)
        .where(CreditNoteLine.credit_note_id.in_([note.id for note in notes]))
        .order_by(CreditNoteLine.invoice_line_id)
    ):
        lines[line.credit_note_id].append(line)
    return [CreditNoteView(note, numbers.get(note.invoice_id), lines[note.id]) for note in notes]


def create_credit_note(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, content: CreditNoteInput, operator: OperatorContext
) -> CreditNote:
    """Create a credit note; it lowers what is due first, and the rest goes to the wallet or back to the payer.

    raises: NotFound, InvoiceNotOpen, ValidationFailed, CreditExceedsInvoice
    """
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.status in {InvoiceStatus.DRAFT, InvoiceStatus.VOID}:
        raise InvoiceNotOpen
    if content.reason not in CREDIT_NOTE_REASONS:
        raise ValidationFailed.at_field("reason", f"Must be one of {', '.join(CREDIT_NOTE_REASONS)}.")
    amounts = _amount_by_line(session, invoice, content)
    due_minor = invoice.amount_due_minor if invoice.is_payable and not content.is_refunded else 0
    (_, money_minor), *credit = _list_returnable(session, invoice)
    refundable_minor = min(money_minor, invoice.paid_minor) if content.is_refund or content.is_refunded else 0
    if content.is_refunded and sum(amounts.values()) > refundable_minor:
        raise CreditExceedsInvoice(details={"left": money.format_minor(refundable_minor, invoice.currency)})
    allocation = _allocate(sum(amounts.values()), due_minor, refundable_minor)
    note = _store(session, invoice, content, allocation)
    session.add_all(
        CreditNoteLine(
            organization_id=organization_id, credit_note_id=note.id, invoice_line_id=line_id, amount_minor=amount
        )
        for line_id, amount in amounts.items()
    )
    _return_to_wallet(session, note, [(None, money_minor - allocation.to_refund_minor), *credit])
    total = money.format_minor(note.total_minor, invoice.currency)
    data = {"number": note.number, "invoice": invoice.number, "total": total, "kind": note.reason}
    operator.record(session, organization_id, "credit_note.issued", ("credit_note", note.id), data)
    session.flush()  # a violated constraint belongs to this note
    settlement.finish(session, organization_id, *([invoice] if allocation.to_due_minor else []))
    return note


def _amount_by_line(session: SystemSession, invoice: Invoice, content: CreditNoteInput) -> dict[UUID, int]:
    creditable = _creditable_by_line(session, invoice)
    creditable_total = invoice.total_minor - invoice.credited_minor
    if not content.lines:
        amount = content.amount_minor
        if amount is None:
            amount = min(creditable_total, sum(max(0, minor) for minor in creditable.values()))
        amounts = _reduce_in_order(creditable, amount)
    else:
        amount, amounts = sum(content.lines.values()), dict(content.lines)
    unknown = [line_id for line_id in amounts if line_id not in creditable]
    if unknown or any(minor <= 0 for minor in amounts.values()) or (amount <= 0 and creditable_total > 0):
        raise ValidationFailed.at_field(
            "lines" if content.lines else "amount", "Must be above zero, on lines of this invoice."
        )
    exceeds_line = any(minor > creditable[line_id] for line_id, minor in amounts.items())
    if not 0 < amount <= creditable_total or sum(amounts.values()) != amount or exceeds_line:
        raise CreditExceedsInvoice(details={"left": money.format_minor(creditable_total, invoice.currency)})
    return amounts


def _creditable_by_line(session: SystemSession, invoice: Invoice) -> dict[UUID, int]:
    """What is left of each line: less earlier credit notes, and less what reversals on later invoices have returned."""
    credited = (
        select(CreditNoteLine.invoice_line_id, func.sum(CreditNoteLine.amount_minor).label("minor"))
        .where(CreditNoteLine.organization_id == invoice.organization_id)
        .group_by(CreditNoteLine.invoice_line_id)
        .subquery()
    )
    later = aliased(InvoiceLine)
    returned = (
        select(later.plan_version_id, later.meter_code, func.sum(later.amount_minor).label("minor"))
        .join(Invoice, (Invoice.organization_id == later.organization_id) & (Invoice.id == later.invoice_id))
        .where(later.organization_id == invoice.organization_id, Invoice.status != InvoiceStatus.VOID)
        .where(later.late_for_period_id == invoice.billing_period_id)
        .group_by(later.plan_version_id, later.meter_code)
        .subquery()
    )
    is_returned = (
        InvoiceLine.kind.in_((LineKind.USAGE, LineKind.MINIMUM))
        & InvoiceLine.late_for_period_id.is_(None)
        & (returned.c.plan_version_id == InvoiceLine.plan_version_id)
        & returned.c.meter_code.is_not_distinct_from(InvoiceLine.meter_code)
    )
    left = InvoiceLine.amount_minor - func.coalesce(credited.c.minor, 0)
    rows = session.execute(
        select(InvoiceLine.id, left + func.least(func.coalesce(returned.c.minor, 0), 0))
        .outerjoin(credited, credited.c.invoice_line_id == InvoiceLine.id)
        .outerjoin(returned, is_returned)
        .where(InvoiceLine.organization_id == invoice.organization_id, InvoiceLine.invoice_id == invoice.id)
        .order_by(InvoiceLine.position)
    )
    return {line_id: int(minor) for line_id, minor in rows}


def _reduce_in_order(creditable: Mapping[UUID, int], amount_minor: int) -> dict[UUID, int]:
    """Divide an amount over lines in their order, at most what is creditable of each.

    returns: less than the amount when the lines do not have enough
    """
    amounts: dict[UUID, int] = {}
    for line_id, minor in creditable.items():
        part = min(minor, amount_minor - sum(amounts.values()))
        if part > 0:
            amounts[line_id] = part
    return amounts


def _list_returnable(session: SystemSession, invoice: Invoice) -> list[tuple[CreditGrant | None, int]]:
    """What paid an invoice and has not come back yet, in minor units: money, then credit, the last used first.

    returns: (None, amount) for money, (grant, amount) for a grant that is promotional or expires
    """
    organization_id = invoice.organization_id
    statement = select(CreditNote).where(
        CreditNote.organization_id == organization_id, CreditNote.invoice_id == invoice.id
    )
    notes = session.scalars(statement).all()
    left: dict[CreditGrant | None, int] = {None: invoice.paid_minor - sum(note.to_refund_minor for note in notes)}
    for grant, minor in reversed(wallet.list_applied(session, invoice)):
        is_money = grant.kind != GrantKind.PROMOTIONAL and grant.expires_at is None
        source = None if is_money else grant
        left[source] = left.get(source, 0) + minor
    keys = {_return_key(note, grant): grant for note in notes for grant in left}
    for key, minor in wallet.sum_granted(session, organization_id, keys).items():
        left[keys[key]] -= minor
    return list(left.items())


def _return_key(note: CreditNote, grant: CreditGrant | None) -> str:
    """Source key of the grant by which a note returns money, or a part of another grant."""
    return f"credit_note:{note.id}:{grant.id}" if grant else f"credit_note:{note.id}"


def _return_to_wallet(
    session: SystemSession, note: CreditNote, returnable: Sequence[tuple[CreditGrant | None, int]]
) -> None:
    """Put a note's part for the wallet back as what it was: money without an end, other credit with kind and end."""
    left = note.to_wallet_minor
    for grant, returnable_minor in returnable:
        amount = min(left, returnable_minor)
        if amount <= 0:
            continue
        left -= amount
        wallet.add_grant(
            session,
            note.organization_id,
            GrantSource(_return_key(note, grant), grant.kind if grant else GrantKind.CREDIT_NOTE),
            amount,
            note.currency,
            expires_at=grant.expires_at if grant else None,
            effective_at=grant.effective_at if grant else None,
        )


def _allocate(amount_minor: int, due_minor: int, refundable_minor: int) -> CreditAllocation:
    """Lower what is due first, refund as much as is refundable, and add the rest to the wallet."""
    to_due = min(amount_minor, due_minor)
    to_refund = min(amount_minor - to_due, max(refundable_minor, 0))
    return CreditAllocation(to_due, amount_minor - to_due - to_refund, to_refund)


def _store(
    session: SystemSession, invoice: Invoice, content: CreditNoteInput, allocation: CreditAllocation
) -> CreditNote:
    invoice.credited_minor += allocation.total_minor
    invoice.reduced_minor += allocation.to_due_minor
    settlement.mark_paid_if_settled(invoice)
    series = invoice_lifecycle.local_series(CREDIT_NOTE_SERIES)
    [serial] = invoice_lifecycle.next_serials(session, series, 1)
    note = CreditNote(
        organization_id=invoice.organization_id,
        id=ids.new_id(),
        invoice_id=invoice.id,
        series=series,
        serial=serial,
        number=invoice_lifecycle.format_number(series, serial),
        currency=invoice.currency,
        reason=CreditNoteReason(content.reason),
        memo=content.memo,
        total_minor=allocation.total_minor,
        to_due_minor=allocation.to_due_minor,
        to_wallet_minor=allocation.to_wallet_minor,
        to_refund_minor=allocation.to_refund_minor,
        issued_at=clock.now(),
    )
    session.add(note)
    session.flush()  # its lines refer to it
    return note
