"""Components of the OpenAPI document, in the form that generators of clients turn into few and plain types. Pure.

OpenAPI 3.0 says that a reference may be null by `allOf` and `nullable`, as every generator reads it.
"""

import uuid
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import marshmallow as ma

from saas_api.core import ids
from saas_api.core.fields import PrefixedId

EXAMPLE_UUID = uuid.UUID("019306e2-f1c4-7bb1-a7e5-c0d2f4a6b8c9")
REFERENCE = "#/components/schemas/"
_NAMED_VALUES = "x-enum"
"""Name of a set of values; stands in `metadata` of fields whose values are not those of an enum."""
_END = r"\Z"
"""End of a text in Python's patterns, which match from the start; those of JavaScript say both as `^` and `$`."""


def describe_values(_converter: Any, field: ma.fields.Field[Any], *, ret: dict[str, Any]) -> dict[str, str]:
    """Name the values of a field after their enum, and give an example of an id.

    An attribute function of apispec's converter.
    """
    if isinstance(field, PrefixedId):
        return {"example": ids.format_id(field.prefix, EXAMPLE_UUID)}
    enums = {type(value) for value in ret.get("enum", ()) if isinstance(value, StrEnum)}
    return {_NAMED_VALUES: enums.pop().__name__} if len(enums) == 1 and _NAMED_VALUES not in ret else {}


def refine(document: dict[str, Any]) -> None:
    """Name each set of values, close requests, open answers, and write what may be null in one way.

    raises: ValueError when a name stands for two sets of values, or for values and an object
    """
    schemas: dict[str, Any] = document["components"]["schemas"]
    named: dict[str, Any] = {}
    for name in list(schemas):
        schemas[name] = _refine(schemas[name], named)
    document["paths"] = _refine(document["paths"], named)
    if both := named.keys() & schemas.keys():
        raise ValueError(f"values and objects have one name: {', '.join(sorted(both))}")
    schemas.update(sorted(named.items()))
    _open_answers(document)


def resolve(document: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The name of the component that a schema refers to and the component; "" and the schema if it is none."""
    target = schema
    if len(schema.get("allOf", ())) == 1:
        target = schema["allOf"][0]
    if "$ref" not in target:
        return "", schema
    name = target["$ref"].removeprefix(REFERENCE)
    return name, document["components"]["schemas"][name]


def list_operations(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operations of a document."""
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def _refine(value: Any, named: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_refine(item, named) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("in") == "query":
        value = {**value, "schema": _without_null(value["schema"])}
    refined = {name: _refine(item, named) for name, item in value.items()}
    if "type" in refined and refined.get("default", "") is None:
        del refined["default"]
    if isinstance(refined.get("pattern"), str):
        refined["pattern"] = f"^(?:{refined['pattern'].removesuffix(_END)})$"
    if _NAMED_VALUES in refined:
        return _name_values(refined, named)
    if isinstance(refined.get("anyOf"), list):
        return _nullable_reference(refined)
    if refined.get("type") == "object" and "maxLength" in refined:  # the converter takes objects for texts
        refined["maxProperties"] = refined.pop("maxLength")
    return refined


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter of a query string, which has no null."""
    plain = {name: value for name, value in schema.items() if name != "nullable"}
    return {**plain, "enum": _without_none(plain["enum"])} if "enum" in plain else plain


def _without_none(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _name_values(schema: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    name = schema.pop(_NAMED_VALUES)
    values = {"type": "string", "enum": [str(value) for value in _without_none(schema.pop("enum"))]}
    if named.setdefault(name, values) != values:
        raise ValueError(f"two sets of values are named {name}: {named[name]['enum']} and {values['enum']}")
    schema.pop("type", None)
    return _reference(name, {key: str(value) if key == "default" else value for key, value in schema.items()})


def _nullable_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """The converter's `anyOf` of an object that may be null, which would allow every object."""
    references = [item for item in schema["anyOf"] if "$ref" in item]
    if len(references) != 1 or len(schema["anyOf"]) != 2:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**rest, "allOf": references, "nullable": True}


def _reference(name: str, rest: Mapping[str, Any]) -> dict[str, Any]:
    reference = {"$ref": f"{REFERENCE}{name}"}
    return {**rest, "allOf": [reference]} if rest else reference  # OpenAPI 3.0 ignores what stands beside a reference


def _open_answers(document: Mapping[str, Any]) -> None:
    """Let answers have more properties some day, and require those that they have.

    A schema that requires some of its fields itself has the others only sometimes; one that is in bodies too stays.
    """
    operations = list_operations(document)
    answers = _reachable(document, [operation["responses"] for operation in operations])
    requests = _reachable(document, [operation.get("requestBody") for operation in operations])
    for name in answers - requests:
        schema = document["components"]["schemas"][name]
        if schema.get("properties"):
            schema.pop("additionalProperties", None)
            schema.setdefault("required", list(schema["properties"]))


def _reachable(document: Mapping[str, Any], roots: list[Any]) -> set[str]:
    found: set[str] = set()
    pending = list(roots)
    while pending:
        for name in _references(pending.pop()):
            if name not in found:
                found.add(name)
                pending.append(document["components"]["schemas"][name])
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(target := value.get("$ref"), str) and target.startswith(REFERENCE):
            yield target.removeprefix(REFERENCE)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
