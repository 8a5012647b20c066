"""PlanOut, SubscriptionOut, ChangePlanIn, BillOut, PlanSimulationOut."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.fields import (
    MinorAmount,
    NestedAmounts,
    PrefixedId,
    Quantity,
    StrictInteger,
    StrictSchema,
    Text,
    Timestamp,
)

_QUANTITY = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", re.ASCII)
_MAX_PLANS = 20
_WHEN = validate.OneOf(("now", "period_end"))


class TierOut(StrictSchema):
    """A step of a price; `up_to` is inclusive and null on the last."""

    up_to = Quantity(allow_none=True)
    unit_price = Quantity()
    flat_amount = MinorAmount(attribute="flat_minor")


class PackageOut(StrictSchema):
    """A price for each package that was begun."""

    size = fields.String()
    amount = fields.String()


class PriceOut(StrictSchema):
    """What a meter costs; `included` units come off first, `max_amount` caps the charge of a period."""

    meter = fields.String()
    unit = fields.String()
    model = fields.String()
    included = fields.String()
    unit_price = fields.String(allow_none=True)
    tiers = fields.List(NestedAmounts(TierOut()))
    package = fields.Nested(PackageOut(), allow_none=True)
    max_amount = fields.String(allow_none=True)


class PlanOut(StrictSchema):
    """A plan on offer."""

    code = fields.String()
    name = fields.String()
    version = fields.String()
    base_amount = fields.String(metadata={"description": "a month"})
    min_spend = fields.String(metadata={"description": "of base and usage, a month"})
    currency = fields.String()
    rate_limit_per_minute = fields.Integer()
    prices = fields.List(NestedAmounts(PriceOut()))


class PlansOut(StrictSchema):
    """GET /billing/plans."""

    plans = fields.List(fields.Nested(PlanOut()))


class ChangePlanIn(StrictSchema):
    """Another plan; without `when`, a dearer one at once and any other when the period ends."""

    plan = Text(maximum=40, required=True)
    when = fields.String(load_default=None, allow_none=True, validate=_WHEN)


class PeriodBoundsOut(StrictSchema):
    """A half-open range of time."""

    starts_at = Timestamp()
    ends_at = Timestamp()


class PlanVersionOut(StrictSchema):
    """A version of a plan, in short."""

    code = fields.String()
    name = fields.String()
    version = fields.String()
    base_amount = fields.String()
    currency = fields.String()


class ScheduledChangeOut(PlanVersionOut):
    """What takes effect later."""

    effective_at = Timestamp()


class SubscriptionOut(StrictSchema):
    """GET /billing/subscription."""

    id = PrefixedId("sub")
    status = fields.String(attribute="state")
    standing = fields.String(metadata={"description": "what unpaid invoices have led to"})
    started_at = Timestamp()
    anchor_day = fields.Integer()
    plan = fields.Nested(PlanVersionOut())
    plan_since = Timestamp()
    period = fields.Nested(PeriodBoundsOut(), allow_none=True)
    scheduled_change = fields.Nested(ScheduledChangeOut(), allow_none=True)


class ChangedOrganizationOut(StrictSchema):
    """The organization with the plan that is in force now."""

    id = PrefixedId("org")
    name = fields.String()
    plan = fields.String()
    updated_at = Timestamp()


class LineDifferenceOut(StrictSchema):
    """What a change adds to a line of the running period's bill; below 0 for what is no longer charged."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(allow_none=True)
    meter = fields.String(allow_none=True)
    amount = fields.String()


class PlanChangeOut(StrictSchema):
    """A change of plan and what it adds to the running period's bill."""

    plan = fields.String()
    version = fields.String()
    previous_version = fields.String(metadata={"description": "in force before, or scheduled and now called off"})
    effective_at = Timestamp()
    is_scheduled = fields.Boolean()
    lines = fields.List(fields.Nested(LineDifferenceOut()))
    total = fields.String(metadata={"description": "sum of the lines"})
    currency = fields.String()


class ChangedPlanOut(StrictSchema):
    """POST /billing/upgrade."""

    organization = fields.Nested(ChangedOrganizationOut())
    change = fields.Nested(PlanChangeOut())


class PreviewLineOut(StrictSchema):
    """A line of a bill that is not written."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(allow_none=True)
    meter = fields.String(allow_none=True)
    quantity = fields.String()
    amount = fields.String()


class BillOut(StrictSchema):
    """A period's whole bill, base to its end."""

    lines = fields.List(fields.Nested(PreviewLineOut()))
    total_amount = fields.String()
    currency = fields.String()


class PlanChangePreviewOut(StrictSchema):
    """POST /billing/preview-change."""

    period = fields.Nested(PeriodBoundsOut())
    current = fields.Nested(BillOut())
    changed = fields.Nested(BillOut())
    difference = fields.String(metadata={"description": "changed less current"})
    change = fields.Nested(PlanChangeOut())


class QuantitiesField(fields.Dict):
    """Quantities by meter: whole numbers, or strings with at most 6 decimals."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> dict[str, Decimal]:
        if not isinstance(value, Mapping) or not value:
            raise ma.ValidationError('Not an object like {"sms": "1000"}.')
        read, wrong = {}, {}
        for meter, quantity in value.items():
            text = str(quantity) if type(quantity) is int else quantity
            if isinstance(text, str) and _QUANTITY.fullmatch(text):
                read[str(meter)] = Decimal(text)
            else:
                wrong[str(meter)] = ["Not a quantity from 0 to 999999999999 with at most 6 decimals."]
        if wrong:
            raise ma.ValidationError(wrong)
        return read


class SimulateIn(StrictSchema):
    """Which plans, and whose usage: the running period's, that of periods before it, or what is given."""

    plans = fields.List(
        Text(maximum=40),
        load_default=None,
        allow_none=True,
        validate=validate.Length(min=1, max=_MAX_PLANS),
        metadata={"description": "all that are on offer if left out"},
    )
    periods = StrictInteger(
        maximum=12, load_default=0, metadata={"description": "0 for the running one, else so many before it"}
    )
    quantities = QuantitiesField(load_default=None, allow_none=True)

    @ma.validates_schema
    def _one_source(self, data: dict[str, Any], **_: Any) -> None:
        if data.get("quantities") is not None and data.get("periods"):
            raise ma.ValidationError("Given quantities stand for one month; leave periods out.", "periods")


class SimulatedBillOut(BillOut):
    """One period on a plan."""

    starts_at = Timestamp()
    ends_at = Timestamp()


class PlanSimulationOut(StrictSchema):
    """A plan and what the usage costs on it."""

    plan = fields.String()
    version = fields.String()
    is_current = fields.Boolean()
    total_amount = fields.String()
    currency = fields.String()
    periods = fields.List(fields.Nested(SimulatedBillOut()))


class SimulateOut(StrictSchema):
    """POST /billing/simulate."""

    plans = fields.List(fields.Nested(PlanSimulationOut()))
