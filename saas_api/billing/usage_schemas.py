"""Schemas of usage, time series, spend cap and alerts; they read the views of their modules."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.billing.rating.thresholds import ALERT_SUBJECTS, METER_SUBJECTS
from saas_api.core.access import KeyMode
from saas_api.core.fields import (
    DateField,
    Embedded,
    ExactAmount,
    MinorAmount,
    MoneyAmount,
    NestedAmounts,
    PrefixedId,
    Quantity,
    StrictSchema,
    Text,
    Timestamp,
)

MAX_ALERTS = 50
GROUP_BY = r"(?:meter|key|source|dimension:[A-Za-z_][A-Za-z0-9_]{0,62})\Z"
_POSITIVE = validate.Range(min=0, min_inclusive=False)


class SpendCapIn(StrictSchema):
    """The most that a period may cost, base included; null removes the cap."""

    amount = MoneyAmount(required=True, allow_none=True)
    action = fields.String(load_default="block", validate=validate.OneOf(("alert", "block")))


class SpendCapOut(StrictSchema):
    """The spend cap and the spend of the current period; `used` is not rounded."""

    amount = MinorAmount(attribute="amount_minor", allow_none=True)
    action = fields.String()
    is_default = fields.Boolean(metadata={"description": "whether it is the default"})
    base = MinorAmount(attribute="spent.base_minor")
    used = ExactAmount(attribute="spent.total_major", metadata={"description": "base and usage"})
    currency = fields.String()


class AlertIn(StrictSchema):
    """One alert: `threshold` is an amount, a percentage, or a quantity of the meter."""

    subject = fields.String(required=True, validate=validate.OneOf(ALERT_SUBJECTS))
    meter = Text(maximum=60, load_default=None, allow_none=True)
    threshold = MoneyAmount(required=True, validate=_POSITIVE)
    enabled = fields.Boolean(load_default=True, truthy={True}, falsy={False})

    @ma.validates_schema
    def _require_meter(self, data: Mapping[str, Any], **_: Any) -> None:
        if (data["subject"] in METER_SUBJECTS) != (data["meter"] is not None):
            raise ma.ValidationError("Quantities have a meter, spend has none.", "meter")
        if data["threshold"].as_tuple().exponent < -6:
            raise ma.ValidationError("At most 6 decimals.", "threshold")


class AlertsIn(StrictSchema):
    """All alerts of the organization; alerts that are not listed are removed."""

    alerts = fields.List(fields.Nested(AlertIn()), required=True, validate=validate.Length(max=MAX_ALERTS))


class AlertOut(StrictSchema):
    """An alert; `fired_at` is when it fired in the current period."""

    id = PrefixedId("alr")
    subject = fields.String()
    meter = fields.String(attribute="meter_code", allow_none=True)
    threshold = Quantity()
    enabled = fields.Boolean()
    fired_at = Timestamp(allow_none=True)


class AlertsOut(StrictSchema):
    """GET and PUT /billing/alerts."""

    alerts = fields.List(fields.Nested(AlertOut()))
    spend_cap = fields.Nested(SpendCapOut())


class AlertEventOut(StrictSchema):
    """Event data of an alert that fired."""

    meter = fields.String(allow_none=True, metadata={"description": "Null for an alert on money: see `spent`."})
    percent = fields.Integer(allow_none=True, metadata={"description": "Null for an alert on an absolute amount."})
    quantity = fields.Integer(allow_none=True, metadata={"description": "In whole units, rounded down."})
    included = fields.Integer(allow_none=True)
    spent = ExactAmount(allow_none=True, metadata={"description": "Null for an alert on a meter."})
    cap = MinorAmount(attribute="cap_minor", allow_none=True)
    period_end = DateField()


def _meter() -> fields.String:
    return fields.String(load_default=None, validate=validate.Length(min=1, max=100))


class UsageQuery(StrictSchema):
    """A range of local days, both inclusive, the mode of the keys, and a meter, without which all are shown."""

    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)
    mode = fields.String(load_default=None, validate=validate.OneOf(list(KeyMode)))
    meter = _meter()
    format = fields.String(load_default="json", validate=validate.OneOf(("json", "csv")))


class TimeseriesQuery(StrictSchema):
    """A range of local days, both inclusive, in points of an hour or a day, at most 744 of them."""

    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)
    interval = fields.String(load_default="day", validate=validate.OneOf(("hour", "day")))
    meter = _meter()
    group_by = fields.String(
        load_default=None,
        validate=validate.Regexp(
            GROUP_BY, error="One of meter, key, source, or dimension:NAME with a dimension of the meter."
        ),
        metadata={"description": "`meter`, `key`, `source`, or `dimension:NAME` with a dimension of the meter."},
    )
    mode = fields.String(load_default=None, validate=validate.OneOf(list(KeyMode)))


class DateRangeOut(StrictSchema):
    """Local days, both inclusive."""

    start_date = fields.Date(attribute="first")
    end_date = fields.Date(attribute="last")
    timezone = fields.String(attribute="zone.key")


class UsageSummaryOut(StrictSchema):
    """Totals of a range."""

    total_requests = fields.Integer(attribute="total.requests")
    successful_requests = fields.Integer(attribute="total.success_count")
    failed_requests = fields.Integer(attribute="total.failed_count")
    rate_limited_requests = fields.Integer(attribute="total.limited_count")
    success_rate = fields.Float(attribute="total.success_rate")
    total_cost = MinorAmount(
        attribute="total_cost_minor", metadata={"description": "what the bill will say, after included quantities"}
    )
    list_cost = ExactAmount(attribute="total.cost", metadata={"description": "units times list price"})
    currency = fields.String()
    period = fields.Nested(DateRangeOut(), attribute="days")


class MeterUsageOut(StrictSchema):
    """Usage of one meter."""

    meter = fields.String()
    unit = fields.String()
    requests = fields.Integer()
    quantity = Quantity()
    included = Quantity()
    overage = Quantity()
    cost = ExactAmount()


class DimensionUsageOut(StrictSchema):
    """Usage of one meter with one value of a dimension; null for calls without the property."""

    meter = fields.String()
    dimension = fields.String()
    value = fields.String(allow_none=True)
    requests = fields.Integer()
    quantity = Quantity()
    cost = ExactAmount()


class CallTotalsOut(StrictSchema):
    """Calls and their cost at list price."""

    requests = fields.Integer(attribute="totals.requests")
    success_count = fields.Integer(attribute="totals.success_count")
    error_count = fields.Integer(attribute="totals.error_count")
    cost = ExactAmount(attribute="totals.cost")


class EndpointUsageOut(CallTotalsOut):
    """Calls of one endpoint."""

    method = fields.String()
    endpoint = fields.String()


class KeyUsageOut(CallTotalsOut):
    """Calls under one API key."""

    api_key_id = PrefixedId("key", allow_none=True)
    name = fields.String(allow_none=True)


class DayUsageOut(CallTotalsOut):
    """Calls of one local day."""

    date = fields.Date()


_ARCHIVED_BEFORE = {
    "description": "Quantities and charges of meters that count the highest, the latest or different values leave out"
    " usage before this time, because its events are archived; invoices have them. Null when nothing is left out."
}


class UsageOut(StrictSchema):
    """GET /usage."""

    mode = fields.String()
    summary = Embedded(UsageSummaryOut())
    by_meter = fields.List(NestedAmounts(MeterUsageOut()))
    by_dimension = fields.List(NestedAmounts(DimensionUsageOut()))
    by_endpoint = fields.List(NestedAmounts(EndpointUsageOut()), attribute="endpoints")
    by_api_key = fields.List(NestedAmounts(KeyUsageOut()), attribute="keys")
    daily_breakdown = fields.List(NestedAmounts(DayUsageOut()), attribute="days_used")
    archived_before = Timestamp(allow_none=True, metadata=_ARCHIVED_BEFORE)


class UsagePointOut(StrictSchema):
    """Accepted calls from `at` to the next point; `date` is the local day."""

    at = Timestamp()
    date = fields.Date()
    requests = fields.Integer()
    quantity = Quantity(allow_none=True, metadata={"description": "null when several meters are added up"})
    cost = ExactAmount(metadata={"description": "at list price"})


class UsageSeriesOut(StrictSchema):
    """Points of one meter, key, source or value of a dimension; null groups the calls without it."""

    group = fields.String(allow_none=True)
    name = fields.String(allow_none=True)
    points = fields.List(NestedAmounts(UsagePointOut()))


class TimeseriesOut(StrictSchema):
    """GET /usage/timeseries: `points` are the totals, `series` the groups of `group_by`."""

    interval = fields.String()
    meter = fields.String(allow_none=True)
    group_by = fields.String(allow_none=True)
    mode = fields.String()
    currency = fields.String()
    period = fields.Nested(DateRangeOut(), attribute="days")
    points = fields.List(NestedAmounts(UsagePointOut()))
    series = fields.List(NestedAmounts(UsageSeriesOut()))
    archived_before = Timestamp(allow_none=True, metadata=_ARCHIVED_BEFORE)
