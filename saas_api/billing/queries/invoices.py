"""Invoices as their organization sees them, from stored rows only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, Invoice
from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor
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


def history(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Billed`, newest first; drafts are not shown.

    query: limit, cursor, status
    raises: Invalid for a cursor of another list
    """
    wanted = _own(organization_id)
    if query["status"]:
        wanted = wanted.where(Invoice.state == query["status"])
    if query["cursor"]:
        wanted = wanted.where(tuple_(Invoice.created_at, Invoice.id) < _position(query["cursor"]))
    newest_first = wanted.order_by(Invoice.created_at.desc(), Invoice.id.desc()).limit(query["limit"] + 1)
    rows = session.execute(newest_first).all()
    requests = requests_by_period(session, organization_id) if rows else {}
    items = [Billed(invoice, period, requests.get(period.id, 0)) for invoice, period in rows[: query["limit"]]]
    last = items[-1].invoice if len(rows) > query["limit"] else None
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


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, invoice_id = decode_cursor(cursor)
        return datetime.fromisoformat(created_at), UUID(invoice_id)
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause


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
