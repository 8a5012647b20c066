"""Wire shapes of usage."""

from marshmallow import fields, validate

from saas_api.core.http import Day, Id, Schema, Timestamp


class UsageQuery(Schema):
    """A range of local days, both inclusive, and the mode of the keys."""

    start_date = Day(load_default=None)
    end_date = Day(load_default=None)
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    format = fields.String(load_default="json", validate=validate.OneOf(("json", "csv")))


class TimeseriesQuery(Schema):
    """A range of local days, both inclusive, in points of an hour or a day, at most 744 of them."""

    start_date = Day(load_default=None)
    end_date = Day(load_default=None)
    interval = fields.String(load_default="day", validate=validate.OneOf(("hour", "day")))
    meter = fields.String(load_default=None, validate=validate.Length(min=1, max=100))
    group_by = fields.String(load_default=None, validate=validate.OneOf(("meter", "key", "source")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))


class UsagePeriodOut(Schema):
    """Local days, both inclusive."""

    start_date = fields.Date()
    end_date = fields.Date()
    timezone = fields.String()


class UsageSummaryOut(Schema):
    """Totals of a range."""

    total_requests = fields.Integer()
    successful_requests = fields.Integer()
    failed_requests = fields.Integer()
    rate_limited_requests = fields.Integer()
    success_rate = fields.Float()
    total_cost = fields.String(metadata={"description": "what the bill will say, after included quantities"})
    list_cost = fields.String(metadata={"description": "units times list price"})
    currency = fields.String()
    period = fields.Nested(UsagePeriodOut())


class MeterUseOut(Schema):
    """What one meter counted."""

    meter = fields.String()
    unit = fields.String()
    quantity = fields.String()
    included = fields.String()
    overage = fields.String()
    cost = fields.String()


class TallyOut(Schema):
    """Calls and their cost at list price."""

    requests = fields.Integer()
    success_count = fields.Integer()
    error_count = fields.Integer()
    cost = fields.String()


class EndpointUseOut(TallyOut):
    """Calls of one endpoint."""

    method = fields.String()
    endpoint = fields.String()


class KeyUseOut(TallyOut):
    """Calls under one API key."""

    api_key_id = Id("key", allow_none=True)
    name = fields.String(allow_none=True)


class DayUseOut(TallyOut):
    """Calls of one local day."""

    date = fields.Date()


class UsageOut(Schema):
    """GET /usage."""

    mode = fields.String()
    summary = fields.Nested(UsageSummaryOut())
    by_meter = fields.List(fields.Nested(MeterUseOut()))
    by_endpoint = fields.List(fields.Nested(EndpointUseOut()))
    by_api_key = fields.List(fields.Nested(KeyUseOut()))
    daily_breakdown = fields.List(fields.Nested(DayUseOut()))


class UsagePointOut(Schema):
    """What was accepted from `at` to the next point; `date` is the local day."""

    at = Timestamp()
    date = fields.Date()
    requests = fields.Integer()
    quantity = fields.String(allow_none=True, metadata={"description": "null when several meters are added up"})
    cost = fields.String(metadata={"description": "at list price"})


class SeriesOut(Schema):
    """The points of one meter, key or source; of the keys, null is what came without one."""

    group = fields.String(allow_none=True)
    name = fields.String(allow_none=True)
    points = fields.List(fields.Nested(UsagePointOut()))


class TimeseriesOut(Schema):
    """GET /usage/timeseries: `points` is everything together, `series` the parts that were asked to be told apart."""

    interval = fields.String()
    meter = fields.String(allow_none=True)
    group_by = fields.String(allow_none=True)
    mode = fields.String()
    currency = fields.String()
    period = fields.Nested(UsagePeriodOut())
    points = fields.List(fields.Nested(UsagePointOut()))
    series = fields.List(fields.Nested(SeriesOut()))
