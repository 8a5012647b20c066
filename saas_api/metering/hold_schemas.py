"""Schemas of holds."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.fields import PrefixedId, StrictInteger, StrictSchema, Text, Timestamp
from saas_api.metering.models import HoldStatus
from saas_api.metering.usage_fields import Dimensions, EndpointName, EventId, ScopeName, UnitCount

MIN_HOLD_SECONDS, MAX_HOLD_SECONDS, DEFAULT_HOLD_SECONDS = 10, 86_400, 900
MAX_PROPERTIES, MAX_PROPERTY_LENGTH = 20, 255


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

    key = fields.String(load_default=None, validate=validate.Length(min=1, max=255))
    organization_id = PrefixedId("org", load_default=None)
    permission = ScopeName(load_default=None)
    ip = fields.IP(load_default=None, metadata={"description": "the customer's address, for the networks of the key"})
    meter = fields.String(required=True, validate=validate.Length(min=1, max=63))
    quantity = UnitCount(required=True)
    dimensions = Dimensions(load_default=dict)
    seconds = StrictInteger(minimum=MIN_HOLD_SECONDS, maximum=MAX_HOLD_SECONDS, load_default=DEFAULT_HOLD_SECONDS)
    event_id = EventId(
        load_default=None, metadata={"description": "the same id is the same hold, and its usage counts once, for ever"}
    )
    endpoint = EndpointName(load_default=None)

    @ma.validates_schema
    def _require_one_caller(self, data: Mapping[str, Any], **_: Any) -> None:
        if (data["key"] is None) == (data["organization_id"] is None):
            raise ma.ValidationError("Give a key or an organization_id.", "key")


class SettleIn(StrictSchema):
    """What was really used; 0 releases the hold."""

    quantity = UnitCount(required=True, is_zero_allowed=True)
    dimensions = Dimensions(load_default=dict)
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
    quantity = UnitCount()
    dimensions = fields.Dict(keys=fields.String(), values=fields.String(), attribute="properties")
    endpoint = fields.String(allow_none=True)
    created_at = Timestamp()
    expires_at = Timestamp()
    ended_at = Timestamp(allow_none=True)
    settled_quantity = UnitCount(allow_none=True)
    usage_event_id = PrefixedId("uev", allow_none=True)
