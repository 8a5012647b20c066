"""Shapes of verification in requests and responses."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.fields import PrefixedId, StrictInteger, StrictSchema, Timestamp
from saas_api.metering import verification
from saas_api.metering.usage_fields import Dimensions, EndpointName, EventId, ScopeName, UnitCount


class VerificationIn(StrictSchema):
    """What a service asks about a key, with the usage of the call."""

    key = fields.String(required=True, validate=validate.Length(min=1, max=255))
    permission = ScopeName(load_default=None)
    meter = fields.String(load_default=None, validate=validate.Length(min=1, max=63))
    quantity = UnitCount(load_default=None)
    dimensions = Dimensions(load_default=dict)
    ip = fields.IP(load_default=None, metadata={"description": "the customer's address, for the networks of the key"})
    event_id = EventId(load_default=None, metadata={"description": "counts the usage once, for ever"})
    hold_seconds = StrictInteger(load_default=None, minimum=10, maximum=86_400, allow_none=True)
    endpoint = EndpointName(load_default=None)

    @ma.validates_schema
    def _has_a_meter(self, data: Mapping[str, Any], **_options: Any) -> None:
        if data["meter"] is None:
            named = [name for name in ("quantity", "event_id", "hold_seconds") if data[name] is not None]
            if named or data["dimensions"]:
                raise ma.ValidationError("Needs a meter.", named[0] if named else "dimensions")


class LimitOut(ma.Schema):
    """A rate limit after the call."""

    name = fields.String(metadata={"enum": ["plan", "key"]})
    limit = fields.Integer()
    remaining = fields.Integer()
    reset_at = Timestamp()


class SpendOut(ma.Schema):
    """Charges of the running period, and the cap that blocks calls."""

    used = fields.String(metadata={"format": "decimal"})
    cap = fields.String(allow_none=True, metadata={"format": "decimal"})
    currency = fields.String()


class VerificationOut(ma.Schema):
    """The answer: a code, the customer if the key was found, and what was recorded or held."""

    valid = fields.Boolean(attribute="is_valid", required=True)
    code = fields.String(required=True, metadata={"enum": list(verification.CODES)})
    key_id = PrefixedId("key", attribute="principal.id")
    key_name = fields.String(attribute="principal.name")
    organization_id = PrefixedId("org", attribute="principal.organization_id")
    external_id = fields.String(attribute="principal.terms.external_id", allow_none=True)
    mode = fields.String(attribute="principal.mode")
    scopes = fields.List(fields.String())
    plan = fields.String(attribute="principal.terms.plan_code")
    entitlements = fields.Dict(attribute="principal.terms.entitlements")
    limits = fields.List(fields.Nested(LimitOut))
    spend = fields.Nested(SpendOut, allow_none=True)
    usage_event_id = PrefixedId("uev", attribute="recorded.usage_event_id")
    hold_id = PrefixedId("hld", attribute="recorded.hold.id")
    units = UnitCount(attribute="recorded.units")
    retry_after_seconds = fields.Integer()
    details = fields.Dict()

    @ma.post_dump
    def _without_absent(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        """Leave out what does not apply to the answer."""
        optional = ("usage_event_id", "hold_id", "units", "retry_after_seconds", "details")
        if data.get("key_id") is None:
            return {name: data[name] for name in ("valid", "code")}
        return {name: value for name, value in data.items() if name not in optional or value not in (None, {})}
