"""Invoices as their organization sees them, from stored rows only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, CreditNote, Invoice, InvoiceLine
from saas_api.billing.queries.bills.wallet import position
from saas_api.core.errors import NotFound
from saas_api.core.http import Page, encode_cursor
from saas_api.usage.queries.live import requests_by_period


@dataclass(frozen=True)
class Billed:
    """An invoice with its period and the accepted calls that the period pays for."""

    invoice: Invoice
    period: BillingPeriod
    total_requests: int


@dataclass(frozen=True)
class Totals:
    """Sums over all final invoices, in minor units; void ones are left out."""

    billed_minor: int
    settled_minor: int
    outstanding_minor: int


@dataclass(frozen=True)
class Shown:
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


def show(session: Session, organization_id: UUID, invoice_id: UUID) -> Shown:
    """A final invoice with its lines and the credit notes on it.

    raises: NotFound, for a draft too: it may still change
    """
    invoice = get_invoice(session, organization_id, invoice_id)
    if invoice.state == "draft":
        raise NotFound
    period_id = invoice.billing_period_id
    return Shown(
        invoice,
        session.get(BillingPeriod, (organization_id, period_id)) if period_id else None,
        lines(session, organization_id, invoice_id),
        session.scalars(
            select(CreditNote)
            .where(CreditNote.organization_id == organization_id, CreditNote.invoice_id == invoice_id)
            .order_by(CreditNote.issued_at, CreditNote.id)
        ).all(),
    )


def lines(session: Session, organization_id: UUID, invoice_id: UUID) -> Sequence[InvoiceLine]:
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
    if invoice.state == "draft" or line is None or line.invoice_id != invoice_id:
        raise NotFound
    return invoice, line


def history(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Billed`, newest first; drafts are not shown.

    query: limit, cursor, status, and the year of issue in UTC
    raises: Invalid for a cursor of another list
    """
    found = issued(session, organization_id, query)
    requests = requests_by_period(session, organization_id) if found.items else {}
    items = [Billed(invoice, period, requests.get(period.id, 0)) for invoice, period in found.items]
    return Page(items, found.next_cursor, found.limit)


def issued(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of pairs of invoice and period, newest first; arguments as for `history`.

    raises: Invalid for a cursor of another list
    """
    wanted = _own(organization_id)
    if query["status"]:
        wanted = wanted.where(Invoice.state == query["status"])
    if query["year"]:
        first, after = (datetime(query["year"] + more, 1, 1, tzinfo=UTC) for more in (0, 1))
        wanted = wanted.where(Invoice.finalized_at >= first, Invoice.finalized_at < after)
    if query["cursor"]:
        wanted = wanted.where(tuple_(Invoice.created_at, Invoice.id) < position(query["cursor"]))
    newest_first = wanted.order_by(Invoice.created_at.desc(), Invoice.id.desc()).limit(query["limit"] + 1)
    rows = session.execute(newest_first).all()
    items, has_more = rows[: query["limit"]], len(rows) > query["limit"]
    last = items[-1][0] if has_more else None
    cursor = encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None
    return Page(items, cursor, query["limit"])


def _own(organization_id: UUID) -> Select[Invoice, BillingPeriod]:
    return (
        select(Invoice, BillingPeriod)
        .join(
            BillingPeriod,
            (BillingPeriod.organization_id == Invoice.organization_id)
            & (BillingPeriod.id == Invoice.billing_period_id),
        )
        .where(Invoice.organization_id == organization_id, Invoice.state != "draft")
    )


def totals(session: Session, organization_id: UUID) -> Totals:
    """What was billed in all, what of it is settled by payment, wallet or credit note, and what is still owed."""
    row = session.execute(
        select(
            func.coalesce(func.sum(Invoice.total_minor), 0),
            func.coalesce(func.sum(Invoice.total_minor - Invoice.due_minor), 0),
            func.coalesce(func.sum(Invoice.due_minor).filter(Invoice.state == "open"), 0),
        ).where(Invoice.organization_id == organization_id, Invoice.state.not_in(("draft", "void")))
    ).one()
    billed, settled, outstanding = row
    return Totals(int(billed), int(settled), int(outstanding or 0))
