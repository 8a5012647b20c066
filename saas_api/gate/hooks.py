"""Hooks before and after each request: authenticate, parse, limit, bind the transaction to the organization."""

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from flask import Flask, Response, current_app, g, request
from flask_limiter import RateLimitExceeded

from saas_api.accounts import sessions, tokens
from saas_api.accounts.tokens import TokenAudience
from saas_api.api_keys import last_use
from saas_api.billing import periods
from saas_api.core import clock, crypto, ids, request_context
from saas_api.core.access import Access, Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.errors import ApiError, ServiceUnavailable
from saas_api.core.ids import NIL_UUID
from saas_api.core.limits import counters, limiter
from saas_api.core.limits.limiter import LimitCode, LimitRequest
from saas_api.core.web import endpoint, http
from saas_api.core.web.endpoint import Operation
from saas_api.gate import authorization, browser_sessions, credentials, responses
from saas_api.metering import key_principals, limits
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.services import service_calls
from saas_api.usage import request_recorder
from saas_api.usage.request_recorder import RequestDetails

_OPERATIONS = {"keys": "verify"}
"""Operations in the statistics of services that have another name than the resource."""


def init_app(app: Flask) -> None:
    """Register the hooks of the gate, and the settings that they need."""
    app.config.from_mapping(limiter.limiter_config(app.config["LIMITS_REDIS_URL"], app.config["WEB_CONCURRENCY"]))
    app.config.from_mapping(tokens.jwt_config(app.config["JWT_SECRET"], app.config["APP_URL"]))
    app.config.from_mapping(browser_sessions.session_cookie_config(app.config["JWT_COOKIE_SECURE"]))
    tokens.jwt.init_app(app)
    app.before_request(authenticate)
    limiter.limiter.init_app(app)
    app.before_request(enforce_limits)
    app.after_request(finish_request)
    app.after_request(browser_sessions.set_cookies)
    app.register_error_handler(RateLimitExceeded, responses.rate_limited_response)


def authenticate() -> None:
    """Authenticate the caller. Other errors of the request stay in `g.refusal` for `enforce_limits`.

    The arguments of a public view are parsed here too, because the keys of its rate limits read them.
    """
    is_page = not request.path.startswith("/api/")
    if is_page:
        browser_sessions.load_preferences()
    metadata = _find_view_metadata()
    if metadata is None:
        return
    view_access, operation = metadata
    values = request_context.current_values()
    values.refusal, values.view_access = None, view_access
    if is_page:
        browser_sessions.authenticate_page(view_access)
        if "principal" in values:
            _select_cell(view_access)
            _authorize_and_parse(view_access, operation)
        return
    if view_access.is_for_services and not credentials.is_operator_call(view_access):
        values.service_call_began_at = time.perf_counter()
        values.service = credentials.authenticate_service(view_access)
        cells.select(_named_organization())
    if view_access.is_public or "service" in values:
        if operation is not None:
            _parse(operation)
        return
    _authenticate_principal(view_access, operation)


def _authenticate_principal(view_access: Access, operation: Operation | None) -> None:
    """Authenticate the API key or user of a call of the API, and prepare the limits of a key."""
    values = request_context.current_values()
    kind, credential = credentials.read_credential(view_access)
    if kind != "key":
        values.principal = sessions.authenticate_token(credential, TokenAudience.API)
        _select_cell(view_access)
        values.user_id = values.principal.id
        _authorize_and_parse(view_access, operation)
        return
    values.key_digests = crypto.keyed_digests(credential)
    values.principal = credentials.load_key_principal(values.key_digests)
    _select_cell(view_access)
    _authorize_and_parse(view_access, operation)
    if values.is_denied:
        _confirm_denial(view_access, operation)
    if not values.is_denied:
        values.gate_call = limits.build_limit_request(values.principal, 0, values.usage)


def _select_cell(view_access: Access) -> None:
    """Select the cell of the caller's organization, for an operator that of the organization in the path.

    raises: OrganizationMoving, CellUnavailable
    """
    is_operator = view_access.operator_role is not None
    cells.select(_named_organization() if is_operator else request_context.current_values().principal.organization_id)


def _named_organization() -> UUID:
    organization_id: UUID = (request.view_args or {}).get("organization_id", NIL_UUID)
    return organization_id


def enforce_limits() -> None:
    """Confirm the decision of the limits, raise the refusal of `authenticate`, and bind the organization."""
    values = request_context.current_values()
    if "gate_call" in values:
        _confirm_decision()
        last_use.mark_used(values.principal.organization_id, values.principal.id)
    if "principal" in values and (values.view_access.operator_role is None or values.refusal):
        _bind_organization(values.principal, is_refused=bool(values.get("refusal")))
    if values.get("refusal"):  # after binding: its page shows the organization
        raise values.refusal


def finish_request(response: Response) -> Response:
    """Count and log the request, return the quota of a failed one, add rate-limit headers."""
    values = request_context.current_values()
    if "service" in values:
        _count_service_call(response)
    call: LimitRequest | None = values.get("gate_call")
    decision = call.decision if call else None
    if (
        decision and decision.code == LimitCode.QUOTA_EXCEEDED
    ):  # a request that succeeded before the quota was used up is replayed
        response = endpoint.find_replay(_get_view_metadata()[1]) or response
    if "principal" in values:
        _record_request(response)
    if call is None or decision is None:
        return response
    if response.status_code >= 400 or values.get("is_replayed"):
        counters.release_quota(call)
    if decision.windows:
        http.append_headers(response, responses.rate_limit_headers(call, decision))
    return response


def _count_service_call(response: Response) -> None:
    """Count a call under the code that the view has set in `g.service_call_code`, or that of its error."""
    rule = request.url_rule.rule if request.url_rule else ""
    resource = rule.removeprefix("/api/v1/").partition("/")[0]
    code = g.get("service_call_code") or service_calls.SUCCESS
    if response.status_code >= 400 and "service_call_code" not in g:
        code = response.get_json()["error"]["code"]
    seconds = time.perf_counter() - g.service_call_began_at
    service_calls.count_call(g.service.service_id, _OPERATIONS.get(resource, resource), code, seconds)


def _record_request(response: Response) -> None:
    """Record a request of the API under the caller's organization; those of operators are not the organization's."""
    values, incoming = request_context.current_values(), request_context.current_request()
    principal: Principal = values.principal
    is_of_api = incoming.path.startswith("/api/") and values.view_access.operator_role is None
    if not is_of_api or incoming.url_rule is None or not principal.has_organization:
        return
    request_recorder.record(
        principal,
        incoming.method,
        _openapi_path(incoming.url_rule.rule),
        response.status_code,
        int((time.perf_counter() - values.began_at) * 1_000_000),
        lambda: _describe_request(response),
    )


_openapi_path = lru_cache(maxsize=None)(http.openapi_path)


def _describe_request(response: Response) -> RequestDetails:
    """What the log has of a request beside its status: its path, its error, the message that it was about."""
    incoming = request_context.current_request()
    message_id = (incoming.view_args or {}).get("message_id")
    error: Mapping[str, Any] = {}
    if response.is_json and (response.status_code >= 400 or incoming.method == "POST"):
        body = response.get_json()
        error = body.get("error") or {}
        if ids.is_public_id(created := str((body.get("data") or {}).get("message_id")), "msg"):
            message_id = ids.parse_id("msg", created)
    return RequestDetails(incoming.path, error.get("code"), _describe_error(error), message_id)


def _describe_error(error: Mapping[str, Any]) -> str | None:
    """The message of an error with the fields that it is about."""
    problems = error.get("details", {}).get("fields", ())
    sentences = [error.get("message"), *(f"{problem['field']}: {problem['reason']}" for problem in problems)]
    return " ".join(filter(None, sentences)) or None


def _find_view_metadata() -> tuple[Access, Operation | None] | None:
    incoming = request_context.current_request()
    if incoming.endpoint is None or incoming.method == "OPTIONS":
        return None
    view = current_app.view_functions[incoming.endpoint]
    view_access = getattr(view, "__access__", None)
    if view_access is None:
        if incoming.path.startswith("/api/"):
            raise RuntimeError(f"{incoming.endpoint} does not declare its access")
        return None
    return view_access, getattr(view, "__operation__", None)


def _get_view_metadata() -> tuple[Access, Operation | None]:
    metadata = _find_view_metadata()
    if metadata is None:
        raise ServiceUnavailable
    return metadata


def _authorize_and_parse(view_access: Access, operation: Operation | None) -> None:
    values = request_context.current_values()
    values.refusal, values.usage, values.is_denied = None, (), False
    try:
        authorization.authorize_caller(values.principal, view_access)
    except ApiError as error:
        values.refusal, values.is_denied = error, True
    if operation is not None and not values.refusal:
        _parse(operation)


def _confirm_denial(view_access: Access, operation: Operation | None) -> None:
    """Authorize the key again as PostgreSQL has it now; a denied call uses up the limit of this key only.

    raises: TooManyRequests
    """
    key_principals.hit_denied_limit(g.principal)
    g.principal = credentials.load_key_principal(g.key_digests, is_fresh=True)
    _authorize_and_parse(view_access, operation)


def _parse(operation: Operation) -> None:
    values = request_context.current_values()
    try:
        values.arguments = operation.parse()
        values.usage = operation.metering.expected_usage(values.arguments) if operation.metering else ()
    except ApiError as error:
        values.refusal, values.usage = error, ()


def _bind_organization(principal: Principal, *, is_refused: bool) -> None:
    if principal.is_impersonating and not is_refused:
        # reads create a missing account and period, which the read-only transaction of an impersonation refuses
        with tenancy.tenant_session(principal.organization_id) as session:
            periods.ensure_account(session, principal.organization_id)
            periods.ensure_period(session, principal.organization_id, clock.now())
    tenancy.bind_request(principal.tenant_id, is_read_only=principal.is_impersonating)


def _confirm_decision() -> None:
    """Confirm the decision of Flask-Limiter's hook with the current principal and counters.

    raises: the error of an exceeded limit, InvalidApiKey, TooManyRequests, ServiceUnavailable
    """

    def reload_principal() -> KeyPrincipal:
        g.principal = credentials.load_key_principal(g.key_digests, is_fresh=True)
        _authorize_and_parse(*_get_view_metadata())
        return g.principal

    values = request_context.current_values()
    call, principal = limits.confirm_decision(values.gate_call, values.principal, values.usage, reload_principal)
    values.gate_call, values.principal = call, principal
    if call.decision is not None and call.decision.code.is_refusal:
        raise limits.limit_exceeded_error(principal, call)
