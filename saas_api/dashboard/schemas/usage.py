"""Filters of the usage page."""

from marshmallow import fields, validate

from saas_api.core.http import Day, Schema

RANGES = ("24h", "7d", "30d", "period", "last_period", "custom")
TABS = ("endpoint", "key", "day", "period")


class UsageFilters(Schema):
    """Which days, of which mode, and told apart by what."""

    range = fields.String(load_default=None, validate=validate.OneOf(RANGES))
    start_date = Day(load_default=None)
    end_date = Day(load_default=None)
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    tab = fields.String(load_default="endpoint", validate=validate.OneOf(TABS))
    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))
