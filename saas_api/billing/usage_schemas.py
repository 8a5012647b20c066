"""UsageOut, TimeseriesOut, SpendCapOut, AlertOut."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.billing.rating.thresholds import ALERT_SUBJECTS, METER_SUBJECTS
from saas_api.core.fields import DateField, MoneyAmount, PrefixedId, StrictSchema, Text, Timestamp

MAX_ALERTS = 50
_POSITIVE = validate.Range(min=0, min_inclusive=False)


class SpendCapIn(StrictSchema):
    """A cap on what a period may cost, base included; null removes it."""

    amount = MoneyAmount(required=True, allow_none=True)
    action = fields.String(load_default="block", validate=validate.OneOf(("alert", "block")))


class SpendCapOut(StrictSchema):
    """The cap, and what counts against it in the running period; unrounded."""

    amount = fields.String(allow_none=True)
    action = fields.String()
    is_default = fields.Boolean(metadata={"description": "nobody in the organization has set it"})
    base = fields.String()
    used = fields.String(metadata={"description": "base and usage"})
    currency = fields.String()


class AlertIn(StrictSchema):
    """One alert: `threshold` is an amount, a percentage, or a quantity of the meter."""

    subject = fields.String(required=True, validate=validate.OneOf(ALERT_SUBJECTS))
    meter = Text(maximum=60, load_default=None, allow_none=True)
    threshold = MoneyAmount(required=True, validate=_POSITIVE)
    enabled = fields.Boolean(load_default=True, truthy={True}, falsy={False})

    @ma.validates_schema
    def _has_its_meter(self, data: Mapping[str, Any], **_: Any) -> None:
        if (data["subject"] in METER_SUBJECTS) != (data["meter"] is not None):
            raise ma.ValidationError("Quantities have a meter, spend has none.", "meter")
        if data["threshold"].as_tuple().exponent < -6:
            raise ma.ValidationError("At most 6 decimals.", "threshold")


class AlertsIn(StrictSchema):
    """All alerts there shall be; what is left out is removed."""

    alerts = fields.List(fields.Nested(AlertIn()), required=True, validate=validate.Length(max=MAX_ALERTS))


class AlertOut(StrictSchema):
    """An alert; `fired_at` is when it was raised in the running period."""

    id = PrefixedId("alr")
    subject = fields.String()
    meter = fields.String(allow_none=True)
    threshold = fields.String()
    enabled = fields.Boolean()
    fired_at = Timestamp(allow_none=True)


class AlertsOut(StrictSchema):
    """GET and PUT /billing/alerts."""

    alerts = fields.List(fields.Nested(AlertOut()))
    spend_cap = fields.Nested(SpendCapOut())


class UsageQuery(StrictSchema):
    """A range of local days, both inclusive, and the mode of the keys."""

    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    format = fields.String(load_default="json", validate=validate.OneOf(("json", "csv")))


class TimeseriesQuery(StrictSchema):
    """A range of local days, both inclusive, in points of an hour or a day, at most 744 of them."""

    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)
    interval = fields.String(load_default="day", validate=validate.OneOf(("hour", "day")))
    meter = fields.String(load_default=None, validate=validate.Length(min=1, max=100))
    group_by = fields.String(load_default=None, validate=validate.OneOf(("meter", "key", "source")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))


class DateRangeOut(StrictSchema):
    """Local days, both inclusive."""

    start_date = fields.Date()
    end_date = fields.Date()
    timezone = fields.String()


class UsageSummaryOut(StrictSchema):
    """Totals of a range."""

    total_requests = fields.Integer()
    successful_requests = fields.Integer()
    failed_requests = fields.Integer()
    rate_limited_requests = fields.Integer()
    success_rate = fields.Float()
    total_cost = fields.String(metadata={"description": "what the bill will say, after included quantities"})
    list_cost = fields.String(metadata={"description": "units times list price"})
    currency = fields.String()
    period = fields.Nested(DateRangeOut())


class MeterUsageOut(StrictSchema):
    """What one meter counted."""

    meter = fields.String()
    unit = fields.String()
    quantity = fields.String()
    included = fields.String()
    overage = fields.String()
    cost = fields.String()


class CallTotalsOut(StrictSchema):
    """Calls and their cost at list price."""

    requests = fields.Integer()
    success_count = fields.Integer()
    error_count = fields.Integer()
    cost = fields.String()


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


class UsageOut(StrictSchema):
    """GET /usage."""

    mode = fields.String()
    summary = fields.Nested(UsageSummaryOut())
    by_meter = fields.List(fields.Nested(MeterUsageOut()))
    by_endpoint = fields.List(fields.Nested(EndpointUsageOut()))
    by_api_key = fields.List(fields.Nested(KeyUsageOut()))
    daily_breakdown = fields.List(fields.Nested(DayUsageOut()))


class UsagePointOut(StrictSchema):
    """What was accepted from `at` to the next point; `date` is the local day."""

    at = Timestamp()
    date = fields.Date()
    requests = fields.Integer()
    quantity = fields.String(allow_none=True, metadata={"description": "null when several meters are added up"})
    cost = fields.String(metadata={"description": "at list price"})


class UsageSeriesOut(StrictSchema):
    """The points of one meter, key or source; of the keys, null is what came without one."""

    group = fields.String(allow_none=True)
    name = fields.String(allow_none=True)
    points = fields.List(fields.Nested(UsagePointOut()))


class TimeseriesOut(StrictSchema):
    """GET /usage/timeseries: `points` is everything together, `series` the parts that were asked to be told apart."""

    interval = fields.String()
    meter = fields.String(allow_none=True)
    group_by = fields.String(allow_none=True)
    mode = fields.String()
    currency = fields.String()
    period = fields.Nested(DateRangeOut())
    points = fields.List(fields.Nested(UsagePointOut()))
    series = fields.List(fields.Nested(UsageSeriesOut()))
