"""Compares each answer of the API during a test with the OpenAPI document: status, error code, headers and body."""

import gzip
import sys
from collections.abc import Mapping
from typing import Any

import flask
import jsonschema_rs
import orjson
from flask import Flask, Response, request

from saas_api.core.web import http

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_DECOMPRESS = {"gzip": gzip.decompress, "zstd": zstd.decompress}
FAULTS = range(500, 503)
"""Statuses that no operation promises, because they say that something is broken."""
REFERENCE = "#/components/schemas/"


class Contract:
    """The promises of a document, and where answers broke them."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._document = document
        self._schemas = {"components": json_schema(document["components"])}
        self._validators: dict[str, Any] = {}

    def take_problems(self) -> list[str]:
        """Return the problems since the last call."""
        problems, self.problems = self.problems, []
        return problems

    def check(self, app: Flask, response: Response, **_: Any) -> None:
        """Compare the response of the current request."""
        operation = self._find_operation(app)
        if operation is None or response.status_code in FAULTS:
            return
        self.problems += [
            f"{operation['operationId']} answered {response.status_code}: {problem}"
            for problem in self._find_problems(operation, response)
        ]

    def _find_operation(self, app: Flask) -> Mapping[str, Any] | None:
        """The documented operation of the current request; None for a page and a view of a test."""
        rule = request.url_rule
        operation = getattr(app.view_functions[rule.endpoint], "__operation__", None) if rule else None
        methods = self._document["paths"].get(http.openapi_path(rule.rule), {}) if rule and operation else {}
        documented: Mapping[str, Any] | None = methods.get(request.method.lower())
        is_same = operation and documented and documented["operationId"] == operation.operation_id
        return documented if is_same else None

    def _find_problems(self, operation: Mapping[str, Any], response: Response) -> list[str]:
        body = orjson.loads(_read_body(response)) if response.mimetype == "application/json" else None
        code = body["error"]["code"] if body and not body["success"] else None
        promised = operation["responses"].get(str(response.status_code))
        if promised is None:
            return [f"this status is not documented (code {code})"]
        content = promised["content"].get(response.mimetype)
        if content is None:
            return [f"{response.mimetype} is not documented"]
        problems = self._undocumented_headers(promised, response)
        if code and code not in content["examples"]:
            problems.append(f"the code {code} is not documented")
        if body is not None:
            problems += [str(error) for error in self._validator(content["schema"]["$ref"]).iter_errors(body)]
        return problems

    def _undocumented_headers(self, promised: Mapping[str, Any], response: Response) -> list[str]:
        documented = self._document["components"]["headers"].keys() - promised["headers"].keys()
        missing = [] if "X-Request-Id" in response.headers else ["X-Request-Id is missing"]
        return missing + [f"the header {name} is not documented" for name in documented if name in response.headers]

    def _validator(self, reference: str) -> Any:
        if reference not in self._validators:
            schema = {**self._schemas, "$ref": reference}
            self._validators[reference] = jsonschema_rs.validator_for(schema, validate_formats=True)
        return self._validators[reference]


def _read_body(response: Response) -> bytes:
    encoding = response.headers.get("Content-Encoding", "")
    body = response.get_data()
    return _DECOMPRESS[encoding](body) if encoding else body


def json_schema(value: Any) -> Any:
    """A part of an OpenAPI 3.0 document in the terms of JSON Schema, which has no `nullable`."""
    if isinstance(value, list):
        return [json_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {name: json_schema(item) for name, item in value.items()}
    if schema.get("nullable") is True:
        del schema["nullable"]
        return {"anyOf": [schema, {"type": "null"}]}
    return schema


def watch(app: Flask) -> Contract:
    """Compare every answer of an application from now on."""
    contract = Contract(app.swag.get_apispecs("openapi"))  # type: ignore[attr-defined]  # set by flasgger
    flask.request_finished.connect(contract.check, app)
    app.extensions["contract"] = contract
    return contract
