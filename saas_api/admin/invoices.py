"""Invoices of every organization: list, page, and the credit note of an operator."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate

from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context, lists, organizations
from saas_api.admin.context import Preview, ReasonForm
from saas_api.admin.lists import Columns, ListQuery
from saas_api.billing import credit_notes, invoices
from saas_api.billing.credit_notes import CREDIT_NOTE_REASONS, CreditNoteInput, CreditNoteView
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import BillingPeriod, CreditNote, CreditNoteReason, Invoice, InvoiceLine, InvoiceStatus
from saas_api.billing.schemas import InvoiceOut
from saas_api.core import clock, ids, money
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.fields import MoneyAmount, PrefixedId, QueryInteger, Text
from saas_api.core.web import pages
from saas_api.core.web.forms import Form
from saas_api.payments.models import Payment

bp = Blueprint("invoices", __name__, url_prefix="/admin")

STATUS_FILTERS = (*InvoiceStatus, "overdue")
_SUM_BY_STATUS = sa.text("""
SELECT state AS status, currency, count(*) AS count, coalesce(sum(total_minor), 0)::bigint AS total_minor,
  coalesce(sum(due_minor), 0)::bigint AS due_minor,
  count(*) FILTER (WHERE state = 'open' AND due_at < :at) AS overdue,
  coalesce(sum(due_minor) FILTER (WHERE state = 'open' AND due_at < :at), 0)::bigint AS overdue_minor
FROM invoices GROUP BY state, currency ORDER BY currency, state
""")


class InvoiceListQuery(ListQuery):
    """Filters of invoices; `days` is the minimum number of days overdue."""

    status = fields.String(load_default=None, validate=validate.OneOf(STATUS_FILTERS))
    days = QueryInteger(minimum=1, maximum=3650, load_default=None)
    organization = Text(maximum=200, load_default=None)
    number = Text(maximum=40, load_default=None)


class VoidForm(ReasonForm):
    """Whether a new invoice replaces the void one."""

    is_replaced = fields.Boolean(
        load_default=False, metadata={"option": "--replace", "help": "Create a new invoice for the period."}
    )


class LineAmount(fields.Field[tuple[UUID, Decimal]]):
    """An amount of one line of an invoice, such as `lin_...=12.35`."""

    def _deserialize(self, value: str, attr: str | None, data: Any, **options: Any) -> tuple[UUID, Decimal]:
        line_id, _, amount = value.partition("=")
        return PrefixedId("lin").deserialize(line_id), MoneyAmount().deserialize(amount)


class CreditNoteForm(ReasonForm):
    """A credit note; without an amount and lines it credits everything that is left of the invoice."""

    kind = fields.String(
        load_default=CreditNoteReason.BILLING_ERROR,
        validate=validate.OneOf(CREDIT_NOTE_REASONS),
        metadata={"help": "Kind of the credit note."},
    )
    amount = MoneyAmount(
        load_default=None,
        metadata={"help": "Amount to credit, deducted from the lines in order; without it, the full remaining amount."},
    )
    lines = fields.List(
        LineAmount(),
        load_default=list,
        metadata={"option": "--line", "metavar": "ID=AMOUNT", "help": "Credit an amount of one line."},
    )
    memo = Text(maximum=200, load_default="", metadata={"help": "Note for the organization, on the credit note."})
    is_refund = fields.Boolean(
        load_default=False,
        metadata={"option": "--refund", "help": "Refund the payment instead of adding it to the wallet."},
    )


@dataclass(frozen=True)
class OperatorInvoiceDetail:
    """An invoice with its organization, lines, credit notes and payments."""

    invoice: Invoice
    organization_name: str
    period: BillingPeriod | None
    lines: Sequence[InvoiceLine]
    credit_notes: Sequence[CreditNote]
    payments: Sequence[Payment]

    @property
    def creditable_minor(self) -> int:
        """The amount that a credit note can still credit."""
        return (
            0
            if self.invoice.status in {InvoiceStatus.DRAFT, InvoiceStatus.VOID}
            else self.invoice.total_minor - self.invoice.credited_minor
        )

    def actions(self) -> list[str]:
        """Names of the actions that the status of the invoice allows."""
        invoice = self.invoice
        if invoice.status == InvoiceStatus.DRAFT:
            return ["finalize", "redo", "delete"]
        names = ["credit"] if self.creditable_minor > 0 else []
        if invoice.status == InvoiceStatus.OPEN:
            names.append("write-off")
        if invoice.is_payable and not invoice.paid_minor:
            names.append("void")
        return names


def _resource(row: Any) -> InvoiceWithPeriod:
    return InvoiceWithPeriod(row[0], None)  # no column needs the period


INVOICE_COLUMNS: Columns = {
    **lists.resource_columns(InvoiceOut(), "id", "number", read=_resource),
    "organization_id": lambda row: ids.format_id("org", row[0].organization_id),
    "organization": lambda row: row[1],
    **lists.resource_columns(InvoiceOut(), "status", "total_amount", "amount_due", "currency", read=_resource),
    "issued_at": lambda row: lists.csv_time(row[0].finalized_at),
    **lists.resource_columns(InvoiceOut(), "due_date", "paid_at", read=_resource),
}


def list_invoices(session: SystemSession, query: dict[str, Any], at: datetime) -> Page:
    """A page of (`Invoice`, name of its organization, zone of its dates or None for UTC), newest first.

    query: as of InvoiceListQuery
    raises: ValidationFailed
    """
    is_its_period = (BillingPeriod.organization_id == Invoice.organization_id) & (
        BillingPeriod.id == Invoice.billing_period_id
    )
    statement = (
        sa.select(Invoice, Organization.name, BillingPeriod.timezone)
        .join(Organization, Organization.id == Invoice.organization_id)
        .outerjoin(BillingPeriod, is_its_period)
    )
    statement = statement.where(*_conditions(query, at))
    if query["status"]:
        statement = statement.where(_status_conditions(at)[query["status"]])
    return lists.paginate_or_export(session, statement, Invoice.created_at.desc(), Invoice.id.desc(), query=query)


def count_invoices(session: SystemSession, query: dict[str, Any], at: datetime) -> dict[str, int]:
    """Number of invoices by status with the other filters, as of `lists.count_each`."""
    statement = sa.select(Invoice.id).join(Organization, Organization.id == Invoice.organization_id)
    return lists.count_each(session, statement.where(*_conditions(query, at)), _status_conditions(at))


def _status_conditions(at: datetime) -> dict[str, sa.ColumnElement[bool]]:
    is_overdue = sa.and_(Invoice.status == InvoiceStatus.OPEN, Invoice.due_at < at)
    by_status: dict[str, sa.ColumnElement[bool]] = {status: Invoice.status == status for status in InvoiceStatus}
    return {**by_status, "overdue": is_overdue}


def _conditions(query: dict[str, Any], at: datetime) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query["days"]:
        conditions += [Invoice.status == InvoiceStatus.OPEN, Invoice.due_at < at - timedelta(days=query["days"])]
    if query["organization"]:
        conditions.append(organizations.is_match(query["organization"].strip()))
    if query["number"]:
        conditions.append(Invoice.number == query["number"].strip().upper())
    return conditions


def sum_by_status(session: SystemSession, at: datetime) -> Sequence[Any]:
    """Count, total and amount due of all invoices by status and currency."""
    return session.execute(_SUM_BY_STATUS, {"at": at}).all()


def get_invoice(session: SystemSession, invoice_id: UUID) -> OperatorInvoiceDetail:
    """An invoice of any organization, drafts included.

    raises: NotFound
    """
    row = session.execute(
        sa.select(Invoice, Organization.name)
        .join(Organization, Organization.id == Invoice.organization_id)
        .where(Invoice.id == invoice_id)
    ).first()
    if row is None:
        raise NotFound
    invoice, organization_name = row
    organization_id, period_id = invoice.organization_id, invoice.billing_period_id
    notes = sa.select(CreditNote).where(
        CreditNote.organization_id == organization_id, CreditNote.invoice_id == invoice_id
    )
    payments = sa.select(Payment).where(Payment.organization_id == organization_id, Payment.invoice_id == invoice_id)
    return OperatorInvoiceDetail(
        invoice,
        organization_name,
        session.get(BillingPeriod, (organization_id, period_id)) if period_id else None,
        invoices.list_lines(session, organization_id, invoice_id),
        session.scalars(notes.order_by(CreditNote.issued_at, CreditNote.id)).all(),
        session.scalars(payments.order_by(Payment.created_at.desc(), Payment.id.desc())).all(),
    )


def preview_credit_note(_detail: OperatorInvoiceDetail, _form: Form | None) -> Preview:
    """The kinds of credit notes, and the first value of the form."""
    return Preview(CREDIT_NOTE_REASONS, {"kind": CreditNoteReason.BILLING_ERROR})


@bp.get("/invoices")
@require_operator("support")
def index() -> Response:
    """List invoices of every organization, with sums by status."""
    query, now = lists.parse_query(InvoiceListQuery()), clock.now()
    with context.read_session() as session:
        page, sums = list_invoices(session, query, now), sum_by_status(session, now)
        names, counts = organizations.list_names(session), count_invoices(session, query, now)
    if query["format"] == "csv":
        return lists.csv_export("invoices", INVOICE_COLUMNS, page)
    return pages.render_page("admin/invoices/index.html", page=page, sums=sums, now=now, names=names, counts=counts)


@bp.get('/invoices/<id("inv"):invoice_id>')
@require_operator("support")
def show(invoice_id: UUID) -> Response:
    """Show an invoice with its lines, credit notes and payments."""
    with context.read_session() as session:
        detail = get_invoice(session, invoice_id)
    return pages.render_page("admin/invoices/show.html", detail=detail, now=clock.now())


def create_credit_note(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, operator: OperatorContext, **values: Any
) -> CreditNoteView:
    """Writes a credit note.

    values: as of CreditNoteForm
    raises: as `credit_notes.create_credit_note`; ValidationFailed for an amount finer than the currency
    """
    amount, currency = values["amount"], invoices.get_invoice(session, organization_id, invoice_id).currency
    try:
        minor = None if amount is None else money.parse_minor(str(amount), currency)
        lines: Counter[UUID] = Counter()
        for line_id, part in values["lines"]:
            lines[line_id] += money.parse_minor(str(part), currency)
    except ValueError as cause:
        raise ValidationFailed.at_field("amount", f"Enter an amount in {currency}, for example 12.35.") from cause
    content = CreditNoteInput(values["kind"], lines, minor, values["memo"], is_refund=values["is_refund"])
    note = credit_notes.create_credit_note(session, organization_id, invoice_id, content, operator)
    return credit_notes.get_views(session, organization_id, [note])[0]
