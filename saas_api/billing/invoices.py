"""Reads, line explanation, payment state: apply_payment, mark_paid_if_settled, mark_uncollectible."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, Select, func, select, tuple_
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import events, plans, wallet
from saas_api.billing.models import BillingPeriod, CreditNote, Invoice, InvoiceLine
from saas_api.billing.rating import explanation
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.explanation import LineBreakdown
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import Conflict, NotFound
from saas_api.usage import ledger, rollups
from saas_api.usage.ledger import LineSlice, SliceTotals

_PAGE_SIZE = 2_000


@dataclass(frozen=True)
class LineExplanation:
    """A line and everything its amount follows from.

    counted: None for a line that counts no events, such as a plan's base
    """

    invoice: Invoice
    line: InvoiceLine
    unit: str | None
    price: MeterPrice | None
    counted: SliceTotals | None
    explained: LineBreakdown


def explain_line(session: Session, organization_id: UUID, invoice_id: UUID, line_id: UUID) -> LineExplanation:
    """Follow a line of a final invoice.

    raises: NotFound
    """
    invoice, line = get_line(session, organization_id, invoice_id, line_id)
    version, meter = line.plan_version_id, line.meter_code
    price = plans.get_prices(session, {version}).get((version, meter)) if version and meter else None
    unit = plans.meter_units(session).get(meter) if meter else None
    wanted = line_slice(invoice, line)
    return LineExplanation(
        invoice,
        line,
        unit,
        price,
        ledger.count_slice(session, wanted) if wanted else None,
        explanation.explain_calculation(line.kind, line.calculation, invoice.currency, unit),
    )


def line_slice(invoice: Invoice, line: InvoiceLine) -> LineSlice | None:
    """The events that a line counts; None when it counts none."""
    if invoice.billing_period_id is None or line.meter_code is None or line.plan_version_id is None:
        return None
    return LineSlice(
        line.organization_id,
        invoice.billing_period_id,
        line.late_for_period_id,
        line.plan_version_id,
        line.meter_code,
    )


def iter_line_events(wanted: LineSlice | None) -> Iterator[RowMapping]:
    """Every event of a line, a page in memory at a time and no transaction open in between."""
    after: RowMapping | None = None
    while wanted:
        with tenancy.tenant_session(wanted.organization_id) as session:
            rows = ledger.list_events(session, wanted, after, _PAGE_SIZE)
        yield from rows
        if len(rows) < _PAGE_SIZE:
            return
        after = rows[-1]


@dataclass(frozen=True)
class InvoiceWithPeriod:
    """An invoice with its period and the accepted calls that the period pays for."""

    invoice: Invoice
    period: BillingPeriod
    total_requests: int


@dataclass(frozen=True)
class InvoiceTotals:
    """Sums over all final invoices, in minor units; void ones are left out."""

    billed_minor: int
    settled_minor: int
    outstanding_minor: int


@dataclass(frozen=True)
class InvoiceView:
    """An invoice with everything its page shows.

    period: None for an invoice that was made by hand
    """

    invoice: Invoice
    period: BillingPeriod | None
    lines: Sequence[InvoiceLine]
    credit_notes: Sequence[CreditNote]


def get_invoice(session: Session, organization_id: UUID, invoice_id: UUID) -> Invoice:
    """An invoice of an organization, drafts included.

    raises: NotFound; another organization's invoice is as good as none
    """
    invoice = session.get(Invoice, (organization_id, invoice_id))
    if invoice is None:
        raise NotFound
    return invoice


def get_invoice_view(session: Session, organization_id: UUID, invoice_id: UUID) -> InvoiceView:
    """A final invoice with its lines and the credit notes on it.

    raises: NotFound, for a draft too: it may still change
    """
    invoice = get_invoice(session, organization_id, invoice_id)
    if invoice.status == "draft":
        raise NotFound
    period_id = invoice.billing_period_id
    return InvoiceView(
        invoice,
        session.get(BillingPeriod, (organization_id, period_id)) if period_id else None,
        list_lines(session, organization_id, invoice_id),
        session.scalars(
            select(CreditNote)
            .where(CreditNote.organization_id == organization_id, CreditNote.invoice_id == invoice_id)
            .order_by(CreditNote.issued_at, CreditNote.id)
        ).all(),
    )


def list_lines(session: Session, organization_id: UUID, invoice_id: UUID) -> Sequence[InvoiceLine]:
    """Lines of an invoice in the order in which they stand on it."""
    return session.scalars(
        select(InvoiceLine)
        .where(InvoiceLine.organization_id == organization_id, InvoiceLine.invoice_id == invoice_id)
        .order_by(InvoiceLine.position)
    ).all()


def get_line(session: Session, organization_id: UUID, invoice_id: UUID, line_id: UUID) -> tuple[Invoice, InvoiceLine]:
    """A line of a final invoice.

    raises: NotFound, for a line of another invoice too
    """
    invoice = get_invoice(session, organization_id, invoice_id)
    line = session.get(InvoiceLine, (organization_id, line_id))
    if invoice.status == "draft" or line is None or line.invoice_id != invoice_id:
        raise NotFound
    return invoice, line


def list_invoices(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Billed`, newest first; drafts are not shown.

    query: limit, cursor, status, and the year of issue in UTC
    raises: Invalid for a cursor of another list
    """
    found = list_issued(session, organization_id, query)
    requests = rollups.count_requests_by_period(session, organization_id) if found.items else {}
    items = [InvoiceWithPeriod(invoice, period, requests.get(period.id, 0)) for invoice, period in found.items]
    return Page(items, found.next_cursor, found.limit)


def list_issued(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of pairs of invoice and period, newest first; arguments as for `history`.

    raises: Invalid for a cursor of another list
    """
    wanted = _final_invoice(organization_id)
    if query["status"]:
        wanted = wanted.where(Invoice.status == query["status"])
    if query["year"]:
        first, after = (datetime(query["year"] + more, 1, 1, tzinfo=UTC) for more in (0, 1))
        wanted = wanted.where(Invoice.finalized_at >= first, Invoice.finalized_at < after)
    if query["cursor"]:
        wanted = wanted.where(tuple_(Invoice.created_at, Invoice.id) < wallet.position(query["cursor"]))
    newest_first = wanted.order_by(Invoice.created_at.desc(), Invoice.id.desc()).limit(query["limit"] + 1)
    rows = session.execute(newest_first).all()
    items, has_more = rows[: query["limit"]], len(rows) > query["limit"]
    last = items[-1][0] if has_more else None
    cursor = pagination.encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None
    return Page(items, cursor, query["limit"])


def _final_invoice(organization_id: UUID) -> Select[Invoice, BillingPeriod]:
    return (
        select(Invoice, BillingPeriod)
        .join(
            BillingPeriod,
            (BillingPeriod.organization_id == Invoice.organization_id)
            & (BillingPeriod.id == Invoice.billing_period_id),
        )
        .where(Invoice.organization_id == organization_id, Invoice.status != "draft")
    )


def sum_invoices(session: Session, organization_id: UUID) -> InvoiceTotals:
    """What was billed in all, what of it is settled by payment, wallet or credit note, and what is still owed."""
    row = session.execute(
        select(
            func.coalesce(func.sum(Invoice.total_minor), 0),
            func.coalesce(func.sum(Invoice.total_minor - Invoice.due_minor), 0),
            func.coalesce(func.sum(Invoice.due_minor).filter(Invoice.status == "open"), 0),
        ).where(Invoice.organization_id == organization_id, Invoice.status.not_in(("draft", "void")))
    ).one()
    billed, settled, outstanding = row
    return InvoiceTotals(int(billed), int(settled), int(outstanding or 0))


PAYABLE_STATUSES = ("open", "uncollectible")


class InvoiceNotOpen(Conflict):
    """The invoice is in a state in which this cannot be done to it."""

    code, message = "INVOICE_NOT_OPEN", "The state of this invoice does not allow it."


@dataclass(frozen=True)
class SettlementResult:
    """Where captured money went.

    allocated_minor: to the invoice
    excess_minor: to the wallet, for the next invoices
    is_paid: whether the invoice is paid now, or was before
    """

    allocated_minor: int
    excess_minor: int
    is_paid: bool


def lock_invoice(session: Session, organization_id: UUID, invoice_id: UUID) -> Invoice:
    """An invoice whose row nobody else changes until this transaction ends.

    raises: NotFound
    """
    invoice = session.get(Invoice, (organization_id, invoice_id), with_for_update=True, populate_existing=True)
    if invoice is None:
        raise NotFound
    return invoice


def amount_due_minor(invoice: Invoice) -> int:
    """What is still due, in minor units, from the columns as they stand in this session."""
    return invoice.total_minor - invoice.credits_applied_minor - invoice.reduced_minor - invoice.paid_minor


def apply_payment(
    session: Session, organization_id: UUID, invoice_id: UUID, captured_minor: int, source_key: str
) -> SettlementResult:
    """Book captured money: on the invoice as much as is due, the rest, or all of it if none is due, into the wallet.

    The caller vouches that this money was not booked before.
    session: of the system
    captured_minor: > 0, in the invoice's currency
    source_key: of the grant that an excess becomes, such as "payment:<id>"
    raises: NotFound
    """
    invoice = lock_invoice(session, organization_id, invoice_id)
    allocated = min(captured_minor, amount_due_minor(invoice)) if invoice.status in PAYABLE_STATUSES else 0
    excess = captured_minor - allocated
    if allocated:
        invoice.paid_minor += allocated
        mark_paid_if_settled(session, invoice)
    if excess:
        wallet.add_grant(session, organization_id, GrantSource(source_key, "overpayment"), excess, invoice.currency)
    session.flush()  # a violated constraint belongs to this settlement
    session.expire(invoice, ["due_minor"])  # the database works it out
    return SettlementResult(allocated, excess, invoice.status == "paid")


def mark_paid_if_settled(session: Session, invoice: Invoice) -> None:
    """Make an invoice that is due nothing any more paid, and tell of it."""
    if invoice.status not in PAYABLE_STATUSES or amount_due_minor(invoice):
        return
    invoice.status, invoice.paid_at = "paid", clock.now()
    events.publish_invoice_event(session, invoice, "invoice.paid")
    audit.record_event(session, invoice.organization_id, SYSTEM_ACTOR, "invoice.paid", ("invoice", invoice.id), {})


def mark_uncollectible(
    session: Session, organization_id: UUID, invoice_id: UUID, act: OperatorContext | None = None
) -> None:
    """Stop expecting an open invoice to be paid; a payment that comes yet is taken.

    session: of the system
    act: of an operator; None for the end of dunning
    raises: NotFound, InvoiceNotOpen
    """
    invoice = lock_invoice(session, organization_id, invoice_id)
    if invoice.status == "uncollectible":
        return
    if invoice.status != "open":
        raise InvoiceNotOpen
    invoice.status = "uncollectible"
    events.publish_invoice_event(session, invoice, "invoice.marked_uncollectible")
    action, target, data = "invoice.marked_uncollectible", ("invoice", invoice.id), {"number": invoice.number}
    if act:
        act.record(session, organization_id, action, target, data)
    else:
        audit.record_event(session, organization_id, SYSTEM_ACTOR, action, target, data)
