"""The OpenAPI document, generated from the access and operation that views declare."""

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
from saas_api.core.access import Access, InsufficientScope, NoOrganization
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
from saas_api.services.service_tokens import InvalidServiceToken

VERSION = "1.0"
API_DESCRIPTION = """Send SMS and e-mail, see what was used, and be billed for exactly that.

Sign in for an access token, create an API key with it, and send with the key.
Every error carries a stable `code` and the `request_id` to quote when you ask for help."""
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "1 to 255 printable ASCII characters, in double quotes if there is a comma; a repeat within 24 "
    "hours in the same mode gets the first answer.",
    "schema": {"type": "string", "maxLength": 255},
}
EXAMPLE_REQUEST_ID = "req_1f0c9b5ad1e24ab7a3c1d2e4"


@dataclass(frozen=True)
class ApiRoute:
    """One path and method of the API.

    parameters: name and id prefix of each parameter of the path; no prefix for one that is no id
    """

    path: str
    method: str
    summary: str
    parameters: Sequence[tuple[str, str | None]]
    access: Access
    operation: Operation

    @property
    def accepts_idempotency_key(self) -> bool:
        """Whether a repeat with the same Idempotency-Key gets the stored response."""
        has_principal = not (self.access.is_public or self.access.is_for_services)
        return self.method == "POST" and has_principal and self.operation.is_replayable


def list_error_types() -> list[type[ApiError]]:
    """Every error class of the imported domains, by status and code, base classes first."""
    error_types: set[type[ApiError]] = set()
    pending: list[type[ApiError]] = [ApiError]
    while pending:
        error_type = pending.pop()
        error_types.add(error_type)
        pending += [child for child in error_type.__subclasses__() if child.__module__.startswith("saas_api.")]
    return sorted(error_types, key=_error_order)


def _error_order(error_type: type[ApiError]) -> tuple[int, str, int, str]:
    return error_type.status, error_type.code, len(error_type.__mro__), error_type.__name__


def build_openapi(routes: Iterable[ApiRoute]) -> dict[str, Any]:
    """The OpenAPI 3.0.3 document of some routes, JSON-ready.

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
    spec.components.security_scheme(
        "serviceToken",
        {"type": "http", "scheme": "bearer", "description": "Token of a service: `svc_` and 46 letters and digits."},
    )
    spec.components.schema("Error", _error_shape())
    for route in routes:
        spec.path(route.path, operations={route.method.lower(): _operation(route)})
    document: dict[str, Any] = _without_empty_defaults(spec.to_dict())
    return document


def _schema_name(schema: ma.Schema | type[ma.Schema] | str) -> str:
    schema_type = schema if isinstance(schema, type) else type(schema)
    return schema_type.__name__


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
    spec: dict[str, Any] = {
        "operationId": operation.operation_id,
        "tags": [operation.tag],
        "summary": summary.strip().rstrip("."),
        "parameters": parameters,
        "security": _security(route.access),
        "responses": {str(operation.status): _success_response(operation)} | _error_responses(route),
    }
    if description.strip():
        spec["description"] = description.strip()
    consumes = {"application/json": operation.body} if operation.body else operation.consumes
    if consumes:
        content = {media_type: {"schema": schema} for media_type, schema in consumes.items()}
        spec["requestBody"] = {"required": True, "content": content}
    return spec


def _security(access: Access) -> list[dict[str, list[str]]]:
    if access.is_public:
        return []
    schemes = {
        "accessToken": access.is_open_to_users,
        "apiKey": access.is_open_to_keys,
        "serviceToken": access.is_for_services,
    }
    return [{name: []} for name, is_open in schemes.items() if is_open]


def _success_response(operation: Operation) -> dict[str, Any]:
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


def _error_responses(route: ApiRoute) -> dict[str, Any]:
    by_status: dict[int, dict[str, type[ApiError]]] = {}
    for error_type in sorted(_error_types(route), key=_error_order):
        by_status.setdefault(error_type.status, {})[error_type.code] = error_type
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {item.message}" for code, item in error_types.items()),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "examples": {code: {"value": _example(item)} for code, item in error_types.items()},
                }
            },
        }
        for status, error_types in by_status.items()
    }


def _error_types(route: ApiRoute) -> set[type[ApiError]]:
    error_types: set[type[ApiError]] = {*route.operation.errors, ServiceUnavailable}
    if route.operation.body or route.operation.consumes:
        error_types |= {BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed}
    if route.operation.query:
        error_types.add(ValidationFailed)
    if route.parameters:
        error_types.add(NotFound)
    if route.accepts_idempotency_key:
        error_types |= {IdempotencyKeyInvalid, IdempotencyKeyReused, IdempotentRequestInProgress}
    return error_types | _access_errors(route.access)


def _access_errors(access: Access) -> set[type[ApiError]]:
    if access.is_public:
        return set()
    if access.is_for_services:
        return {InvalidServiceToken}
    error_types: set[type[ApiError]] = {Unauthenticated}
    if access.is_open_to_users:
        error_types |= {TokenMalformed, InvalidToken, TokenExpired}
    if access.is_open_to_users and access.permission:
        error_types |= {Forbidden, NoOrganization}
    if access.is_open_to_keys:
        error_types |= {InvalidApiKey, InsufficientScope, TooManyRequests}
    return error_types


def _example(error_type: type[ApiError]) -> dict[str, Any]:
    return {
        "success": False,
        "error": {
            "code": error_type.code,
            "message": error_type.message,
            "details": {},
            "request_id": EXAMPLE_REQUEST_ID,
        },
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
        result = {name: _without_empty_defaults(item) for name, item in value.items()}
        if "type" in result and result.get("default", "") is None:
            del result["default"]
        return result
    return [_without_empty_defaults(item) for item in value] if isinstance(value, list) else value
