"""Invoices across tenants."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context, lists
from saas_api.admin.context import Preview, ReasonForm
from saas_api.admin.lists import Columns, ListQuery
from saas_api.billing import credit_notes, invoices
from saas_api.billing.credit_notes import CREDIT_NOTE_REASONS, CreditNoteInput
from saas_api.billing.models import BillingPeriod, CreditNote, Invoice, InvoiceLine
from saas_api.core import clock, ids, money
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.fields import MoneyAmount, PrefixedId, QueryInteger, Text
from saas_api.core.web import pages
from saas_api.core.web.forms import Form
from saas_api.payments.models import Payment

bp = Blueprint("invoices", __name__, url_prefix="/admin")

_SUMS = sa.text("""
SELECT state, currency, count(*) AS count, coalesce(sum(total_minor), 0)::bigint AS total_minor,
  coalesce(sum(due_minor), 0)::bigint AS due_minor,
  count(*) FILTER (WHERE state = 'open' AND due_at < :at) AS overdue,
  coalesce(sum(due_minor) FILTER (WHERE state = 'open' AND due_at < :at), 0)::bigint AS overdue_minor
FROM invoices GROUP BY state, currency ORDER BY currency, state
""")


@dataclass(frozen=True)
class InvoiceDetail:
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
        return 0 if self.invoice.status in {"draft", "void"} else self.invoice.total_minor - self.invoice.credited_minor

    def actions(self) -> list[str]:
        """What may be done to it, by the name in the address."""
        invoice = self.invoice
        if invoice.status == "draft":
            return ["finalize", "redo", "delete"]
        found = ["credit"] if self.creditable_minor > 0 else []
        if invoice.status == "open":
            found.append("write-off")
        if invoice.is_payable and not invoice.paid_minor:
            found.append("void")
        return found


def list_invoices(session: Session, query: dict[str, Any], at: datetime) -> Page:
    """A page of (`Invoice`, name of its organization), newest first.

    query: limit, cursor, format; status, "overdue" among them; days, for how many it has been due at least;
        organization_id; number
    raises: Invalid
    """
    wanted = sa.select(Invoice, Organization.name).join(Organization, Organization.id == Invoice.organization_id)
    if query["status"] == "overdue":
        wanted = wanted.where(Invoice.status == "open", Invoice.due_at < at)
    elif query["status"]:
        wanted = wanted.where(Invoice.status == query["status"])
    if query["days"]:
        wanted = wanted.where(Invoice.status == "open", Invoice.due_at < at - timedelta(days=query["days"]))
    if query["organization_id"]:
        wanted = wanted.where(Invoice.organization_id == query["organization_id"])
    if query["number"]:
        wanted = wanted.where(Invoice.number == query["number"].strip().upper())
    return lists.paginate_or_export(session, wanted, query, (Invoice.created_at, Invoice.id))


def sum_by_status(session: Session, at: datetime) -> Sequence[Any]:
    """Count, total and what is due of all invoices, by state and currency."""
    return session.execute(_SUMS, {"at": at}).all()


def get_invoice(session: Session, invoice_id: UUID) -> InvoiceDetail:
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
    return InvoiceDetail(
        invoice,
        found[1],
        session.get(BillingPeriod, (owner, period_id)) if period_id else None,
        invoices.list_lines(session, owner, invoice_id),
        session.scalars(notes.order_by(CreditNote.issued_at, CreditNote.id)).all(),
        session.scalars(payments.order_by(Payment.created_at.desc(), Payment.id.desc())).all(),
    )


INVOICE_COLUMNS: Columns = {
    "id": lambda row: ids.format_id("inv", row[0].id),
    "number": lambda row: row[0].number or "",
    "organization_id": lambda row: ids.format_id("org", row[0].organization_id),
    "organization": lambda row: row[1],
    "status": lambda row: row[0].status,
    "total_amount": lambda row: lists.csv_money(row[0].total_minor, row[0].currency),
    "amount_due": lambda row: lists.csv_money(row[0].due_minor, row[0].currency),
    "currency": lambda row: row[0].currency,
    "issued_at": lambda row: lists.csv_time(row[0].finalized_at),
    "due_at": lambda row: lists.csv_time(row[0].due_at),
}
InvoiceStatus = ("draft", "open", "overdue", "paid", "uncollectible", "void")


class InvoiceListQuery(ListQuery):
    """Filters of invoices."""

    status = fields.String(load_default=None, validate=validate.OneOf(InvoiceStatus))
    days = QueryInteger(minimum=1, maximum=3650, load_default=None)
    organization_id = PrefixedId("org", load_default=None)
    number = Text(maximum=40, load_default=None)


class VoidForm(ReasonForm):
    """An invoice that is taken back, and whether a new one takes its place."""

    is_replaced = fields.Boolean(load_default=False)


class CreditNoteForm(ReasonForm):
    """A credit note; without an amount it takes off all that is left."""

    kind = fields.String(load_default="billing_error", validate=validate.OneOf(CREDIT_NOTE_REASONS))
    amount = MoneyAmount(load_default=None)
    memo = Text(maximum=200, load_default="")
    is_refund = fields.Boolean(load_default=False)


_ONE = '/invoices/<id("inv"):invoice_id>'


@bp.get("/invoices")
@require_operator("support")
def index() -> Response:
    """Invoices of every organization, by state and age."""
    query, now = lists.parse_query(InvoiceListQuery()), clock.now()
    with context.read_session() as session:
        found, sums = list_invoices(session, query, now), sum_by_status(session, now)
    if query["format"] == "csv":
        return lists.csv_export("invoices", INVOICE_COLUMNS, found)
    return pages.render_page("admin/invoices/index.html", found=found, sums=sums, states=InvoiceStatus, now=now)


@bp.get(_ONE)
@require_operator("support")
def show(invoice_id: UUID) -> Response:
    """One invoice with its lines, credit notes and payments."""
    with context.read_session() as session:
        opened = get_invoice(session, invoice_id)
    return pages.render_page("admin/invoices/show.html", opened=opened, now=clock.now())


def preview_credit_note(_detail: InvoiceDetail, _form: Form | None) -> Preview:
    """The kinds of credit notes, and the first value of the form."""
    return Preview(CREDIT_NOTE_REASONS, {"kind": "billing_error"})


def create_credit_note(
    session: Session, organization_id: UUID, invoice_id: UUID, operator: OperatorContext, **values: Any
) -> CreditNote:
    """Writes a credit note from the values of its form.

    raises: as `credit_notes.create_credit_note`; ValidationFailed for an amount finer than the currency
    """
    amount, currency = values["amount"], invoices.get_invoice(session, organization_id, invoice_id).currency
    try:
        minor = None if amount is None else money.parse_minor(str(amount), currency)
    except ValueError as cause:
        raise ValidationFailed.at_field("amount", f"Not an amount in {currency}, such as 12.35.") from cause
    content = CreditNoteInput(values["kind"], {}, minor, values["memo"], is_refund=values["is_refund"])
    return credit_notes.create_credit_note(session, organization_id, invoice_id, content, operator)
