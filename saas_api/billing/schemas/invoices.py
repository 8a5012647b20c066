"""Wire shapes of plans, previews and invoices."""

from marshmallow import fields, validate

from saas_api.core.http import Id, PageQuery, Pagination, Schema, Timestamp


class TierOut(Schema):
    """A step of a price; `up_to` is inclusive and null on the last."""

    up_to = fields.String(allow_none=True)
    unit_price = fields.String()


class PriceOut(Schema):
    """What a meter costs; `included` units come off first."""

    meter = fields.String()
    unit = fields.String()
    model = fields.String()
    included = fields.String()
    unit_price = fields.String(allow_none=True)
    tiers = fields.List(fields.Nested(TierOut()))


class PlanOut(Schema):
    """A plan on offer."""

    code = fields.String()
    name = fields.String()
    version = fields.String()
    base_amount = fields.String(metadata={"description": "a month"})
    currency = fields.String()
    rate_limit_per_minute = fields.Integer()
    prices = fields.List(fields.Nested(PriceOut()))


class PlansOut(Schema):
    """GET /billing/plans."""

    plans = fields.List(fields.Nested(PlanOut()))


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
    """Invoices in one state, or all."""

    status = fields.String(load_default=None, validate=validate.OneOf(("open", "paid", "void", "uncollectible")))


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
