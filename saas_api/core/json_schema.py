"""JSON Schema of marshmallow schemas, through the converter that also writes the API document."""

from typing import Any

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from saas_api.core.fields import Email, MoneyAmount, PrefixedId, Quantity, Timestamp

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FORMATS = ((Timestamp, "date-time"), (MoneyAmount, "decimal"), (PrefixedId, None))


def register_field_types(plugin: MarshmallowPlugin) -> None:
    """Teach a plugin the types and formats of the fields in `core.fields`."""
    plugin.map_to_openapi_type(Email, ma.fields.Email)  # type: ignore[no-untyped-call]  # apispec says no types here
    for field, form in _FORMATS:
        plugin.map_to_openapi_type(field, "string", form)  # type: ignore[no-untyped-call]  # apispec says no types here


def dump_schema(schema: ma.Schema) -> dict[str, Any]:
    """Return the JSON Schema of the objects that a marshmallow schema dumps.

    Every field is required, more fields are allowed, and nested schemas are written in place.
    source: OpenAPI 3.1 uses the dialect 2020-12 of JSON Schema
    """
    plugin = MarshmallowPlugin(schema_name_resolver=lambda _schema: "")
    APISpec(title="", version="", openapi_version="3.1.0", plugins=[plugin])  # it creates the plugin's converter
    register_field_types(plugin)
    converter: Any = plugin.converter
    converter.add_attribute_function(_field_pattern)
    converter.add_attribute_function(_nullable_kinds)
    dumped: dict[str, Any] = _require_properties(converter.schema2jsonschema(schema))
    return dumped


def _field_pattern(_converter: Any, field: ma.fields.Field[Any], *, ret: dict[str, Any]) -> dict[str, str]:
    if isinstance(field, PrefixedId):
        return {"pattern": f"^{field.prefix}_[0-9a-f]{{32}}$"}
    if isinstance(field, MoneyAmount):
        pattern = {"pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
        has_unit = isinstance(field, Quantity) or "description" in ret
        return pattern if has_unit else {**pattern, "description": "Major units, such as 29.00."}
    return {}


def _nullable_kinds(_converter: Any, field: ma.fields.Field[Any], *, ret: dict[str, Any]) -> dict[str, Any]:
    """The null of a field that may have one of several types; the converter adds it to a single type only."""
    return {"oneOf": [*ret["oneOf"], {"type": "null"}]} if field.allow_none and "oneOf" in ret else {}


def _require_properties(value: Any) -> Any:
    if isinstance(value, list):
        return [_require_properties(item) for item in value]
    if not isinstance(value, dict):
        return value
    shape = {name: _require_properties(item) for name, item in value.items()}
    if "object" in shape.get("type", ()) and isinstance(shape.get("properties"), dict):
        shape.pop("additionalProperties", None)
        shape["required"] = list(shape["properties"])
    return shape
