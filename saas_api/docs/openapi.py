"""OpenAPI from the decorators of the views."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from saas_api.accounts.sessions import TokenMalformed
from saas_api.accounts.tokens import InvalidToken, TokenExpired
from saas_api.api_keys.secrets import InvalidApiKey
from saas_api.core import json_schema
from saas_api.core.access import Access, InsufficientScope
from saas_api.core.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationFailed,
)
from saas_api.core.idempotency import IdempotencyKeyInvalid, IdempotencyKeyReused, IdempotentRequestInProgress
from saas_api.core.web.endpoint import Operation

VERSION = "1.0"
API_DESCRIPTION = """Send SMS and e-mail, see what was used, and be billed for exactly that.

Sign in for an access token, create an API key with it, and send with the key.
Every error carries a stable `code` and the `request_id` to quote when you ask for help."""
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "1 to 255 printable ASCII characters; a repeat within 24 hours gets the first answer.",
    "schema": {"type": "string", "maxLength": 255},
}
EXAMPLE_REQUEST_ID = "req_1f0c9b5ad1e24ab7a3c1d2e4"


@dataclass(frozen=True)
class ApiRoute:
    """One path and method of the API.

    parameters: name and id prefix of each part of the path; the prefix is None for what is no id
    """

    path: str
    method: str
    summary: str
    parameters: Sequence[tuple[str, str | None]]
    access: Access
    operation: Operation

    @property
    def accepts_idempotency_key(self) -> bool:
        """Whether a repeat with the same Idempotency-Key gets the first answer."""
        return self.method == "POST" and not self.access.is_public and self.operation.is_replayable


def list_error_types() -> list[type[ApiError]]:
    """All kinds of error there are, by status and code, the general before the special.

    The rooms that define them must have been imported.
    """
    found: list[type[ApiError]] = []
    pending: list[type[ApiError]] = [ApiError]
    while pending:
        kind = pending.pop()
        found.append(kind)
        pending += [child for child in kind.__subclasses__() if child.__module__.startswith("saas_api.")]
    return sorted(set(found), key=_by_code)


def _by_code(kind: type[ApiError]) -> tuple[int, str, int, str]:
    return kind.status, kind.code, len(kind.__mro__), kind.__name__


def build_openapi(routes: Iterable[ApiRoute]) -> dict[str, Any]:
    """The whole document, ready for JSON.

    source: https://spec.openapis.org/oas/v3.0.3
    """
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title="saas-api",
        version=VERSION,
        openapi_version="3.0.3",
        info={"description": API_DESCRIPTION},
        servers=[{"url": "/"}],
        plugins=[plugin],
    )
    json_schema.register_field_types(plugin)
    spec.components.security_scheme("accessToken", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.security_scheme("apiKey", {"type": "apiKey", "in": "header", "name": "X-API-Key"})
    spec.components.schema("Error", _error_shape())
    for route in routes:
        spec.path(route.path, operations={route.method.lower(): _operation(route)})
    document: dict[str, Any] = _without_empty_defaults(spec.to_dict())
    return document


def _schema_name(schema: ma.Schema | type[ma.Schema] | str) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__


def _operation(route: ApiRoute) -> dict[str, Any]:
    operation = route.operation
    summary, _, description = route.summary.partition("\n")
    parameters: list[dict[str, Any]] = [
        {
            "in": "path",
            "name": name,
            "required": True,
            "schema": {"type": "string"} | ({"example": _example_id(prefix)} if prefix else {}),
        }
        for name, prefix in route.parameters
    ]
    if operation.query:
        parameters.append({"in": "query", "schema": operation.query})
    if route.accepts_idempotency_key:
        parameters.append(_IDEMPOTENCY_KEY)
    written: dict[str, Any] = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": summary.strip().rstrip("."),
        "parameters": parameters,
        "security": _security(route.access),
        "responses": {str(operation.status): _success(operation)} | _failures(route),
    }
    if description.strip():
        written["description"] = description.strip()
    if operation.body:
        written["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    return written


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access.is_public:
        return []
    schemes = {"accessToken": access.is_open_to_users, "apiKey": access.is_open_to_keys}
    return [{name: []} for name, is_open in schemes.items() if is_open]


def _success(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.produces == "application/json" or operation.returns:
        content["application/json"] = {"schema": _envelope(operation)}
    if operation.produces != "application/json":
        is_text = operation.produces.startswith("text/")
        content[operation.produces] = {"schema": {"type": "string"} | ({} if is_text else {"format": "binary"})}
    return {"description": HTTPStatus(operation.status).phrase, "content": content}


def _envelope(operation: Operation) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["success", "data"],
        "properties": {
            "success": {"type": "boolean", "enum": [True]},
            "data": operation.returns or {"type": "object", "nullable": True},
            "message": {"type": "string"},
        },
    }


def _failures(route: ApiRoute) -> dict[str, Any]:
    by_status: dict[int, dict[str, type[ApiError]]] = {}
    for kind in sorted(_error_types(route), key=_by_code):
        by_status.setdefault(kind.status, {})[kind.code] = kind
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {kind.message}" for code, kind in kinds.items()),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "examples": {code: {"value": _example(kind)} for code, kind in kinds.items()},
                }
            },
        }
        for status, kinds in by_status.items()
    }


def _error_types(route: ApiRoute) -> set[type[ApiError]]:
    kinds: set[type[ApiError]] = {*route.operation.errors, ServiceUnavailable}
    if route.operation.body:
        kinds |= {BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed}
    if route.operation.query:
        kinds.add(ValidationFailed)
    if route.parameters:
        kinds.add(NotFound)
    if route.accepts_idempotency_key:
        kinds |= {IdempotencyKeyInvalid, IdempotencyKeyReused, IdempotentRequestInProgress}
    return kinds | _access_errors(route.access)


def _access_errors(access: Access) -> set[type[ApiError]]:
    if access.is_public:
        return set()
    kinds: set[type[ApiError]] = {Unauthenticated}
    if access.is_open_to_users:
        kinds |= {TokenMalformed, InvalidToken, TokenExpired}
    if access.is_open_to_users and access.permission:
        kinds.add(Forbidden)
    if access.is_open_to_keys:
        kinds |= {InvalidApiKey, InsufficientScope, TooManyRequests}
    return kinds


def _example(kind: type[ApiError]) -> dict[str, Any]:
    return {
        "success": False,
        "error": {"code": kind.code, "message": kind.message, "details": {}, "request_id": EXAMPLE_REQUEST_ID},
    }


def _example_id(prefix: str) -> str:
    return f"{prefix}_019306e2f1c47bb1a7e5c0d2f4a6b8c9"


def _error_shape() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["success", "error"],
        "properties": {
            "success": {"type": "boolean", "enum": [False]},
            "error": {
                "type": "object",
                "required": ["code", "message", "details", "request_id"],
                "properties": {"code": text, "message": text, "details": {"type": "object"}, "request_id": text},
            },
        },
    }


def _without_empty_defaults(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _without_empty_defaults(item) for name, item in value.items()}
        if "type" in kept and kept.get("default", "") is None:
            del kept["default"]
        return kept
    return [_without_empty_defaults(item) for item in value] if isinstance(value, list) else value
