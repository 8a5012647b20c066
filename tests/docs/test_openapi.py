"""The OpenAPI document of one route."""

from typing import Any

import pytest
from marshmallow import fields
from openapi_spec_validator import validate

from saas_api.core.access import Access
from saas_api.core.errors import Conflict, Gone
from saas_api.core.fields import Email, MoneyAmount, PrefixedId, QueryInteger, StrictSchema, Timestamp
from saas_api.core.web.endpoint import Operation
from saas_api.docs import examples, openapi
from saas_api.docs.openapi import ApiRoute


class ThingQuery(StrictSchema):
    limit = QueryInteger(minimum=1, maximum=100, load_default=20)
    since = fields.Date(load_default=None)


class ThingOut(StrictSchema):
    id = PrefixedId("key")
    to = Email()
    at = Timestamp()
    amount = MoneyAmount()
    shade = fields.String()


def document_of(access: Access) -> dict[str, Any]:
    route = ApiRoute(
        path="/api/v1/things/{thing_id}",
        method="POST",
        summary="Make a thing.\n\nMore about it.",
        parameters=[("thing_id", "key")],
        access=access,
        operation=Operation(
            "make_thing", "things", query=ThingQuery(), returns=ThingOut(), status=201, errors=(Conflict, Gone)
        ),
    )
    document = openapi.build_openapi([route], "https://api.example", "Acme")
    validate(document)
    return document


def operation(access: Access) -> dict[str, Any]:
    operation_object: dict[str, Any] = document_of(access)["paths"]["/api/v1/things/{thing_id}"]["post"]
    return operation_object


def test_docstring_becomes_summary_and_description() -> None:
    operation_object = operation(Access(is_public=True))
    assert (operation_object["summary"], operation_object["description"]) == ("Make a thing", "More about it.")


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (Access(is_public=True), []),
        (Access(), [{"accessToken": []}]),
        (Access(permission="keys:create"), [{"accessToken": []}]),
        (Access(permission="usage:read"), [{"accessToken": []}, {"apiKey": []}]),
        (Access(permission="messages:write"), [{"apiKey": []}]),
    ],
)
def test_access_becomes_security(access: Access, expected: list[Any]) -> None:
    assert operation(access)["security"] == expected


def test_query_schema_becomes_parameters_without_empty_defaults() -> None:
    limit, since = operation(Access(is_public=True))["parameters"][1:]
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert "default" not in since["schema"]


def test_errors_are_listed_by_status_with_examples() -> None:
    document = document_of(Access(permission="keys:create"))
    responses = document["paths"]["/api/v1/things/{thing_id}"]["post"]["responses"]
    assert set(responses) == {"201", "400", "401", "403", "404", "409", "410", "422", "429", "503"}
    reference = responses["409"]["content"]["application/json"]["examples"]["CONFLICT"]["$ref"]
    example = document["components"]["examples"][reference.rpartition("/")[2]]["value"]
    assert example["error"]["code"] == "CONFLICT"


def test_custom_fields_are_strings_with_their_format() -> None:
    shape = next(
        schema for name, schema in document_of(Access())["components"]["schemas"].items() if name.endswith("ThingOut")
    )
    formats = {name: (item["type"], item.get("format")) for name, item in shape["properties"].items()}
    assert formats == {
        "id": ("string", None),
        "to": ("string", "email"),
        "at": ("string", "date-time"),
        "amount": ("string", "decimal"),
        "shade": ("string", None),
    }


def test_shape_of_a_new_service_has_an_example() -> None:
    """`flask services new` writes shapes of which examples.json knows nothing."""
    answer = operation(Access())["responses"]["201"]["content"]["application/json"]["example"]
    assert answer["data"]["to"] == "+2348012345678"
    assert answer["data"]["id"].startswith("key_")
    assert answer["data"]["shade"] == examples.ANY_TEXT
