"""Schemas of plans, subscriptions, plan changes and simulations; they read the views of their modules."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.billing.models import BillingStanding, SubscriptionStatus
from saas_api.billing.rating.charges import PriceModel
from saas_api.core.fields import (
    Embedded,
    MinorAmount,
    NestedAmounts,
    PrefixedId,
    Quantity,
    StrictInteger,
    StrictSchema,
    Text,
    Timestamp,
)
from saas_api.core.money import CURRENCY_EXPONENTS

_QUANTITY = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", re.ASCII)
_MAX_PLANS = 20


class TierOut(StrictSchema):
    """A step of a price; `up_to` is inclusive and null on the last."""

    up_to = Quantity(allow_none=True)
    unit_price = Quantity()
    flat_amount = MinorAmount(attribute="flat_minor")


class PackageOut(StrictSchema):
    """A price for each package, also for one that is not used up."""

    size = Quantity(attribute="package_size")
    amount = MinorAmount(attribute="package_amount_minor")


class ValuePriceOut(StrictSchema):
    """A price: `included` units are free, `max_amount` limits the charge of a period."""

    model = fields.String(attribute="price.model", validate=validate.OneOf(list(PriceModel)))
    included = Quantity(attribute="price.included_quantity")
    unit_price = Quantity(allow_none=True)
    tiers = fields.List(NestedAmounts(TierOut()), attribute="price.tiers")
    package = NestedAmounts(PackageOut(), allow_none=True)
    max_amount = MinorAmount(attribute="price.max_amount_minor", allow_none=True)


class PriceByOut(StrictSchema):
    """Prices by the value of a dimension; `default` is for all other values together."""

    dimension = fields.String(attribute="price.dimension")
    values = fields.Dict(keys=fields.String(), values=NestedAmounts(ValuePriceOut()))
    default = Embedded(ValuePriceOut())


class PriceOut(ValuePriceOut):
    """Price of a meter; where it differs by a dimension, that of all values without a price of their own."""

    meter = fields.String()
    unit = fields.String()
    by = NestedAmounts(PriceByOut(), allow_none=True)


class PlanOut(StrictSchema):
    """A public plan."""

    code = fields.String()
    name = fields.String()
    version = fields.String(attribute="version.id")
    base_amount = MinorAmount(attribute="version.base_amount_minor", metadata={"description": "a month"})
    min_spend = MinorAmount(attribute="version.min_spend_minor", metadata={"description": "of base and usage, a month"})
    currency = fields.String()
    rate_limit_per_minute = fields.Integer(attribute="rate_limit")
    prices = fields.List(NestedAmounts(PriceOut()))


class PlansQuery(StrictSchema):
    """The plans that an organization with a currency can choose; without it, all of them."""

    currency = fields.String(
        load_default=None, validate=validate.OneOf(list(CURRENCY_EXPONENTS)), metadata={"x-enum": "Currency"}
    )


class PlansOut(StrictSchema):
    """GET /billing/plans."""

    plans = fields.List(fields.Nested(PlanOut()))


class ChangePlanIn(StrictSchema):
    """Another plan. Without `when`, one with a higher base amount takes effect now, others at the end of the period."""

    plan = Text(maximum=40, required=True)
    when = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf(("now", "period_end")),
        metadata={"x-enum": "PlanChangeTime"},
    )
    confirm_spend_cap = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "change the plan although the spend cap will refuse calls"},
    )


class PeriodBoundsOut(StrictSchema):
    """A half-open range of time."""

    starts_at = Timestamp()
    ends_at = Timestamp()


class PlanVersionOut(StrictSchema):
    """A version of a plan."""

    code = fields.String(attribute="plan_code")
    name = fields.String()
    version = fields.String(attribute="id")
    base_amount = MinorAmount(attribute="base_amount_minor")
    currency = fields.String()


class ScheduledChangeOut(StrictSchema):
    """A plan version that takes effect later."""

    code = fields.String(attribute="version.plan_code")
    name = fields.String(attribute="version.name")
    version = fields.String(attribute="version.id")
    base_amount = MinorAmount(attribute="version.base_amount_minor")
    currency = fields.String()
    effective_at = Timestamp()


class SubscriptionOut(StrictSchema):
    """A subscription: the plan of the organization, its current period, and a scheduled change."""

    id = PrefixedId("sub", attribute="subscription.id")
    status = fields.String(attribute="subscription.status", validate=validate.OneOf(list(SubscriptionStatus)))
    standing = fields.String(
        attribute="subscription.standing",
        validate=validate.OneOf(list(BillingStanding)),
        metadata={"description": "what unpaid invoices have led to"},
    )
    started_at = Timestamp(attribute="subscription.started_at")
    anchor_day = fields.Integer(attribute="subscription.anchor_day")
    plan = fields.Nested(PlanVersionOut(), attribute="version")
    plan_since = Timestamp(attribute="segment.starts_at")
    period = fields.Nested(PeriodBoundsOut(), allow_none=True)
    scheduled_change = fields.Nested(ScheduledChangeOut(), attribute="scheduled", allow_none=True)


class SubscriptionEventOut(SubscriptionOut):
    """Event data of a subscription."""

    class Meta(StrictSchema.Meta):
        """Fields of the event; `plan` is the plan that the event is about, also when it takes effect later."""

        fields = ("id", "status", "plan", "previous_plan", "canceled_at")

    previous_plan = fields.String(allow_none=True, metadata={"description": "code of the plan before"})
    canceled_at = Timestamp(attribute="subscription.ended_at", allow_none=True)


class SubscriptionUpdatedEventOut(SubscriptionEventOut):
    """Event data of a plan change."""

    class Meta(StrictSchema.Meta):
        """Fields of the event."""

        fields = (*SubscriptionEventOut.Meta.fields, "effective_at")

    effective_at = Timestamp(metadata={"description": "when `plan` takes effect"})


class ChangedOrganizationOut(StrictSchema):
    """The organization with the plan in force."""

    id = PrefixedId("org")
    name = fields.String()
    plan = fields.String()
    updated_at = Timestamp()


class LineDifferenceOut(StrictSchema):
    """Change of one line of the bill of the current period; negative for what is no longer charged."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(attribute="version_id", allow_none=True)
    meter = fields.String(allow_none=True)
    amount = MinorAmount(attribute="amount_minor")


class SpendCapConflictOut(StrictSchema):
    """A spend cap that refuses calls on the new plan: `needed` is what it costs without a further call."""

    amount = MinorAmount(attribute="amount_minor")
    needed = MinorAmount(attribute="needed_minor")
    message = fields.String()


class PlanChangeOut(StrictSchema):
    """A plan change and its effect on the bill of the current period."""

    plan = fields.String()
    version = fields.String(attribute="version.id")
    previous_version = fields.String(attribute="previous", metadata={"description": "in force before"})
    canceled_version = fields.String(
        attribute="canceled", allow_none=True, metadata={"description": "was scheduled, and will not take effect"}
    )
    effective_at = Timestamp()
    is_scheduled = fields.Boolean()
    lines = fields.List(NestedAmounts(LineDifferenceOut()), attribute="differences")
    total = MinorAmount(attribute="total_minor", metadata={"description": "sum of the lines"})
    currency = fields.String()
    previous_currency = fields.String(metadata={"description": "of the organization before"})
    spend_cap_conflict = fields.Nested(
        SpendCapConflictOut(),
        attribute="cap_conflict",
        allow_none=True,
        metadata={"description": "set if calls would be refused; the change then needs `confirm_spend_cap`"},
    )


class ChangedPlanOut(StrictSchema):
    """POST /billing/upgrade."""

    organization = fields.Nested(ChangedOrganizationOut())
    change = fields.Nested(PlanChangeOut())


class PreviewLineOut(StrictSchema):
    """A line of a bill preview."""

    kind = fields.String()
    description = fields.String()
    plan = fields.String(attribute="version_id", allow_none=True)
    meter = fields.String(allow_none=True)
    quantity = Quantity()
    amount = MinorAmount(attribute="amount_minor")


class BillOut(StrictSchema):
    """The bill of a period, with the base amounts to its end."""

    lines = fields.List(NestedAmounts(PreviewLineOut()))
    total_amount = MinorAmount(attribute="total_minor")
    currency = fields.String()


class PlanChangePreviewOut(StrictSchema):
    """POST /billing/preview-change."""

    period = fields.Nested(PeriodBoundsOut())
    current = fields.Nested(
        BillOut(),
        attribute="before",
        metadata={"description": "if the currency changes, on the plan `free` in the new currency"},
    )
    changed = fields.Nested(BillOut(), attribute="after")
    difference = MinorAmount(attribute="total_minor", metadata={"description": "changed less current"})
    change = Embedded(PlanChangeOut())


class QuantitiesField(fields.Dict):
    """Quantities by meter: whole numbers, or strings with at most 6 decimals."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> dict[str, Decimal]:
        if not isinstance(value, Mapping) or not value:
            raise ma.ValidationError('Not an object like {"lookups": "1000"}.')
        quantities, errors = {}, {}
        for meter, quantity in value.items():
            text = str(quantity) if type(quantity) is int else quantity
            if isinstance(text, str) and _QUANTITY.fullmatch(text):
                quantities[str(meter)] = Decimal(text)
            else:
                errors[str(meter)] = ["Not a quantity from 0 to 999999999999 with at most 6 decimals."]
        if errors:
            raise ma.ValidationError(errors)
        return quantities


class SimulateIn(StrictSchema):
    """Plans to compare, for the usage of the current period, of previous periods, or for given quantities."""

    plans = fields.List(
        Text(maximum=40),
        load_default=None,
        allow_none=True,
        validate=validate.Length(min=1, max=_MAX_PLANS),
        metadata={"description": "all that are on offer if left out"},
    )
    periods = StrictInteger(
        maximum=12,
        load_default=0,
        metadata={"description": "0 for the current period, else the number of periods before it"},
    )
    quantities = QuantitiesField(load_default=None, allow_none=True)

    @ma.validates_schema
    def _require_one_source(self, data: dict[str, Any], **_: Any) -> None:
        if data.get("quantities") is not None and data.get("periods"):
            raise ma.ValidationError("Given quantities stand for one month; leave periods out.", "periods")


class SimulatedBillOut(StrictSchema):
    """The bill of one period on a plan."""

    lines = fields.List(NestedAmounts(PreviewLineOut()), attribute="bill.lines")
    total_amount = MinorAmount(attribute="bill.total_minor")
    currency = fields.String(attribute="bill.currency")
    starts_at = Timestamp()
    ends_at = Timestamp()


class PlanSimulationOut(StrictSchema):
    """A plan and the cost of the usage on it."""

    plan = fields.String()
    version = fields.String(attribute="version.id")
    is_current = fields.Boolean()
    total_amount = MinorAmount(attribute="total_minor")
    currency = fields.String()
    periods = fields.List(NestedAmounts(SimulatedBillOut()))


class SimulateOut(StrictSchema):
    """POST /billing/simulate."""

    plans = fields.List(fields.Nested(PlanSimulationOut()))
