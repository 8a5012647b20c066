"""Shapes of verification in requests and responses."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core import money
from saas_api.core.fields import PrefixedId, StrictInteger, StrictSchema, Timestamp
from saas_api.metering import verification
from saas_api.metering.verification import Verification
from saas_api.usage import quantity_text

MAX_DIMENSIONS = 20
_PRINTABLE_ASCII = re.compile(r"[ -~]{1,255}\Z")


class UnitCount(fields.Field[Decimal]):
    """A quantity above 0 in a meter's unit: an integer, or a decimal string with at most six decimals.

    Dumps an integer where it is whole, else a decimal string.
    """

    def __init__(self, *, is_zero_allowed: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.is_zero_allowed = is_zero_allowed

    def _serialize(self, value: Decimal | None, attr: str | None, obj: Any, **options: Any) -> int | str | None:
        if value is None:
            return None
        return int(value) if value == value.to_integral_value() else money.format_unit_price(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Decimal:
        text = str(value) if type(value) is int else value
        try:
            return quantity_text.parse_quantity(
                text if isinstance(text, str) else "", is_zero_allowed=self.is_zero_allowed
            )
        except ValueError as cause:
            raise ma.ValidationError(str(cause)) from cause


class EventId(fields.String):
    """The id of a usage event: 1 to 255 printable ASCII characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            validate=validate.Regexp(_PRINTABLE_ASCII, error="Must be 1 to 255 printable ASCII characters."), **options
        )


class Dimensions(fields.Dict):
    """Names and values by which usage is priced and reported, as texts; numbers and booleans are read as texts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, str]:
        names = super()._deserialize(value, attr, data, **options)
        if len(names) > MAX_DIMENSIONS:
            raise ma.ValidationError(f"At most {MAX_DIMENSIONS} names.")
        return {_dimension_name(name): _dimension_value(text) for name, text in names.items()}


def _dimension_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name):
        raise ma.ValidationError("A name is a letter, and letters, digits and _ after it.")
    return name


def _dimension_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not 1 <= len(text) <= 255 or not text.isprintable():
        raise ma.ValidationError("A value is a text of 1 to 255 printable characters.")
    return text


class VerificationIn(StrictSchema):
    """What a service asks about a key, with the usage of the call."""

    key = fields.String(required=True, validate=validate.Length(min=1, max=255))
    permission = fields.String(
        load_default=None,
        validate=validate.Regexp(re.compile(r"[a-z][a-z0-9_.-]{0,62}:[a-z][a-z0-9_.-]{0,62}\Z"), error="Not a scope."),
        metadata={"description": "scope that the key needs, such as lookups:write"},
    )
    meter = fields.String(load_default=None, validate=validate.Length(min=1, max=63))
    quantity = UnitCount(load_default=None)
    dimensions = Dimensions(load_default=dict)
    ip = fields.IP(load_default=None, metadata={"description": "the customer's address, for the networks of the key"})
    event_id = EventId(load_default=None, metadata={"description": "counts the usage once, for ever"})
    hold_seconds = StrictInteger(load_default=None, minimum=10, maximum=86_400, allow_none=True)
    endpoint = fields.String(
        load_default=None,
        validate=validate.Regexp(re.compile(r"[A-Z]{1,10} /[!-~]{0,200}\Z"), error='Not like "POST /v1/lookups".'),
    )

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
    scopes = fields.Method("_scopes", metadata={"type": "array", "items": {"type": "string"}})
    plan = fields.String(attribute="principal.terms.plan_code")
    entitlements = fields.Dict(attribute="principal.terms.entitlements")
    limits = fields.List(fields.Nested(LimitOut))
    spend = fields.Nested(SpendOut, allow_none=True)
    usage_event_id = PrefixedId("uev", attribute="recorded.usage_event_id")
    hold_id = PrefixedId("hld", attribute="recorded.hold_id")
    units = UnitCount(attribute="recorded.units")
    retry_after_seconds = fields.Integer()
    details = fields.Dict()

    def _scopes(self, answer: Verification) -> list[str]:
        return sorted(answer.principal.scopes) if answer.principal else []

    @ma.post_dump
    def _without_absent(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        """Leave out what does not apply to the answer."""
        optional = ("usage_event_id", "hold_id", "units", "retry_after_seconds", "details")
        if data.get("key_id") is None:
            return {name: data[name] for name in ("valid", "code")}
        return {name: value for name, value in data.items() if name not in optional or value not in (None, {})}
