"""Invoices of every organization, by state and by how long they have been due."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.billing.models import BillingPeriod, CreditNote, Invoice, InvoiceLine
from saas_api.billing.queries import invoices as tenant_invoices
from saas_api.core.errors import NotFound
from saas_api.core.fields import Page
from saas_api.organizations.models import Organization
from saas_api.payments.models import Payment

_SUMS = sa.text("""
SELECT state, currency, count(*) AS count, coalesce(sum(total_minor), 0)::bigint AS total_minor,
  coalesce(sum(due_minor), 0)::bigint AS due_minor,
  count(*) FILTER (WHERE state = 'open' AND due_at < :at) AS overdue,
  coalesce(sum(due_minor) FILTER (WHERE state = 'open' AND due_at < :at), 0)::bigint AS overdue_minor
FROM invoices GROUP BY state, currency ORDER BY currency, state
""")


@dataclass(frozen=True)
class Opened:
    """An invoice with everything an operator decides by."""

    invoice: Invoice
    organization_name: str
    period: BillingPeriod | None
    lines: Sequence[InvoiceLine]
    credit_notes: Sequence[CreditNote]
    payments: Sequence[Payment]

    @property
    def creditable_minor(self) -> int:
        """What a credit note can still take off."""
        return 0 if self.invoice.state in {"draft", "void"} else self.invoice.total_minor - self.invoice.credited_minor

    def acts(self) -> list[str]:
        """What may be done to it, by the name in the address."""
        invoice = self.invoice
        if invoice.state == "draft":
            return ["finalize", "redo", "delete"]
        found = ["credit"] if self.creditable_minor > 0 else []
        if invoice.state == "open":
            found.append("write-off")
        if invoice.state in {"open", "uncollectible"} and not invoice.paid_minor:
            found.append("void")
        return found


def history(session: Session, query: dict[str, Any], at: datetime) -> Page:
    """A page of (`Invoice`, name of its organization), newest first.

    query: limit, cursor, format; status, "overdue" among them; days, for how many it has been due at least;
        organization_id; number
    raises: Invalid
    """
    wanted = sa.select(Invoice, Organization.name).join(Organization, Organization.id == Invoice.organization_id)
    if query["status"] == "overdue":
        wanted = wanted.where(Invoice.state == "open", Invoice.due_at < at)
    elif query["status"]:
        wanted = wanted.where(Invoice.state == query["status"])
    if query["days"]:
        wanted = wanted.where(Invoice.state == "open", Invoice.due_at < at - timedelta(days=query["days"]))
    if query["organization_id"]:
        wanted = wanted.where(Invoice.organization_id == query["organization_id"])
    if query["number"]:
        wanted = wanted.where(Invoice.number == query["number"].strip().upper())
    return page_of(session, wanted, query, (Invoice.created_at, Invoice.id))


def sums(session: Session, at: datetime) -> Sequence[Any]:
    """Count, total and what is due of all invoices, by state and currency."""
    return session.execute(_SUMS, {"at": at}).all()


def open_one(session: Session, invoice_id: UUID) -> Opened:
    """An invoice of whatever organization, a draft too.

    raises: NotFound
    """
    found = session.execute(
        sa.select(Invoice, Organization.name)
        .join(Organization, Organization.id == Invoice.organization_id)
        .where(Invoice.id == invoice_id)
    ).first()
    if found is None:
        raise NotFound
    invoice: Invoice = found[0]
    owner, period_id = invoice.organization_id, invoice.billing_period_id
    notes = sa.select(CreditNote).where(CreditNote.organization_id == owner, CreditNote.invoice_id == invoice_id)
    payments = sa.select(Payment).where(Payment.organization_id == owner, Payment.invoice_id == invoice_id)
    return Opened(
        invoice,
        found[1],
        session.get(BillingPeriod, (owner, period_id)) if period_id else None,
        tenant_invoices.lines(session, owner, invoice_id),
        session.scalars(notes.order_by(CreditNote.issued_at, CreditNote.id)).all(),
        session.scalars(payments.order_by(Payment.created_at.desc(), Payment.id.desc())).all(),
    )
