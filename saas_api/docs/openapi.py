"""The OpenAPI document, generated from the access and operation that views declare."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from saas_api.accounts.organizations import PERMITTED_WHEN_CLOSED, OrganizationClosed
from saas_api.accounts.sessions import TokenMalformed
from saas_api.accounts.tokens import InvalidToken, TokenExpired
from saas_api.api_keys.secrets import InvalidApiKey, MissingApiKey
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
from saas_api.docs import components, examples
from saas_api.metering import refusals
from saas_api.metering.metered_endpoints import MeterUnavailable
from saas_api.services.service_tokens import InvalidServiceToken

VERSION = "1.0"
API_DESCRIPTION = """Send SMS and email, see what was used, and be billed for exactly that.

Sign in for an access token, create an API key with it, and send with the key.
Every error carries a stable `code` and the `request_id` to quote when you ask for help. Each operation lists its codes;
any may answer 405, 408, 414 or 431 to a request that cannot be served, and 500 when the mistake is ours."""
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "1 to 255 printable ASCII characters, in double quotes if there is a comma; a repeat within 24 "
    "hours in the same mode gets the first answer.",
    "schema": {"type": "string", "maxLength": 255},
}
TAGS = {
    "api_keys": "Keys with which programs call this API and those of services: scopes, networks, limits, rotation.",
    "auth": "Sign-up, sign-in and the sessions of users; verification of addresses, and passwords.",
    "billing": "Plans, usage and its price, invoices and how they were calculated, spend cap, alerts and wallet.",
    "dashboard": "The figures of the dashboard's first page.",
    "events": "Usage that services report after the fact, as CloudEvents.",
    "messages": "SMS and email: send, follow and cancel.",
    "organizations": "The organization of the caller, its members and invitations, and its audit log.",
    "payments": "Payment of invoices, and the events of payment providers.",
    "portal": "Links to the customer portal, which shows keys, usage, invoices and webhooks to customers of a service.",
    "requests": "The log of requests: every error of the last 30 days, and a sample of the others.",
    "services": "What services behind the platform ask: whether a call may go on, and holds for what it may come to.",
    "webhooks": "Endpoints that receive events, their deliveries, and recovery of what was missed.",
}
_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Request-Id": (
        "Id of the request, to quote when you ask for help; yours, if you sent one.",
        {"type": "string", "example": examples.REQUEST_ID},
    ),
    "RateLimit-Policy": (
        "Limits of the organization and the key: requests in a window of seconds.",
        {"type": "string", "example": '"organization";q=600;w=60, "key";q=60;w=60'},
    ),
    "RateLimit": (
        "The limit with the fewest requests left: requests, and seconds until all are there again.",
        {"type": "string", "example": '"key";r=59;t=60'},
    ),
    "X-RateLimit-Limit": ("Requests in the window of that limit.", {"type": "integer", "example": 60}),
    "X-RateLimit-Remaining": ("Requests left in it.", {"type": "integer", "example": 59}),
    "X-RateLimit-Reset": ("When all are there again, in seconds of Unix time.", {"type": "integer"}),
    "Retry-After": ("Seconds after which the same request may succeed.", {"type": "integer", "example": 5}),
    "Idempotency-Replayed": (
        "`true` when this is the stored answer to an earlier request with the same Idempotency-Key.",
        {"type": "string", "enum": ["true"]},
    ),
    "WWW-Authenticate": ("How to authenticate.", {"type": "string", "example": 'Bearer realm="api"'}),
    "Content-Disposition": ("Name of the file.", {"type": "string"}),
}
_LIMIT_HEADERS = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


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
        """Whether a repeat with the same Idempotency-Key gets the stored response, or that of the view itself."""
        reads_key_itself = IdempotencyKeyInvalid in self.operation.errors
        return reads_key_itself or (self.method == "POST" and self.has_principal and self.operation.is_replayable)

    @property
    def has_principal(self) -> bool:
        """Whether a user or an API key calls it."""
        return not (self.access.is_public or self.access.is_for_services)


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


def build_openapi(routes: Iterable[ApiRoute], server_url: str, title: str) -> dict[str, Any]:
    """The OpenAPI 3.0.3 document of some routes, JSON-ready.

    server_url: address of the platform, without a path
    title: name of the product
    source: https://spec.openapis.org/oas/v3.0.3
    """
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title=title,
        version=VERSION,
        openapi_version="3.0.3",
        info={"description": API_DESCRIPTION},
        servers=[{"url": server_url}],
        plugins=[plugin],
    )
    json_schema.register_field_types(plugin)
    converter: Any = plugin.converter
    converter.add_attribute_function(components.describe_values)
    routes = list(routes)
    _add_components(spec, routes, converter.resolve_nested_schema, server_url)
    for route in routes:
        spec.path(route.path, operations={route.method.lower(): _operation(route)})
    for name in sorted({route.operation.tag for route in routes}):
        spec.tag({"name": name, "description": TAGS.get(name, "")})
    document: dict[str, Any] = spec.to_dict()
    components.refine(document)
    examples.add_examples(document)
    return document


def _add_components(
    spec: APISpec, routes: Sequence[ApiRoute], refer: Callable[[ma.Schema], dict[str, Any]], server_url: str
) -> None:
    """Add what operations refer to: security schemes, headers, the shapes of responses, and an example of each error.

    refer: adds the component of a schema and returns a reference to it
    server_url: address of the platform
    """
    bearer = {"type": "http", "scheme": "bearer"}
    spec.components.security_scheme(
        "accessToken", {**bearer, "bearerFormat": "JWT", "description": "Access token of a user, from signing in."}
    )
    spec.components.security_scheme(
        "apiKey", {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "API key of an organization."}
    )
    spec.components.security_scheme(
        "serviceToken", {**bearer, "description": "Token of a service: `svc_` and 46 letters and digits."}
    )
    for name, (description, schema) in _HEADERS.items():
        spec.components.header(name, {"description": description, "schema": schema})
    spec.components.schema("Error", _error_shape())
    spec.components.schema("ErrorDetail", _error_detail_shape())
    for name, data_schema in {_response_name(route.operation): route.operation.returns for route in routes}.items():
        spec.components.schema(name, _envelope(refer(data_schema) if data_schema else {"type": "object"}))
    error_types = {error_type for route in routes for error_type in _error_types(route)}
    for error_type in sorted(error_types, key=_error_order):
        spec.components.example(error_type.__name__, {"value": examples.error_example(error_type, server_url)})


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
            "schema": {"type": "string", "example": examples.parameter_example(name, prefix)},
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
        "responses": {str(operation.status): _success_response(route)} | _error_responses(route),
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


def _success_response(route: ApiRoute) -> dict[str, Any]:
    operation, headers = route.operation, ["X-Request-Id", *_limit_headers(route)]
    content: dict[str, Any] = {}
    if operation.produces == "application/json" or operation.returns:
        content["application/json"] = {"schema": {"$ref": f"{components.REFERENCE}{_response_name(operation)}"}}
    if operation.produces != "application/json":
        is_text = operation.produces.startswith("text/")
        content[operation.produces] = {"schema": {"type": "string"} | ({} if is_text else {"format": "binary"})}
        headers.append("Content-Disposition")
    if route.accepts_idempotency_key and route.has_principal:
        headers.append("Idempotency-Replayed")
    description = HTTPStatus(operation.status).phrase
    return {"description": description, "headers": _header_references(headers), "content": content}


def _response_name(operation: Operation) -> str:
    """Name of the component of a successful response; operations with the same data share it."""
    shape = _schema_name(operation.returns) if operation.returns else "Empty"
    return f"{shape.removesuffix('Out').removesuffix('Envelope')}Response"


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    properties = {"success": {"type": "boolean", "enum": [True]}, "data": data, "message": {"type": "string"}}
    return {"type": "object", "required": ["success", "data"], "properties": properties}


def _error_responses(route: ApiRoute) -> dict[str, Any]:
    by_status: dict[int, dict[str, type[ApiError]]] = {}
    for error_type in sorted(_error_types(route), key=_error_order):
        by_status.setdefault(error_type.status, {})[error_type.code] = error_type
    return {
        str(status): {
            "description": "; ".join(f"`{code}`: {item.message}" for code, item in error_types.items()),
            "headers": _header_references(_error_headers(route, status, error_types.values())),
            "content": {
                "application/json": {
                    "schema": {"$ref": f"{components.REFERENCE}Error"},
                    "examples": {
                        code: {"$ref": f"#/components/examples/{item.__name__}"} for code, item in error_types.items()
                    },
                }
            },
        }
        for status, error_types in by_status.items()
    }


def _error_headers(route: ApiRoute, status: int, error_types: Iterable[type[ApiError]]) -> list[str]:
    if status == 401:
        return ["X-Request-Id", "WWW-Authenticate"]
    is_temporary = status in (429, 503) or IdempotentRequestInProgress in error_types
    return ["X-Request-Id", *_limit_headers(route), *(["Retry-After"] if is_temporary else [])]


def _limit_headers(route: ApiRoute) -> tuple[str, ...]:
    return _LIMIT_HEADERS if route.has_principal and route.access.is_open_to_keys else ()


def _header_references(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _error_types(route: ApiRoute) -> set[type[ApiError]]:
    error_types: set[type[ApiError]] = {*route.operation.errors, ServiceUnavailable}
    if route.operation.body or route.operation.consumes:
        error_types |= {BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed}
    if route.operation.query:
        error_types.add(ValidationFailed)
    if route.parameters:
        error_types.add(NotFound)
    if route.method == "POST":
        error_types.add(IdempotencyKeyInvalid)
    if route.accepts_idempotency_key and route.has_principal:
        error_types |= {IdempotencyKeyReused, IdempotentRequestInProgress}
    return error_types | _access_errors(route)


def _access_errors(route: ApiRoute) -> set[type[ApiError]]:
    """Errors of the caller: each operation reads an API key and refuses it where it takes none."""
    access = route.access
    if access.is_for_services:
        of_operators = {TokenMalformed, InvalidToken, TokenExpired, NotFound} if access.operator_role else set()
        return {InvalidServiceToken} | of_operators
    if not route.has_principal:
        return set()
    error_types: set[type[ApiError]] = {
        BadRequest,  # two credentials
        Unauthenticated if access.is_open_to_users else MissingApiKey,
        TokenMalformed,
        InvalidApiKey,
        InvalidServiceToken,
        InsufficientScope,
        refusals.IpNotAllowed,
        refusals.OrganizationSuspended,
        TooManyRequests,
    }
    if access.is_metered:
        error_types |= {refusals.SubscriptionRestricted, refusals.QuotaExceeded, refusals.SpendCapReached}
        error_types.add(MeterUnavailable)
    return error_types | (_user_errors(route) if access.is_open_to_users else set())


def _user_errors(route: ApiRoute) -> set[type[ApiError]]:
    permission = route.access.permission
    error_types: set[type[ApiError]] = {InvalidToken, TokenExpired, Forbidden}
    if permission:
        error_types.add(NoOrganization)
    if route.method != "GET" and permission not in PERMITTED_WHEN_CLOSED:
        error_types.add(OrganizationClosed)
    return error_types


def _error_shape() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["success", "error"],
        "properties": {
            "success": {"type": "boolean", "enum": [False]},
            "error": {"$ref": f"{components.REFERENCE}ErrorDetail"},
        },
    }


def _error_detail_shape() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["code", "message", "details", "request_id", "docs"],
        "properties": {
            "code": text,
            "message": text,
            "details": {"type": "object"},
            "request_id": text,
            "docs": {**text, "format": "uri", "description": "Page that says what the code means and what to do."},
        },
    }
