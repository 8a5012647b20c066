"""Schemas of holds."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.fields import PrefixedId, Quantity, StrictInteger, StrictSchema, Text, Timestamp
from saas_api.metering.models import HoldStatus

MIN_HOLD_SECONDS, MAX_HOLD_SECONDS, DEFAULT_HOLD_SECONDS = 10, 86_400, 900
MAX_PROPERTIES, MAX_PROPERTY_LENGTH = 20, 255
_EVENT_ID = r"[\x20-\x7e]{1,255}\Z"


class MeteredQuantity(Quantity):
    """A quantity of a meter: a whole number or a decimal string with at most six decimals."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Decimal:
        quantity = super()._deserialize(str(value) if type(value) is int else value, attr, data, **options)
        if quantity.as_tuple().exponent < -6:  # type: ignore[operator]  # it is finite
            raise ma.ValidationError("At most 6 decimals.")
        return quantity


def _dimensions(**options: Any) -> fields.Dict:
    return fields.Dict(
        keys=Text(maximum=63),
        values=Text(maximum=MAX_PROPERTY_LENGTH),
        validate=validate.Length(max=MAX_PROPERTIES),
        **options,
    )


class PropertyValue(fields.Field[Any]):
    """The value of a property of usage: a text, a number, true or false."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        if isinstance(value, str):
            return Text(minimum=0, maximum=MAX_PROPERTY_LENGTH).deserialize(value)
        if not isinstance(value, int | float):
            raise ma.ValidationError("Not a text, a number, true or false.")
        return super()._deserialize(value, attr, data, **options)


class HoldIn(StrictSchema):
    """A hold for an API key or, without one, for an organization. `quantity` is the most that the call may come to."""

    key = Text(maximum=255, load_default=None, metadata={"description": "API key of the customer"})
    organization_id = PrefixedId("org", load_default=None)
    permission = Text(maximum=100, load_default=None, metadata={"description": "scope that the key needs"})
    ip = fields.IP(load_default=None, metadata={"description": "the customer's address, for the key's networks"})
    meter = Text(maximum=63, required=True)
    quantity = MeteredQuantity(required=True)
    dimensions = _dimensions(load_default=dict)
    seconds = StrictInteger(minimum=MIN_HOLD_SECONDS, maximum=MAX_HOLD_SECONDS, load_default=DEFAULT_HOLD_SECONDS)
    event_id = fields.String(
        load_default=None,
        validate=validate.Regexp(_EVENT_ID, error="Must be 1 to 255 printable ASCII characters."),
        metadata={"description": "idempotency key: the same id is the same hold, and the same usage"},
    )
    endpoint = Text(maximum=255, load_default=None, metadata={"description": "shown in usage by endpoint"})

    @ma.validates_schema
    def _require_one_caller(self, data: Mapping[str, Any], **_: Any) -> None:
        if (data["key"] is None) == (data["organization_id"] is None):
            raise ma.ValidationError("Give a key or an organization_id.", "key")


class SettleIn(StrictSchema):
    """What was really used; 0 releases the hold."""

    quantity = MeteredQuantity(required=True)
    dimensions = _dimensions(load_default=dict)
    properties = fields.Dict(
        keys=Text(maximum=63), values=PropertyValue(), load_default=dict, validate=validate.Length(max=MAX_PROPERTIES)
    )


class HoldOut(StrictSchema):
    """A hold; `settled_quantity` and `usage_event_id` are of the usage that its settlement recorded."""

    hold_id = PrefixedId("hld", attribute="id")
    status = fields.String(attribute="current_status", validate=validate.OneOf(tuple(HoldStatus)))
    mode = fields.String()
    organization_id = PrefixedId("org")
    key_id = PrefixedId("key", attribute="api_key_id", allow_none=True)
    service = fields.String(attribute="source")
    event_id = fields.String(attribute="idempotency_key")
    meter = fields.String(attribute="meter_code")
    quantity = Quantity()
    dimensions = fields.Dict(keys=fields.String(), values=fields.String(), attribute="properties")
    endpoint = fields.String(allow_none=True)
    created_at = Timestamp()
    expires_at = Timestamp()
    ended_at = Timestamp(allow_none=True)
    settled_quantity = Quantity(allow_none=True)
    usage_event_id = PrefixedId("uev", allow_none=True)
