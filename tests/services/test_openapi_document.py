"""OpenAPI documents of services: what is refused before a customer's browser reads it."""

from typing import Any

import pytest

from saas_api.services import openapi_document

DOCUMENT: dict[str, Any] = {"openapi": "3.1.0", "info": {"title": "Lookups", "version": "1"}, "paths": {}}
OPERATION = {"responses": {"200": {"description": "ok"}}}


def nested(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    "changes",
    [
        {"openapi": "3.0.4"},
        {"info": {"title": "<script>alert(1)</script>", "version": "1", "description": "<img src=x onerror=a()>"}},
        {"components": {"schemas": {"A": {"$ref": "#/components/schemas/B"}, "url": {"properties": {"$ref": {}}}}}},
        {"servers": [{"url": "https://api.acme.example/{version}"}, {"url": "/v1"}, {"url": "{scheme}://x"}]},
        {"paths": {f"/{number}": {"get": OPERATION} for number in range(1_000)}},
    ],
)
def test_document_that_can_be_shown_has_no_problems(changes: dict[str, Any]) -> None:
    assert openapi_document.find_problems({**DOCUMENT, **changes}) == []


@pytest.mark.parametrize(
    ("document", "pointer", "reason"),
    [
        ([], "/openapi", "not OpenAPI 3.0 or 3.1"),
        ({**DOCUMENT, "openapi": "2.0"}, "/openapi", "not OpenAPI 3.0 or 3.1"),
        ({**DOCUMENT, "openapi": "3.9.0"}, "/openapi", "not OpenAPI 3.0 or 3.1"),
        ({**DOCUMENT, "info": "Lookups"}, "/info", "must be an object"),
        ({**DOCUMENT, "paths": []}, "/paths", "must be an object"),
        ({**DOCUMENT, "x": "\0"}, "", "NUL"),
        ({**DOCUMENT, "x": "\ud800"}, "", "not JSON"),
        ({**DOCUMENT, "x": float("nan")}, "", "not JSON"),
        ({**DOCUMENT, "x": "a" * 1_000_000}, "", "more than 1,000,000 bytes"),
        ({**DOCUMENT, "x": nested(80)}, "/x" + "/properties" * 63, "64 levels"),
        ({**DOCUMENT, "x": nested(5_000)}, "", "not JSON"),
        ({**DOCUMENT, "paths": {str(n): {"get": OPERATION} for n in range(1_001)}}, "/paths", "1,000 operations"),
        ({**DOCUMENT, "paths": {"/a": {"$ref": "https://evil.example/a.json"}}}, "/paths/~1a/$ref", "reference"),
        ({**DOCUMENT, "components": {"schemas": {"A": {"$ref": "b.json#/B"}}}}, "/components/schemas/A/$ref", "#"),
        ({**DOCUMENT, "externalDocs": {"url": " JavaScript:alert(1)"}}, "/externalDocs/url", "https:"),
        ({**DOCUMENT, "servers": [{"url": "data:text/html,x"}]}, "/servers/0/url", "https:"),
    ],
)
def test_document_is_refused_with_the_place_and_the_reason(document: Any, pointer: str, reason: str) -> None:
    [(found, text)] = openapi_document.find_problems(document)
    assert (found, reason in text) == (pointer, True), text


def test_at_most_ten_problems_are_listed() -> None:
    paths = {f"/{number}": {"$ref": "other.json"} for number in range(100)}
    assert len(openapi_document.find_problems({**DOCUMENT, "paths": paths})) == 10
