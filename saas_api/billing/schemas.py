"""Schemas of invoices, credit notes and the wallet; they read models and the views of their modules."""

from typing import Any

from marshmallow import fields, validate

from saas_api.accounts.schemas import OrganizationOut
from saas_api.billing.models import CreditEntryReason, GrantKind, InvoiceStatus
from saas_api.billing.plan_schemas import TierOut
from saas_api.billing.rating import explanation
from saas_api.billing.rating.charges import PriceModel
from saas_api.core.fields import (
    Embedded,
    ExactAmount,
    MinorAmount,
    NestedAmounts,
    PageQuery,
    Pagination,
    PrefixedId,
    Quantity,
    QueryInteger,
    StrictSchema,
    Text,
    Timestamp,
)

FINAL_STATUSES = tuple(status for status in InvoiceStatus if status != InvoiceStatus.DRAFT)


class Duration(fields.String):
    """A duration in days, hours, minutes and seconds."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str:
        return explanation.format_duration(value)


class DurationSeconds(fields.String):
    """A duration in seconds, exact to the microsecond."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> str:
        return explanation.format_seconds(value)


class AddressRows(fields.Raw):
    """The rows of a stored address; an older address is one text."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **options: Any) -> Any:
        return [value] if value and isinstance(value, str) else value


class BillingPeriodOut(StrictSchema):
    """A half-open range of time: its end belongs to the next period."""

    starts_at = Timestamp()
    ends_at = Timestamp()
    timezone = fields.String()


class BillLineOut(StrictSchema):
    """A line of a bill; `calculation` holds every input of its amount."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(attribute="version_id", allow_none=True)
    meter = fields.String(allow_none=True)
    quantity = Quantity()
    amount = MinorAmount(attribute="amount_minor")
    calculation = fields.Dict()


class CurrentBillOut(StrictSchema):
    """GET /billing/calculate."""

    period = fields.Nested(BillingPeriodOut(), attribute="account.period")
    total_requests = fields.Integer(attribute="requests")
    lines = fields.List(
        NestedAmounts(BillLineOut()),
        metadata={"description": "the base amount of the whole period and usage so far, without a plan's minimum"},
    )
    total_amount = MinorAmount(
        attribute="so_far_minor", metadata={"description": "the cost so far: the sum of the lines"}
    )
    projected_amount = MinorAmount(
        attribute="projected_minor",
        allow_none=True,
        metadata={
            "description": "the bill at the end of the period if usage continues at its pace; "
            "null on the first day of a period or plan"
        },
    )
    currency = fields.String()
    status = fields.String(dump_default="calculating")


class InvoicesQuery(PageQuery):
    """Invoices in one status, or issued in one year (UTC), or all."""

    status = fields.String(load_default=None, validate=validate.OneOf(FINAL_STATUSES))
    year = QueryInteger(minimum=2000, maximum=9998, load_default=None)


class InvoiceOut(StrictSchema):
    """An invoice, from `InvoiceWithPeriod`."""

    id = PrefixedId("inv", attribute="invoice.id")
    number = fields.String(attribute="invoice.number")
    status = fields.String(attribute="invoice.status", validate=validate.OneOf(FINAL_STATUSES))
    period = fields.Nested(BillingPeriodOut(), allow_none=True)
    total_amount = MinorAmount(attribute="invoice.total_minor")
    amount_due = MinorAmount(attribute="invoice.amount_due_minor")
    currency = fields.String()
    due_date = Timestamp(attribute="invoice.due_at")
    paid_at = Timestamp(attribute="invoice.paid_at", allow_none=True)


class InvoiceListItemOut(InvoiceOut):
    """An invoice in a list."""

    period = fields.Nested(BillingPeriodOut())
    total_requests = fields.Integer()


class InvoiceEventOut(InvoiceOut):
    """Event data of an invoice; `amount_due` and `status` are those at the time of the event."""

    attempt = fields.Integer(metadata={"description": "payments or reminders so far"})
    next_attempt_at = Timestamp(allow_none=True)
    version = fields.Integer(
        metadata={"description": "Rises with every change of the object; trust the highest you have seen."}
    )


class InvoiceTotalsOut(StrictSchema):
    """Sums over all final invoices; void ones are left out."""

    total_billed = MinorAmount(attribute="billed_minor")
    total_paid = MinorAmount(
        attribute="settled_minor", metadata={"description": "settled by payment, wallet or credit note"}
    )
    outstanding = MinorAmount(attribute="outstanding_minor")
    currency = fields.String()


class InvoicesOut(StrictSchema):
    """GET /billing/history."""

    invoices = fields.List(fields.Nested(InvoiceListItemOut()))
    summary = fields.Nested(InvoiceTotalsOut())
    pagination = fields.Nested(Pagination())


class PartyOut(StrictSchema):
    """Seller or buyer as the invoice was issued with them; what was not known then is absent."""

    name = fields.String(required=True)
    address = AddressRows(metadata={"type": "array", "items": {"type": "string"}})
    email = fields.String()
    tax_id = fields.String()


class ServicePeriodOut(StrictSchema):
    """The half-open range of time that a line charges for."""

    starts_at = Timestamp(attribute="service_starts_at")
    ends_at = Timestamp(attribute="service_ends_at")


class InvoiceLineOut(BillLineOut):
    """A line of an invoice."""

    id = PrefixedId("lin")
    plan = fields.String(attribute="plan_version_id", allow_none=True)
    meter = fields.String(attribute="meter_code", allow_none=True)
    unit = fields.String(allow_none=True)
    period = Embedded(ServicePeriodOut(), allow_none=True)


class CreditNoteSummaryOut(StrictSchema):
    """A credit note on an invoice."""

    id = PrefixedId("crn")
    number = fields.String()
    amount = MinorAmount(attribute="total_minor")
    reason = fields.String()
    issued_at = Timestamp()


class InvoiceDetailOut(InvoiceOut):
    """GET /billing/invoices/{invoice_id}: total less credits, credit notes and payments is what is due."""

    seller = fields.Nested(PartyOut(), attribute="invoice.seller")
    bill_to = fields.Nested(PartyOut(), attribute="invoice.bill_to")
    lines = fields.List(NestedAmounts(InvoiceLineOut()))
    subtotal = MinorAmount(attribute="invoice.subtotal_minor")
    discount = MinorAmount(attribute="invoice.discount_minor")
    tax = MinorAmount(attribute="invoice.tax_minor")
    credits_applied = MinorAmount(
        attribute="invoice.credits_applied_minor", metadata={"description": "paid from the wallet"}
    )
    credit_notes_applied = MinorAmount(
        attribute="invoice.reduced_minor", metadata={"description": "credit notes that lower what is due"}
    )
    amount_paid = MinorAmount(attribute="invoice.paid_minor")
    credit_notes = fields.List(fields.Nested(CreditNoteSummaryOut()))
    replaces_id = PrefixedId("inv", attribute="invoice.replaces_id", allow_none=True)
    issued_at = Timestamp(attribute="invoice.finalized_at")
    voided_at = Timestamp(attribute="invoice.voided_at", allow_none=True)


class LineEventsSummaryOut(StrictSchema):
    """The events behind a line; reversed ones are counted in `reversals` and lower the quantity."""

    events = fields.Integer()
    reversals = fields.Integer()
    quantity = Quantity()
    first_at = Timestamp(allow_none=True)
    last_at = Timestamp(allow_none=True)


class ChargePartOut(StrictSchema):
    """Units at one price: `units` x `unit_price` + `flat_amount` = `amount`, exactly."""

    units = Quantity()
    unit_price = Quantity()
    flat_amount = ExactAmount(attribute="flat")
    amount = ExactAmount()


class ChargeOut(StrictSchema):
    """A quantity and its charge: `exact_amount` is the sum of the parts, `amount` that rounded half up once."""

    quantity = Quantity()
    included = Quantity()
    billable = Quantity()
    parts = fields.List(fields.Nested(ChargePartOut()))
    exact_amount = ExactAmount(attribute="exact")
    max_amount = ExactAmount(attribute="cap", allow_none=True)
    amount = MinorAmount(attribute="rounded_minor")


class ProrationOut(StrictSchema):
    """A monthly amount for the time a plan was in force: full x used / whole."""

    full_amount = MinorAmount(attribute="full_minor")
    used = Duration()
    used_seconds = DurationSeconds(attribute="used", dump_only=True)
    whole = Duration()
    whole_seconds = DurationSeconds(attribute="whole", dump_only=True)
    exact_amount = ExactAmount(attribute="exact", metadata={"description": "cut after ten decimals"})


class RatedPriceOut(StrictSchema):
    """The price a quantity was rated at; a published one never changes.

    `package_size` is what one unit of a part is, where packages are sold.
    """

    model = fields.String(metadata={"enum": list(PriceModel)})
    tiers = fields.List(NestedAmounts(TierOut()))
    package_size = Quantity(attribute="units_per_package", allow_none=True)


class LineExplanationOut(StrictSchema):
    """GET /billing/invoices/{invoice_id}/lines/{line_id}/explain.

    `before` and `rated` are the two sides of late usage; `steps` is the arithmetic in sentences.
    """

    invoice_id = PrefixedId("inv", attribute="invoice.id")
    invoice_number = fields.String(attribute="invoice.number")
    line = NestedAmounts(InvoiceLineOut())
    currency = fields.String()
    price = NestedAmounts(RatedPriceOut(), allow_none=True)
    counted = fields.Nested(LineEventsSummaryOut(), allow_none=True)
    rated = NestedAmounts(ChargeOut(), attribute="explained.rated", allow_none=True)
    before = NestedAmounts(ChargeOut(), attribute="explained.before", allow_none=True)
    proration = NestedAmounts(ProrationOut(), attribute="explained.proration", allow_none=True)
    steps = fields.List(fields.String(), attribute="explained.steps")
    recomputed_amount = MinorAmount(
        attribute="explained.recomputed_minor", metadata={"description": "calculated again from `calculation`"}
    )


class WalletBalanceOut(StrictSchema):
    """Credit that the next invoice in a currency can use."""

    amount = MinorAmount(attribute="amount_minor")
    currency = fields.String()


class GrantEntryOut(StrictSchema):
    """A change of the remainder of a grant; below zero when credit was used."""

    amount = MinorAmount(attribute="delta_minor")
    reason = fields.String(metadata={"enum": list(CreditEntryReason)})
    invoice_id = PrefixedId("inv", allow_none=True)
    at = Timestamp()


class GrantOut(StrictSchema):
    """Wallet credit from one source."""

    id = PrefixedId("grt", attribute="grant.id")
    kind = fields.String(attribute="grant.kind", metadata={"enum": list(GrantKind)})
    amount = MinorAmount(attribute="grant.amount_minor")
    remaining = MinorAmount(attribute="grant.remaining_minor")
    currency = fields.String()
    effective_at = Timestamp(attribute="grant.effective_at")
    expires_at = Timestamp(attribute="grant.expires_at", allow_none=True)
    created_at = Timestamp(attribute="grant.created_at")
    entries = fields.List(NestedAmounts(GrantEntryOut()))


class WalletOut(StrictSchema):
    """GET /billing/wallet."""

    balances = fields.List(fields.Nested(WalletBalanceOut()))
    grants = fields.List(fields.Nested(GrantOut()))
    pagination = fields.Nested(Pagination())


class SentInvoiceOut(StrictSchema):
    """POST /billing/invoices/{id}/send."""

    sent_to = fields.String(
        metadata={"description": "email address of the calling user", "example": "alice@acme.example"}
    )


class CreditNoteLineOut(StrictSchema):
    """The part of a credit note that reduces one invoice line."""

    line_id = PrefixedId("lin", attribute="invoice_line_id")
    amount = MinorAmount(attribute="amount_minor")


class CreditNoteOut(StrictSchema):
    """A credit note; its amount is the sum of `to_due`, `to_wallet` and `to_refund`."""

    id = PrefixedId("crn", attribute="note.id")
    number = fields.String(attribute="note.number")
    invoice_id = PrefixedId("inv", attribute="note.invoice_id")
    invoice_number = fields.String(allow_none=True)
    amount = MinorAmount(attribute="note.total_minor")
    to_due = MinorAmount(attribute="note.to_due_minor")
    to_wallet = MinorAmount(attribute="note.to_wallet_minor")
    to_refund = MinorAmount(attribute="note.to_refund_minor")
    currency = fields.String()
    reason = fields.String(attribute="note.reason")
    memo = fields.String(attribute="note.memo")
    issued_at = Timestamp(attribute="note.issued_at")
    lines = fields.List(NestedAmounts(CreditNoteLineOut()))


class CreditNotesOut(StrictSchema):
    """GET /billing/credit-notes."""

    credit_notes = fields.List(fields.Nested(CreditNoteOut()))
    pagination = fields.Nested(Pagination())


class CloseOrganizationIn(StrictSchema):
    """Confirmation that an organization is to be closed for good."""

    name = Text(maximum=100, required=True, metadata={"description": "the name of the organization, as it is"})


class ClosingPreviewOut(StrictSchema):
    """GET /organization/close: what is open before an organization is closed."""

    final_amount = MinorAmount(
        attribute="final_minor", metadata={"description": "what closing at this moment would invoice"}
    )
    unpaid_amount = MinorAmount(attribute="unpaid_minor", metadata={"description": "due on earlier invoices"})
    unpaid_invoices = fields.List(fields.Nested(InvoiceOut()), attribute="unpaid")
    wallet_amount = MinorAmount(
        attribute="wallet_minor", metadata={"description": "credit that pays the final invoice first"}
    )
    currency = fields.String()
    active_keys = fields.Integer(metadata={"description": "API keys that closing revokes"})
    is_reviewed = fields.Boolean(
        metadata={"description": "the final invoice waits for the operator before it is issued"}
    )


class ClosedOrganizationOut(StrictSchema):
    """A closed organization with its final invoices; one that an operator reviews is issued later."""

    organization = fields.Nested(OrganizationOut())
    invoices = fields.List(fields.Nested(InvoiceOut()), attribute="issued")
