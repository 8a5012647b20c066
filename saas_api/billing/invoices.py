"""Invoices: lists, details, the explanation of a line, their lock and their write-off."""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, Select, func, select
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import events, plans, wallet
from saas_api.billing.models import BillingPeriod, BillingProfile, CreditNote, Invoice, InvoiceLine, InvoiceStatus
from saas_api.billing.rating import explanation
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.explanation import LineBreakdown
from saas_api.core import clock, formatting, ids, money
from saas_api.core.db import engine, pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, Gone, NotFound
from saas_api.usage import ledger, live_quantities, rollups
from saas_api.usage.ledger import LineSlice
from saas_api.usage.live_quantities import SliceTotals

LINE_EVENT_COLUMNS = (
    "event_id",
    "occurred_at",
    "recorded_at",
    "meter",
    "quantity",
    "source",
    "idempotency_key",
    "api_key_id",
    "message_id",
    "reversal_of",
    "unique_value",
    "properties",
)
_EVENT_BATCH_SIZE = 2_000


class UsageArchived(Gone):
    """The usage of this billing period is in an archive of the operator."""

    code, message = "USAGE_ARCHIVED", "The usage events of this billing period are archived. Ask the operator for them."


class InvoiceNotOpen(Conflict):
    """The status of the invoice does not allow the change."""

    code, message = "INVOICE_NOT_OPEN", "The state of this invoice does not allow it."


@dataclass(frozen=True)
class InvoiceWithPeriod:
    """An invoice and its billing period; a manual invoice has none."""

    invoice: Invoice
    period: BillingPeriod | None

    @property
    def currency(self) -> str:
        return self.invoice.currency

    @property
    def timezone(self) -> str:
        """Zone of the dates on the invoice; a later change of the organization's zone leaves it alone."""
        return self.period.timezone if self.period else "UTC"

    @property
    def due_day(self) -> str:
        """The due date for people; empty for a draft."""
        return formatting.format_date(self.invoice.due_at, self.timezone) if self.invoice.due_at else ""

    @property
    def days(self) -> str:
        """The billing period for people; empty for a manual invoice."""
        period = self.period
        return formatting.format_period(period.starts_at, period.ends_at, period.timezone) if period else ""


@dataclass(frozen=True)
class InvoiceListItem(InvoiceWithPeriod):
    """An invoice in a list.

    total_requests: accepted requests that the period pays for
    """

    period: BillingPeriod
    total_requests: int


@dataclass(frozen=True)
class InvoiceWithLines(InvoiceWithPeriod):
    """An invoice with its lines and the credit notes on it."""

    lines: Sequence[InvoiceLine]
    credit_notes: Sequence[CreditNote]


@dataclass(frozen=True)
class InvoiceTotals:
    """Sums over all final invoices except void ones, in minor units.

    settled_minor: by payment, wallet or credit note
    outstanding_minor: due on open invoices
    first_issued_at: when the first final invoice was issued, a void one too; None before it
    """

    billed_minor: int
    settled_minor: int
    outstanding_minor: int
    currency: str
    first_issued_at: datetime | None


@dataclass(frozen=True)
class LineExplanation:
    """A line and everything its amount follows from.

    price: None for a line without a meter, such as the base
    counted: None for a line that counts no events
    """

    invoice: Invoice
    line: InvoiceLine
    price: MeterPrice | None
    counted: SliceTotals | None
    explained: LineBreakdown

    @property
    def currency(self) -> str:
        return self.invoice.currency


def get_invoice(session: Session, organization_id: UUID, invoice_id: UUID) -> Invoice:
    """Get an invoice, drafts included.

    raises: NotFound, for an invoice of another organization too
    """
    invoice = session.get(Invoice, (organization_id, invoice_id))
    if invoice is None:
        raise NotFound
    return invoice


def get_period(session: Session, invoice: Invoice) -> BillingPeriod | None:
    """The billing period of an invoice; None for a manual invoice."""
    if invoice.billing_period_id is None:
        return None
    return session.get_one(BillingPeriod, (invoice.organization_id, invoice.billing_period_id))


def get_invoice_detail(session: Session, organization_id: UUID, invoice_id: UUID) -> InvoiceWithLines:
    """Get a final invoice with its lines and credit notes.

    raises: NotFound, for a draft too, because it may still change
    """
    invoice = get_invoice(session, organization_id, invoice_id)
    if invoice.status == InvoiceStatus.DRAFT:
        raise NotFound
    notes = select(CreditNote).where(CreditNote.organization_id == organization_id, CreditNote.invoice_id == invoice_id)
    return InvoiceWithLines(
        invoice,
        get_period(session, invoice),
        list_lines(session, organization_id, invoice_id),
        session.scalars(notes.order_by(CreditNote.issued_at, CreditNote.id)).all(),
    )


def list_lines(session: Session, organization_id: UUID, invoice_id: UUID) -> Sequence[InvoiceLine]:
    """Lines of an invoice in their order."""
    return session.scalars(
        select(InvoiceLine)
        .where(InvoiceLine.organization_id == organization_id, InvoiceLine.invoice_id == invoice_id)
        .order_by(InvoiceLine.position)
    ).all()


def list_invoices(
    session: Session,
    organization_id: UUID,
    request: PageRequest,
    *,
    status: str | None = None,
    year: int | None = None,
) -> Page:
    """A page of `InvoiceListItem`, newest first, without drafts.

    year: of issue, in UTC
    raises: ValidationFailed for a cursor of another list
    """
    page = list_issued(session, organization_id, request, status=status, year=year)
    requests = rollups.count_requests(session, organization_id, {period.id for _, period in page.items})
    items = [InvoiceListItem(invoice, period, requests.get(period.id, 0)) for invoice, period in page.items]
    return replace(page, items=items)


def list_issued(
    session: Session,
    organization_id: UUID,
    request: PageRequest,
    *,
    status: str | None = None,
    year: int | None = None,
) -> Page:
    """A page of pairs of invoice and period; otherwise as `list_invoices`."""
    statement = _select_issued(organization_id)
    if status:
        statement = statement.where(Invoice.status == status)
    if year:
        start, end = (datetime(start_year, 1, 1, tzinfo=UTC) for start_year in (year, year + 1))
        statement = statement.where(Invoice.finalized_at >= start, Invoice.finalized_at < end)
    return pagination.paginate(session, statement, Invoice.created_at.desc(), Invoice.id.desc(), request=request)


def _select_issued(organization_id: UUID) -> Select[Invoice, BillingPeriod]:
    return (
        select(Invoice, BillingPeriod)
        .join(
            BillingPeriod,
            (BillingPeriod.organization_id == Invoice.organization_id)
            & (BillingPeriod.id == Invoice.billing_period_id),
        )
        .where(Invoice.organization_id == organization_id, Invoice.status != InvoiceStatus.DRAFT)
    )


def sum_invoices(session: Session, organization_id: UUID) -> InvoiceTotals:
    """Sum what was billed, what of it is settled, and what is outstanding.

    All invoices above zero are in the currency of the organization.
    """
    is_counted = Invoice.status != InvoiceStatus.VOID
    row = session.execute(
        select(
            func.coalesce(func.sum(Invoice.total_minor).filter(is_counted), 0),
            func.coalesce(func.sum(Invoice.total_minor - Invoice.due_minor).filter(is_counted), 0),
            func.coalesce(func.sum(Invoice.due_minor).filter(Invoice.status == InvoiceStatus.OPEN), 0),
            select(BillingProfile.currency).where(BillingProfile.organization_id == organization_id).scalar_subquery(),
            func.min(Invoice.finalized_at),
        ).where(Invoice.organization_id == organization_id, Invoice.status != InvoiceStatus.DRAFT)
    ).one()
    billed, settled, outstanding, currency, first_issued_at = row
    return InvoiceTotals(
        int(billed), int(settled), int(outstanding or 0), currency or money.DEFAULT_CURRENCY, first_issued_at
    )


def get_line(session: Session, organization_id: UUID, invoice_id: UUID, line_id: UUID) -> tuple[Invoice, InvoiceLine]:
    """Get a line of a final invoice.

    raises: NotFound, for a line of another invoice too
    """
    invoice = get_invoice(session, organization_id, invoice_id)
    line = session.get(InvoiceLine, (organization_id, line_id))
    if invoice.status == InvoiceStatus.DRAFT or line is None or line.invoice_id != invoice_id:
        raise NotFound
    return invoice, line


def explain_line(session: Session, organization_id: UUID, invoice_id: UUID, line_id: UUID) -> LineExplanation:
    """Explain a line of a final invoice.

    raises: NotFound
    """
    invoice, line = get_line(session, organization_id, invoice_id, line_id)
    events_of_line = line_slice(invoice, line)
    return LineExplanation(
        invoice,
        line,
        _line_price(session, line),
        _count_events(session, line, events_of_line) if events_of_line else None,
        explanation.explain_calculation(line.kind, line.calculation, invoice.currency, line.unit),
    )


def _line_price(session: Session, line: InvoiceLine) -> MeterPrice | None:
    version_id, meter = line.plan_version_id, line.meter_code
    price = plans.get_prices(session, {version_id}).get((version_id, meter)) if version_id and meter else None
    return price.by_value.get(line.dimension_value) if price else None


def _count_events(session: Session, line: InvoiceLine, events_of_line: LineSlice) -> SliceTotals:
    """Totals of the events of a line; what a meter counts that does not add up is the quantity of the line."""
    totals = live_quantities.count_slice(session, events_of_line)
    return replace(totals, quantity=line.quantity) if "aggregation" in line.calculation else totals


def line_slice(invoice: Invoice, line: InvoiceLine) -> LineSlice | None:
    """The usage events that a line counts; None when it counts none."""
    if invoice.billing_period_id is None or line.meter_code is None or line.plan_version_id is None:
        return None
    return LineSlice(
        line.organization_id,
        invoice.billing_period_id,
        line.late_for_period_id,
        line.plan_version_id,
        line.meter_code,
        line.calculation.get("dimension"),
        line.dimension_value,
    )


def get_events_of_line(session: Session, invoice: Invoice, line: InvoiceLine) -> LineSlice | None:
    """As `line_slice`, to read the events one by one.

    raises: UsageArchived
    """
    events_of_line = line_slice(invoice, line)
    if events_of_line and ledger.is_archived(session, events_of_line.organization_id, events_of_line.period_id):
        raise UsageArchived
    return events_of_line


def iter_line_event_rows(events_of_line: LineSlice | None, zone: str = "UTC") -> Iterator[tuple[Any, ...]]:
    """Every event of a line as a row of `LINE_EVENT_COLUMNS`, with times in a zone.

    Reads batch by batch in transactions of its own, so that neither memory nor a transaction is held for a long file.
    """
    last: RowMapping | None = None
    while events_of_line:
        batch = engine.read_from_replica(functools.partial(_list_events, events_of_line, last))
        for row in batch:
            yield _line_event_row(row, zone)
        if len(batch) < _EVENT_BATCH_SIZE:
            return
        last = batch[-1]


def _list_events(events_of_line: LineSlice, after: RowMapping | None) -> Sequence[RowMapping]:
    with tenancy.tenant_session(events_of_line.organization_id) as session:
        return ledger.list_events(session, events_of_line, after, _EVENT_BATCH_SIZE)


def _line_event_row(row: RowMapping, zone: str) -> tuple[Any, ...]:
    return (
        row["id"].hex,
        clock.format_rfc3339(row["occurred_at"], zone),
        clock.format_rfc3339(row["recorded_at"], zone),
        row["meter_code"],
        Decimal(money.format_unit_price(row["quantity"])),
        row["source"],
        row["idempotency_key"],
        row["api_key_id"] and ids.format_id("key", row["api_key_id"]),
        row["message_id"] and ids.format_id("msg", row["message_id"]),
        row["reversal_of"] and row["reversal_of"].hex,
        row["unique_value"],
        json.dumps(row["properties"], sort_keys=True) if row["properties"] else None,
    )


def lock_invoice(session: SystemSession, organization_id: UUID, invoice_id: UUID) -> Invoice:
    """Get an invoice; lock the wallet of its organization and its row until the transaction ends.

    raises: NotFound
    """
    wallet.lock_wallet(session, organization_id)
    invoice = session.get(Invoice, (organization_id, invoice_id), with_for_update=True, populate_existing=True)
    if invoice is None:
        raise NotFound
    return invoice


def mark_uncollectible(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, operator: OperatorContext | None = None
) -> None:
    """Write an open invoice off; it can still be paid.

    operator: None at the end of dunning
    raises: NotFound, InvoiceNotOpen
    """
    invoice = lock_invoice(session, organization_id, invoice_id)
    if invoice.status == InvoiceStatus.UNCOLLECTIBLE:
        return
    if invoice.status != InvoiceStatus.OPEN:
        raise InvoiceNotOpen
    invoice.status = InvoiceStatus.UNCOLLECTIBLE
    events.publish_invoice_event(session, invoice, "invoice.marked_uncollectible")
    action, target, data = "invoice.marked_uncollectible", ("invoice", invoice.id), {"number": invoice.number}
    if operator:
        operator.record(session, organization_id, action, target, data)
    else:
        audit.record_event(session, organization_id, SYSTEM_ACTOR, action, target, data)
