"""Examples of the OpenAPI document: bodies and answers, made from their schemas and the values in examples.json.

A test compares each with its schema, and loads those of bodies as the API does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from saas_api.core import ids
from saas_api.core.errors import ApiError, ValidationFailed
from saas_api.docs import components

ANY_TEXT = "text"
"""Of a property that has neither a value in examples.json nor an `example` in the metadata of its field."""
REQUEST_ID = "req_1f0c9b5ad1e24ab7a3c1d2e4"
_DATA = orjson.loads(Path(__file__).with_name("examples.json").read_bytes())
_GENERAL: Mapping[str, Any] = _DATA["properties"]
_SPECIFIC: Mapping[str, Mapping[str, Any]] = _DATA["components"]
"""By component and property. A property that is not required is left out unless it stands here."""


def add_examples(document: Mapping[str, Any]) -> None:
    """Add an example to each body and each successful answer of a document."""
    for operation in components.list_operations(document):
        contents = [response["content"] for status, response in operation["responses"].items() if status < "400"]
        for media_type, item in [pair for content in contents for pair in content.items()]:
            if media_type == "text/csv":
                item["example"] = _DATA["files"][operation["operationId"]]
            elif media_type == "application/json":
                item["example"] = _Composer(document).compose(item["schema"])
        for item in operation.get("requestBody", {"content": {}})["content"].values():
            item["example"] = _Composer(document).compose(item["schema"])


def error_example(error_type: type[ApiError], server_url: str) -> dict[str, Any]:
    """The body of an error as the API writes it.

    server_url: address of the platform
    """
    details = {}
    if issubclass(error_type, ValidationFailed):
        details = ValidationFailed.at_field("name", "Missing data for required field.").details
    error = {
        "code": error_type.code,
        "message": error_type.message,
        "details": details,
        "request_id": REQUEST_ID,
        "docs": f"{server_url}/docs/errors/{error_type.code}",
    }
    return {"success": False, "error": error}


def parameter_example(name: str, prefix: str | None) -> str:
    """The value of a parameter of a path.

    prefix: of an id
    """
    return ids.format_id(prefix, components.EXAMPLE_UUID) if prefix else str(_GENERAL[name])


class _Composer:
    """Makes a value of a schema."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def compose(self, schema: Mapping[str, Any], component: str = "", name: str = "") -> Any:
        """An example of a schema.

        component, name: of the property that has the schema
        """
        specific = _SPECIFIC.get(component, {})
        if name in specific:
            return specific[name]
        if name in _GENERAL and _GENERAL[name] is None and schema.get("nullable"):
            return None
        if "example" in schema and not schema.get("nullable"):
            return schema["example"]
        target_name, target = components.resolve(self._document, schema)
        kind = target.get("type")
        if kind == "array":
            return self._compose_array(schema, component, name)
        if target.get("properties"):
            return self._compose_object(target_name or component, target)
        return self._compose_value(schema, target, name)

    def _compose_array(self, schema: Mapping[str, Any], component: str, name: str) -> list[Any] | None:
        if name in _GENERAL and "$ref" not in schema["items"]:
            return list(_GENERAL[name])
        return None if schema.get("nullable") else [self.compose(schema["items"], component, f"{name}[]")]

    def _compose_object(self, component: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        shown = {*schema.get("required", ()), *_SPECIFIC.get(component, ())}
        properties = schema["properties"].items()
        return {name: self.compose(shape, component, name) for name, shape in properties if name in shown}

    def _compose_value(self, schema: Mapping[str, Any], target: Mapping[str, Any], name: str) -> Any:
        general = name.removesuffix("[]")
        if general in _GENERAL and "enum" not in target:
            value = _GENERAL[general]
            return value[0] if isinstance(value, list) else value
        if schema.get("nullable"):
            return None
        return _value_of_type(target)


def _value_of_type(schema: Mapping[str, Any]) -> Any:
    """A value of a type, format or list of values."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("format") in _DATA["formats"]:
        return _DATA["formats"][schema["format"]]
    return {"boolean": True, "integer": 1, "number": 1.0, "object": {}}.get(schema.get("type", ""), ANY_TEXT)
