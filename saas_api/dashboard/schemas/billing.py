"""Forms and filters of the billing pages."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.billing.rules.thresholds import OF_METERS
from saas_api.core.fields import Amount
from saas_api.core.http import QueryInt, Schema, Text

STATES = ("open", "paid", "void", "uncollectible")
PROVIDERS = ("stripe", "paystack", "mock")
_WHEN = validate.OneOf(("now", "period_end"))
_FINEST = -6


class InvoiceFilters(Schema):
    """Which invoices; the year is that of issue, in UTC."""

    status = fields.String(load_default=None, validate=validate.OneOf(STATES))
    year = QueryInt(minimum=2000, maximum=9998, load_default=None)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))
    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))


class ListFilters(Schema):
    """Where a list without filters goes on."""

    cursor = fields.String(load_default=None, validate=validate.Length(max=500))


class ChangeFilters(Schema):
    """When a change of plan is to take effect."""

    when = fields.String(load_default=None, validate=_WHEN)


class ChangeForm(Schema):
    """A change of plan as it was looked at."""

    when = fields.String(load_default=None, validate=_WHEN)
    version = Text(maximum=60, required=True)


class PayForm(Schema):
    """Through whom an invoice is paid."""

    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


class CapForm(Schema):
    """A cap, or none."""

    limit = fields.String(required=True, validate=validate.OneOf(("amount", "none")))
    amount = Amount(load_default=None)
    action = fields.String(load_default="block", validate=validate.OneOf(("block", "alert")))

    @ma.validates_schema
    def _names_an_amount(self, data: Mapping[str, Any], **_: Any) -> None:
        if data["limit"] == "amount" and data["amount"] is None:
            raise ma.ValidationError("Say how much a period may cost.", "amount")


class AlertForm(Schema):
    """A new alert; `subject` names the meter too, such as "quantity:sms"."""

    subject = Text(maximum=120, required=True)
    threshold = Amount(required=True, error_messages={"required": "Say at what value."})

    @ma.validates_schema
    def _is_a_threshold(self, data: Mapping[str, Any], **_: Any) -> None:
        threshold: Decimal = data["threshold"]
        if threshold <= 0:
            raise ma.ValidationError("Must be above zero.", "threshold")
        if int(threshold.as_tuple().exponent) < _FINEST:
            raise ma.ValidationError("At most 6 decimals.", "threshold")

    @ma.post_load
    def _name_the_meter(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        subject, _colon, meter = data["subject"].partition(":")
        return {**data, "subject": subject, "meter": meter if subject in OF_METERS else None}


class NoFields(Schema):
    """A form that is one button."""
