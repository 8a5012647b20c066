"""Wire shapes of previews and invoices."""

from marshmallow import fields, validate

from saas_api.billing.schemas.plans import TierOut
from saas_api.core.http import Id, PageQuery, Pagination, QueryInt, Schema, Timestamp


class BillingPeriodOut(Schema):
    """A half-open range of time: its end belongs to the next period."""

    starts_at = Timestamp()
    ends_at = Timestamp()
    timezone = fields.String()


class LineOut(Schema):
    """A line of a bill; `calculation` holds everything its amount follows from."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(allow_none=True)
    meter = fields.String(allow_none=True)
    quantity = fields.String()
    amount = fields.String()
    calculation = fields.Dict()


class CalculateOut(Schema):
    """GET /billing/calculate."""

    period = fields.Nested(BillingPeriodOut())
    total_requests = fields.Integer()
    lines = fields.List(fields.Nested(LineOut()))
    total_amount = fields.String()
    forecast_amount = fields.String(metadata={"description": "the same usage with the base to the period's end"})
    currency = fields.String()
    status = fields.String()


class HistoryQuery(PageQuery):
    """Invoices in one state, or issued in one year (UTC), or all."""

    status = fields.String(load_default=None, validate=validate.OneOf(("open", "paid", "void", "uncollectible")))
    year = QueryInt(minimum=2000, maximum=9998, load_default=None)


class InvoiceOut(Schema):
    """An invoice in a list."""

    id = Id("inv")
    number = fields.String()
    period = fields.Nested(BillingPeriodOut())
    total_requests = fields.Integer()
    total_amount = fields.String()
    amount_due = fields.String()
    currency = fields.String()
    status = fields.String()
    due_date = Timestamp()
    paid_at = Timestamp(allow_none=True)


class TotalsOut(Schema):
    """Sums over all final invoices; void ones are left out."""

    total_billed = fields.String()
    total_paid = fields.String(metadata={"description": "settled by payment, wallet or credit note"})
    outstanding = fields.String()
    currency = fields.String()


class HistoryOut(Schema):
    """GET /billing/history."""

    invoices = fields.List(fields.Nested(InvoiceOut()))
    summary = fields.Nested(TotalsOut())
    pagination = fields.Nested(Pagination())


class PartyOut(Schema):
    """Seller or buyer as the invoice was issued with them."""

    name = fields.String()
    address = fields.Raw(metadata={"type": "array", "items": {"type": "string"}})
    email = fields.String()
    tax_id = fields.String()


class ServicePeriodOut(Schema):
    """When what a line charges for took place; half-open."""

    starts_at = Timestamp()
    ends_at = Timestamp()


class InvoiceLineOut(LineOut):
    """A line of an invoice."""

    id = Id("lin")
    unit = fields.String(allow_none=True)
    period = fields.Nested(ServicePeriodOut(), allow_none=True)


class NoteInShortOut(Schema):
    """A credit note on an invoice."""

    id = Id("crn")
    number = fields.String()
    amount = fields.String()
    reason = fields.String()
    issued_at = Timestamp()


class InvoiceDetailOut(Schema):
    """GET /billing/invoices/{invoice_id}: total less credits, credit notes and payments is what is due."""

    id = Id("inv")
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
    credit_notes = fields.List(fields.Nested(NoteInShortOut()))
    replaces_id = Id("inv", allow_none=True)
    issued_at = Timestamp()
    due_date = Timestamp()
    paid_at = Timestamp(allow_none=True)
    voided_at = Timestamp(allow_none=True)


class CountedOut(Schema):
    """The events behind a line; those taken back are in `reversals` and lower the quantity."""

    events = fields.Integer()
    reversals = fields.Integer()
    quantity = fields.String()
    first_at = Timestamp(allow_none=True)
    last_at = Timestamp(allow_none=True)


class PartOut(Schema):
    """Units at one price: `units` x `unit_price` + `flat_amount` = `amount`, exactly."""

    units = fields.String()
    unit_price = fields.String()
    flat_amount = fields.String()
    amount = fields.String()


class RatedOut(Schema):
    """A quantity and its charge: `exact_amount` is the sum of the parts, `amount` that rounded half up once."""

    quantity = fields.String()
    included = fields.String()
    billable = fields.String()
    parts = fields.List(fields.Nested(PartOut()))
    exact_amount = fields.String()
    max_amount = fields.String(allow_none=True)
    amount = fields.String()


class ProrationOut(Schema):
    """A monthly amount for the time a plan was in force: full x used / whole."""

    full_amount = fields.String()
    used = fields.String()
    used_seconds = fields.String()
    whole = fields.String()
    whole_seconds = fields.String()
    exact_amount = fields.String(metadata={"description": "cut after ten decimals"})


class RatedPriceOut(Schema):
    """The price a quantity was rated at; a published one never changes.

    `package_size` is what one unit of a part is, where packages are sold.
    """

    model = fields.String(metadata={"enum": ["per_unit", "graduated", "volume", "package"]})
    tiers = fields.List(fields.Nested(TierOut()))
    package_size = fields.String(allow_none=True)


class ExplainOut(Schema):
    """GET /billing/invoices/{invoice_id}/lines/{line_id}/explain.

    `before` and `rated` are the two sides of late usage; `steps` is the arithmetic in sentences.
    """

    invoice_id = Id("inv")
    invoice_number = fields.String()
    line = fields.Nested(InvoiceLineOut())
    currency = fields.String()
    price = fields.Nested(RatedPriceOut(), allow_none=True)
    counted = fields.Nested(CountedOut(), allow_none=True)
    rated = fields.Nested(RatedOut(), allow_none=True)
    before = fields.Nested(RatedOut(), allow_none=True)
    proration = fields.Nested(ProrationOut(), allow_none=True)
    steps = fields.List(fields.String())
    recomputed_amount = fields.String(metadata={"description": "worked out anew from `calculation`"})
