"""Wire shapes of the spend cap and of alerts."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.billing.rules.thresholds import OF_METERS, SUBJECTS
from saas_api.core.fields import Amount
from saas_api.core.http import Id, Schema, Text, Timestamp

MOST_ALERTS = 50
_POSITIVE = validate.Range(min=0, min_inclusive=False)


class SpendCapIn(Schema):
    """A cap on what a period may cost, base included; null removes it."""

    amount = Amount(required=True, allow_none=True)
    action = fields.String(load_default="block", validate=validate.OneOf(("alert", "block")))


class SpendCapOut(Schema):
    """The cap, and what counts against it in the running period; unrounded."""

    amount = fields.String(allow_none=True)
    action = fields.String()
    is_default = fields.Boolean(metadata={"description": "nobody in the organization has set it"})
    base = fields.String()
    used = fields.String(metadata={"description": "base and usage"})
    currency = fields.String()


class AlertIn(Schema):
    """One alert: `threshold` is an amount, a percentage, or a quantity of the meter."""

    subject = fields.String(required=True, validate=validate.OneOf(SUBJECTS))
    meter = Text(maximum=60, load_default=None, allow_none=True)
    threshold = Amount(required=True, validate=_POSITIVE)
    enabled = fields.Boolean(load_default=True, truthy={True}, falsy={False})

    @ma.validates_schema
    def _has_its_meter(self, data: Mapping[str, Any], **_: Any) -> None:
        if (data["subject"] in OF_METERS) != (data["meter"] is not None):
            raise ma.ValidationError("Quantities have a meter, spend has none.", "meter")
        if data["threshold"].as_tuple().exponent < -6:
            raise ma.ValidationError("At most 6 decimals.", "threshold")


class AlertsIn(Schema):
    """All alerts there shall be; what is left out is removed."""

    alerts = fields.List(fields.Nested(AlertIn()), required=True, validate=validate.Length(max=MOST_ALERTS))


class AlertOut(Schema):
    """An alert; `fired_at` is when it was raised in the running period."""

    id = Id("alr")
    subject = fields.String()
    meter = fields.String(allow_none=True)
    threshold = fields.String()
    enabled = fields.Boolean()
    fired_at = Timestamp(allow_none=True)


class AlertsOut(Schema):
    """GET and PUT /billing/alerts."""

    alerts = fields.List(fields.Nested(AlertOut()))
    spend_cap = fields.Nested(SpendCapOut())
