"""The address that proxies ask: `/gate`, with statuses and headers that they pass on."""

import ipaddress
import time

from flask import Blueprint, Response, request

from saas_api.api_keys import key_format
from saas_api.api_keys.secrets import InvalidApiKey, MissingApiKey
from saas_api.core import ids, request_context
from saas_api.core.access import public_view
from saas_api.core.errors import ApiError, TooManyRequests
from saas_api.core.web import error_pages
from saas_api.metering import forward_auth, refusals
from saas_api.metering.forward_auth import ProxiedRequest
from saas_api.metering.verification import NOT_FOUND, Verification
from saas_api.services import service_calls, service_tokens

bp = Blueprint("forward_auth", __name__)
_METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "PURGE", "LINK", "UNLINK"),
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "ACL"),
)
_MAX_KEY_LENGTH = 255


@bp.route("/gate", methods=_METHODS, provide_automatic_options=False)
@bp.route("/gate/<path:target>", methods=_METHODS, provide_automatic_options=False)
@public_view  # the service token is in a header of its own, because Authorization may hold the customer's key
def gate(target: str | None = None) -> Response:
    """Admit or refuse a request that a proxy has received.

    The proxy sends its service token in X-Service-Token, the headers of the request, and its URI and method in
    X-Original-URI or X-Forwarded-Uri and X-Original-Method or X-Forwarded-Method. Envoy sends them as its own method
    and the rest of the path.
    `?statuses=nginx` answers 403 for every refusal, because nginx passes on only 401 and 403; X-Gate-Status has the
    status.
    """
    started_at, service = time.perf_counter(), None
    try:
        token = request.headers.get("X-Service-Token", "")
        service = service_tokens.authenticate_from_cache(token, request_context.client_ip())
        proxied = _proxied_request(is_in_path=target is not None)
        answer = service_tokens.run_with_current_catalogue(
            service, lambda current: forward_auth.verify_request(current, proxied)
        )
        code, response = answer.code, _admitted(answer) if answer.is_valid else _refused(answer)
    except ApiError as error:
        code, response = error.code, _error_response(error, error.code)
    if service is not None:
        service_calls.count_call(service.service_id, "gate", code, time.perf_counter() - started_at)
    return response


def _proxied_request(*, is_in_path: bool) -> ProxiedRequest:
    headers, method = request.headers, request.method
    if is_in_path:  # as it was sent: Flask decodes the path
        uri = str(request.environ.get("RAW_URI") or request.full_path).removeprefix("/gate")
    else:
        method = headers.get("X-Original-Method") or headers.get("X-Forwarded-Method") or method
        uri = headers.get("X-Original-URI") or headers.get("X-Forwarded-Uri") or "/"
    lowered = {name.lower(): value for name, value in headers.items()}
    return ProxiedRequest(method, uri, _customer_key(), _customer_ip(), lowered)


def _customer_key() -> str:
    """The API key of the request that the proxy asks about.

    raises: MissingApiKey, InvalidApiKey
    """
    key = request.headers.get("X-API-Key")
    if not key:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else ""
    if not key:
        raise MissingApiKey
    if len(key) > _MAX_KEY_LENGTH or not key_format.has_key_prefix(key):
        raise InvalidApiKey
    return key


def _customer_ip() -> str | None:
    """The address that the proxy names last, which no client can forge behind it."""
    named = request.headers.get("X-Real-IP") or request.headers.get("X-Forwarded-For", "").rpartition(",")[2]
    try:
        address = ipaddress.ip_address(named.strip())
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _admitted(answer: Verification) -> Response:
    response = Response(status=200, mimetype="application/json")
    principal = answer.principal
    if principal is not None and principal.terms is not None:
        response.headers["X-Organization-Id"] = ids.format_id("org", principal.organization_id)
        response.headers["X-Key-Id"] = ids.format_id("key", principal.id)
        response.headers["X-Plan"] = principal.terms.plan_code
        response.headers["X-Mode"] = principal.mode
    _add_limits(response, answer)
    return response


def _refused(answer: Verification) -> Response:
    kinds = {kind.code: kind for kind in refusals.ALL}
    kind = InvalidApiKey if answer.code == NOT_FOUND else kinds.get(answer.code, TooManyRequests)
    error = kind(details=dict(answer.details), retry_after=answer.retry_after_seconds)
    response = _error_response(error, answer.code)
    _add_limits(response, answer)
    return response


def _error_response(error: ApiError, code: str) -> Response:
    """The response to a refusal.

    code: that of the verification, for X-Gate-Code
    """
    response = error_pages.render_error(error)
    response.headers["X-Gate-Code"] = code
    response.headers["X-Gate-Status"] = str(response.status_code)
    if request.args.get("statuses") == "nginx":
        response.status_code = 403
    return response


def _add_limits(response: Response, answer: Verification) -> None:
    """Headers of the limit with the fewest remaining requests.

    source: draft-ietf-httpapi-ratelimit-headers-11
    """
    if not answer.limits:
        return
    least = min(answer.limits, key=lambda limit: limit.remaining)
    response.headers["RateLimit-Policy"] = ", ".join(f'"{limit.name}";q={limit.limit};w=60' for limit in answer.limits)
    response.headers["RateLimit"] = f'"{least.name}";r={least.remaining};t={least.reset_in_seconds}'
