"""InvoiceOut, InvoiceLineOut, CreditNoteOut, WalletOut, LineExplanationOut."""

from marshmallow import fields, validate

from saas_api.billing.plan_schemas import TierOut
from saas_api.core.fields import PageQuery, Pagination, PrefixedId, QueryInteger, StrictSchema, Timestamp


class BillingPeriodOut(StrictSchema):
    """A half-open range of time: its end belongs to the next period."""

    starts_at = Timestamp()
    ends_at = Timestamp()
    timezone = fields.String()


class BillLineOut(StrictSchema):
    """A line of a bill; `calculation` holds everything its amount follows from."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(allow_none=True)
    meter = fields.String(allow_none=True)
    quantity = fields.String()
    amount = fields.String()
    calculation = fields.Dict()


class BillPreviewOut(StrictSchema):
    """GET /billing/calculate."""

    period = fields.Nested(BillingPeriodOut())
    total_requests = fields.Integer()
    lines = fields.List(fields.Nested(BillLineOut()))
    total_amount = fields.String()
    forecast_amount = fields.String(metadata={"description": "the same usage with the base to the period's end"})
    currency = fields.String()
    status = fields.String()


class InvoicesQuery(PageQuery):
    """Invoices in one state, or issued in one year (UTC), or all."""

    status = fields.String(load_default=None, validate=validate.OneOf(("open", "paid", "void", "uncollectible")))
    year = QueryInteger(minimum=2000, maximum=9998, load_default=None)


class InvoiceOut(StrictSchema):
    """An invoice in a list."""

    id = PrefixedId("inv")
    number = fields.String()
    period = fields.Nested(BillingPeriodOut())
    total_requests = fields.Integer()
    total_amount = fields.String()
    amount_due = fields.String()
    currency = fields.String()
    status = fields.String()
    due_date = Timestamp()
    paid_at = Timestamp(allow_none=True)


class InvoiceTotalsOut(StrictSchema):
    """Sums over all final invoices; void ones are left out."""

    total_billed = fields.String()
    total_paid = fields.String(metadata={"description": "settled by payment, wallet or credit note"})
    outstanding = fields.String()
    currency = fields.String()


class InvoicesOut(StrictSchema):
    """GET /billing/history."""

    invoices = fields.List(fields.Nested(InvoiceOut()))
    summary = fields.Nested(InvoiceTotalsOut())
    pagination = fields.Nested(Pagination())


class PartyOut(StrictSchema):
    """Seller or buyer as the invoice was issued with them."""

    name = fields.String()
    address = fields.Raw(metadata={"type": "array", "items": {"type": "string"}})
    email = fields.String()
    tax_id = fields.String()


class ServicePeriodOut(StrictSchema):
    """When what a line charges for took place; half-open."""

    starts_at = Timestamp()
    ends_at = Timestamp()


class InvoiceLineOut(BillLineOut):
    """A line of an invoice."""

    id = PrefixedId("lin")
    unit = fields.String(allow_none=True)
    period = fields.Nested(ServicePeriodOut(), allow_none=True)


class CreditNoteSummaryOut(StrictSchema):
    """A credit note on an invoice."""

    id = PrefixedId("crn")
    number = fields.String()
    amount = fields.String()
    reason = fields.String()
    issued_at = Timestamp()


class InvoiceDetailOut(StrictSchema):
    """GET /billing/invoices/{invoice_id}: total less credits, credit notes and payments is what is due."""

    id = PrefixedId("inv")
    number = fields.String()
    status = fields.String()
    period = fields.Nested(BillingPeriodOut(), allow_none=True)
    seller = fields.Nested(PartyOut())
    bill_to = fields.Nested(PartyOut())
    lines = fields.List(fields.Nested(InvoiceLineOut()))
    subtotal = fields.String()
    discount = fields.String()
    tax = fields.String()
    total_amount = fields.String()
    credits_applied = fields.String(metadata={"description": "taken from the wallet"})
    credit_notes_applied = fields.String(metadata={"description": "credit notes that lower what is due"})
    amount_paid = fields.String()
    amount_due = fields.String()
    currency = fields.String()
    credit_notes = fields.List(fields.Nested(CreditNoteSummaryOut()))
    replaces_id = PrefixedId("inv", allow_none=True)
    issued_at = Timestamp()
    due_date = Timestamp()
    paid_at = Timestamp(allow_none=True)
    voided_at = Timestamp(allow_none=True)


class LineEventsSummaryOut(StrictSchema):
    """The events behind a line; those taken back are in `reversals` and lower the quantity."""

    events = fields.Integer()
    reversals = fields.Integer()
    quantity = fields.String()
    first_at = Timestamp(allow_none=True)
    last_at = Timestamp(allow_none=True)


class ChargePartOut(StrictSchema):
    """Units at one price: `units` x `unit_price` + `flat_amount` = `amount`, exactly."""

    units = fields.String()
    unit_price = fields.String()
    flat_amount = fields.String()
    amount = fields.String()


class ChargeOut(StrictSchema):
    """A quantity and its charge: `exact_amount` is the sum of the parts, `amount` that rounded half up once."""

    quantity = fields.String()
    included = fields.String()
    billable = fields.String()
    parts = fields.List(fields.Nested(ChargePartOut()))
    exact_amount = fields.String()
    max_amount = fields.String(allow_none=True)
    amount = fields.String()


class ProrationOut(StrictSchema):
    """A monthly amount for the time a plan was in force: full x used / whole."""

    full_amount = fields.String()
    used = fields.String()
    used_seconds = fields.String()
    whole = fields.String()
    whole_seconds = fields.String()
    exact_amount = fields.String(metadata={"description": "cut after ten decimals"})


class RatedPriceOut(StrictSchema):
    """The price a quantity was rated at; a published one never changes.

    `package_size` is what one unit of a part is, where packages are sold.
    """

    model = fields.String(metadata={"enum": ["per_unit", "graduated", "volume", "package"]})
    tiers = fields.List(fields.Nested(TierOut()))
    package_size = fields.String(allow_none=True)


class LineExplanationOut(StrictSchema):
    """GET /billing/invoices/{invoice_id}/lines/{line_id}/explain.

    `before` and `rated` are the two sides of late usage; `steps` is the arithmetic in sentences.
    """

    invoice_id = PrefixedId("inv")
    invoice_number = fields.String()
    line = fields.Nested(InvoiceLineOut())
    currency = fields.String()
    price = fields.Nested(RatedPriceOut(), allow_none=True)
    counted = fields.Nested(LineEventsSummaryOut(), allow_none=True)
    rated = fields.Nested(ChargeOut(), allow_none=True)
    before = fields.Nested(ChargeOut(), allow_none=True)
    proration = fields.Nested(ProrationOut(), allow_none=True)
    steps = fields.List(fields.String())
    recomputed_amount = fields.String(metadata={"description": "worked out anew from `calculation`"})


class WalletBalanceOut(StrictSchema):
    """What the next invoice in a currency may use."""

    amount = fields.String()
    currency = fields.String()


class GrantEntryOut(StrictSchema):
    """A movement of a grant; below zero when it was used."""

    amount = fields.String()
    reason = fields.String(metadata={"enum": ["apply", "unapply", "expire", "void"]})
    invoice_id = PrefixedId("inv", allow_none=True)
    at = Timestamp()


class GrantOut(StrictSchema):
    """Money in the wallet, by where it came from."""

    id = PrefixedId("grt")
    kind = fields.String(metadata={"enum": ["promotional", "purchased", "credit_note", "overpayment", "carry"]})
    amount = fields.String()
    remaining = fields.String()
    currency = fields.String()
    effective_at = Timestamp()
    expires_at = Timestamp(allow_none=True)
    created_at = Timestamp()
    entries = fields.List(fields.Nested(GrantEntryOut()))


class WalletOut(StrictSchema):
    """GET /billing/wallet."""

    balances = fields.List(fields.Nested(WalletBalanceOut()))
    grants = fields.List(fields.Nested(GrantOut()))
    pagination = fields.Nested(Pagination())


class CreditNoteLineOut(StrictSchema):
    """What a credit note takes off one line."""

    line_id = PrefixedId("lin")
    amount = fields.String()


class CreditNoteOut(StrictSchema):
    """A credit note; its amount is the sum of where it goes."""

    id = PrefixedId("crn")
    number = fields.String()
    invoice_id = PrefixedId("inv")
    invoice_number = fields.String(allow_none=True)
    amount = fields.String()
    to_due = fields.String()
    to_wallet = fields.String()
    to_refund = fields.String()
    currency = fields.String()
    reason = fields.String()
    memo = fields.String()
    issued_at = Timestamp()
    lines = fields.List(fields.Nested(CreditNoteLineOut()))


class CreditNotesOut(StrictSchema):
    """GET /billing/credit-notes."""

    credit_notes = fields.List(fields.Nested(CreditNoteOut()))
    pagination = fields.Nested(Pagination())
