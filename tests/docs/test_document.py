"""The OpenAPI document as generators of clients read it: names, examples, headers and what may be null."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask

from saas_api.billing import usage_csv
from saas_api.billing.invoices import LINE_EVENT_COLUMNS
from saas_api.docs import blueprint, components, examples
from saas_api.metering import refusals
from tests.support import contract


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    served: dict[str, Any] = app.test_client().get("/api/v1/openapi.json").json
    return served


def operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def shapes(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object below a value, with its path; examples are no part of it."""
    if isinstance(value, dict):
        yield path, value
        for name, item in value.items():
            if name not in ("example", "examples") or path.endswith("/properties"):
                yield from shapes(item, f"{path}/{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from shapes(item, f"{path}/{index}")


def contents(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Operation, media type and content of each body and each successful answer."""
    for operation in operations(document):
        answers = [response["content"] for status, response in operation["responses"].items() if status < "400"]
        for content in [*answers, operation.get("requestBody", {"content": {}})["content"]]:
            for media_type, item in content.items():
                yield operation["operationId"], media_type, item


def test_every_body_and_answer_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    shared = {"components": contract.json_schema(document["components"])}
    for name, media_type, item in contents(document):
        if media_type != "application/pdf":
            schema = {**shared, **contract.json_schema(item["schema"])}
            problems = jsonschema_rs.validator_for(schema, validate_formats=True).iter_errors(item["example"])
            assert [str(problem) for problem in problems] == [], name


def test_no_example_is_a_text_without_a_meaning(document: dict[str, Any]) -> None:
    for name, _, item in contents(document):
        values = [value for _, shape in shapes(item.get("example")) for value in shape.values()]
        assert examples.ANY_TEXT not in [value for value in values if isinstance(value, str)], name


def test_the_api_takes_the_example_of_every_body(app: Flask, document: dict[str, Any]) -> None:
    checked = 0
    with app.test_request_context():
        for route in blueprint.list_api_routes(app):
            if route.operation.body:
                body = document["paths"][route.path][route.method.lower()]["requestBody"]
                route.operation.body.load(body["content"]["application/json"]["example"])
                checked += 1
    assert checked > 30


def test_files_have_an_example_with_their_columns(document: dict[str, Any]) -> None:
    files = {name: item["example"] for name, media_type, item in contents(document) if media_type == "text/csv"}
    heads = {name: tuple(text.partition("\r\n")[0].split(",")) for name, text in files.items()}
    usage = dict.fromkeys(("get_usage", "get_billing_usage"), usage_csv.COLUMNS)
    assert heads == {**usage, "download_invoice_line_events": LINE_EVENT_COLUMNS}


def test_every_object_is_a_named_component(document: dict[str, Any]) -> None:
    """Generators make a type of each; one without a name gets the name of its place."""
    for path, shape in shapes({**document, "components": {"schemas": document["components"]["schemas"]}}):
        if isinstance(shape.get("properties"), dict) and shape.get("type") == "object":
            assert path.startswith("/components/schemas/"), path
            assert path.count("/") == 3, path


def test_every_shared_set_of_values_is_a_named_component(document: dict[str, Any]) -> None:
    sets = Counter(tuple(shape["enum"]) for _, shape in shapes(document) if isinstance(shape.get("enum"), list))
    repeated = {values for values, count in sets.items() if count > 1}
    assert repeated <= {(True,), ("json", "csv"), ("1.0",)}


def test_null_is_never_one_of_the_values_and_never_in_a_query(document: dict[str, Any]) -> None:
    for path, shape in shapes(document):
        assert None not in (shape.get("enum") or ()), path
        if shape.get("in") == "query":
            assert "nullable" not in shape["schema"], path


def test_answers_may_grow_and_have_all_their_properties_while_bodies_are_closed(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert [name for name in closed if name.endswith(("Out", "Response", "Envelope"))] == []
    assert set(schemas["MessageOut"]["required"]) == set(schemas["MessageOut"]["properties"])
    assert schemas["VerificationOut"]["required"] == ["code", "valid"]
    assert schemas["MessageIn"]["additionalProperties"] is False
    assert set(schemas["MessageIn"]["required"]) == {"to", "message", "type"}


def test_answers_document_their_headers(document: dict[str, Any]) -> None:
    for operation in operations(document):
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in response["headers"]
            assert ("Retry-After" in response["headers"]) >= (status in ("429", "503"))
            assert ("WWW-Authenticate" in response["headers"]) == (status == "401")
    sent = next(item for item in operations(document) if item["operationId"] == "send_message")["responses"]["202"]
    assert {"RateLimit", "RateLimit-Policy", "X-RateLimit-Remaining", "Idempotency-Replayed"} <= sent["headers"].keys()


def test_metered_call_lists_all_its_refusals(document: dict[str, Any]) -> None:
    sent = next(item for item in operations(document) if item["operationId"] == "send_message")["responses"]
    codes = {
        code
        for status, response in sent.items()
        if status >= "400"
        for code in response["content"]["application/json"]["examples"]
    }
    listed = {error.code for error in refusals.ALL} | {"MISSING_API_KEY", "RATE_LIMIT_EXCEEDED", "METER_UNAVAILABLE"}
    assert listed <= codes
    assert "FRESH_TOKEN_REQUIRED" not in codes


def test_server_is_the_address_of_the_platform(app: Flask, document: dict[str, Any]) -> None:
    assert document["servers"] == [{"url": app.config["APP_URL"]}]


def test_every_tag_is_described_and_used(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert described == {tag for operation in operations(document) for tag in operation["tags"]}


def test_two_sets_of_values_cannot_have_one_name() -> None:
    fields = {
        "kind": {"type": "string", "enum": ["a"], "x-enum": "Kind"},
        "other": {"type": "string", "enum": ["b"], "x-enum": "Kind"},
    }
    document = {"paths": {}, "components": {"schemas": {"Thing": {"type": "object", "properties": fields}}}}
    with pytest.raises(ValueError, match="two sets of values are named Kind"):
        components.refine(document)


def test_object_that_may_be_null_is_a_reference_that_may_be_null() -> None:
    owner = {"anyOf": [{"type": "object", "nullable": True}, {"$ref": "#/components/schemas/Owner"}]}
    schemas = {
        "Owner": {"type": "object", "properties": {"name": {"type": "string"}}},
        "Thing": {"type": "object", "properties": {"owner": owner}},
    }
    document = {"paths": {}, "components": {"schemas": schemas}}
    components.refine(document)
    expected = {"allOf": [{"$ref": "#/components/schemas/Owner"}], "nullable": True}
    assert document["components"]["schemas"]["Thing"]["properties"]["owner"] == expected
