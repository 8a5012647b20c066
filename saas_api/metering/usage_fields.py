"""Fields of requests and responses about usage: quantities, event ids, dimensions, scopes and endpoints."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core import money
from saas_api.usage import quantity_text

MAX_DIMENSIONS = 20
PRINTABLE_ASCII = re.compile(r"[ -~]{1,255}\Z")
SCOPE = re.compile(r"[a-z][a-z0-9_.-]{0,62}:[a-z][a-z0-9_.-]{0,62}\Z")
ENDPOINT = re.compile(r"[A-Z]{1,10} /[!-~]{0,200}\Z")


class UnitCount(fields.Field[Decimal]):
    """A quantity above 0 in a meter's unit: an integer, or a decimal string with at most six decimals.

    Dumps an integer where it is whole, else a decimal string.
    """

    def __init__(self, *, is_zero_allowed: bool = False, **options: Any) -> None:
        kinds = [{"type": "integer"}, {"type": "string", "format": "decimal"}]
        super().__init__(metadata={"oneOf": kinds, **options.pop("metadata", {})}, **options)
        self.is_zero_allowed = is_zero_allowed

    def _serialize(self, value: Decimal | None, attr: str | None, obj: Any, **options: Any) -> int | str | None:
        return None if value is None else write_units(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Decimal:
        text = str(value) if type(value) is int else value
        if not isinstance(text, str):
            text = ""
        try:
            return quantity_text.parse_quantity(text, is_zero_allowed=self.is_zero_allowed)
        except ValueError as cause:
            raise ma.ValidationError(str(cause)) from cause


def write_units(value: Decimal) -> int | str:
    """A quantity as `UnitCount` dumps it."""
    return int(value) if value == value.to_integral_value() else money.format_unit_price(value)


class EventId(fields.String):
    """The id of a usage event: 1 to 255 printable ASCII characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            validate=validate.Regexp(PRINTABLE_ASCII, error="Must be 1 to 255 printable ASCII characters."), **options
        )


class Dimensions(fields.Dict):
    """Names and values by which usage is priced and reported, as texts; numbers and booleans are read as texts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> dict[str, str]:
        return load_dimensions(super()._deserialize(value, attr, data, **options))


def load_dimensions(names: Mapping[Any, Any]) -> dict[str, str]:
    """Names and values as `Dimensions` loads them.

    raises: marshmallow's ValidationError
    """
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


class ScopeName(fields.String):
    """A scope that an API key needs, such as "lookups:write"."""

    def __init__(self, **options: Any) -> None:
        metadata = {"description": "scope that the key needs, such as lookups:write"}
        super().__init__(validate=validate.Regexp(SCOPE, error="Not a scope."), metadata=metadata, **options)


class EndpointName(fields.String):
    """An endpoint of a service's API, which reports show, such as "POST /v1/lookups"."""

    def __init__(self, **options: Any) -> None:
        super().__init__(validate=validate.Regexp(ENDPOINT, error='Not like "POST /v1/lookups".'), **options)
