"""Before and after each request: authenticate, parse, limit, bind the tenant."""

from flask import Flask, Response, current_app, g, request
from flask_limiter import RateLimitExceeded

from saas_api.accounts import sessions, tokens
from saas_api.api_keys import keys
from saas_api.billing import periods
from saas_api.core import clock, crypto
from saas_api.core.access import NIL_UUID, Access, Principal
from saas_api.core.db import tenancy
from saas_api.core.errors import ApiError, ServiceUnavailable
from saas_api.core.limits import limiter
from saas_api.core.limits.limiter import LimitDecision, LimitRequest
from saas_api.core.web import endpoint, http
from saas_api.core.web.endpoint import Operation
from saas_api.gate import browser_sessions, credentials, limits, responses
from saas_api.gate.credentials import CACHE_SECONDS_WITHOUT_REDIS
from saas_api.usage import refused_requests

MAX_LIMIT_CHECKS, FINAL_CHECK_AFTER = 8, 5
_QUOTA_USED_UP, _STALE_GENERATION, _PERIOD_CHANGED = -1, -2, -4


def init_app(app: Flask) -> None:
    """Put the gate before every view of an application."""
    app.config.from_mapping(limiter.limiter_config(app.config["REDIS_URL"], app.config["WEB_CONCURRENCY"]))
    app.config.from_mapping(tokens.jwt_config(app.config["JWT_SECRET"], app.config["APP_URL"]))
    app.config.from_mapping(browser_sessions.session_cookie_config(app.config["JWT_COOKIE_SECURE"]))
    tokens.jwt.init_app(app)
    app.before_request(authenticate)
    limiter.limiter.init_app(app)
    app.before_request(enforce_limits)
    app.after_request(finish_request)
    app.after_request(browser_sessions.set_session_cookies)
    app.register_error_handler(RateLimitExceeded, responses.rate_limited_response)


def authenticate() -> None:
    """Find out who is calling; what is wrong with the call besides is kept for `settle`.

    A public view has no caller: its arguments are read here too, so that throttles may look at them.
    """
    meta = _view_metadata()
    if meta is None:
        return
    asked, operation = meta
    g.refusal = None
    if not request.path.startswith("/api/"):
        browser_sessions.authenticate_page(asked)
        if "principal" in g:
            _authorize_and_parse(asked, operation)
        return
    if asked.is_public:
        if operation is not None:
            _parse(operation)
        return
    kind, text = credentials.read_credential(asked)
    if kind == "key":
        g.key_digests = crypto.api_key_digests(text)
        g.principal = credentials.load_key_principal(g.key_digests)
    else:
        g.principal = sessions.authenticate_token(text)
        g.user_id = g.principal.id
    _authorize_and_parse(asked, operation)
    if kind == "key":
        g.gate_call = limits.build_limit_request(g.principal, 0, g.units)


def _authorize_and_parse(asked: Access, operation: Operation | None) -> None:
    g.refusal, g.units = None, {}
    try:
        credentials.authorize_caller(g.principal, asked)
    except ApiError as error:
        g.refusal = error
    if operation is not None and not g.refusal:
        _parse(operation)


def enforce_limits() -> None:
    """Make sure the answer was about the present, raise what was kept, bind the tenant."""
    if "gate_call" in g:
        _confirm_decision()
        keys.mark_used(g.principal.organization_id, g.principal.id)
    if g.get("refusal"):
        raise g.refusal
    if "principal" in g and g.principal.organization_id != NIL_UUID and not _is_operator_view():
        _bind(g.principal)


def _is_operator_view() -> bool:
    meta = _view_metadata()
    return meta is not None and meta[0].operator_role is not None


def _bind(principal: Principal) -> None:
    if (
        principal.is_impersonating
    ):  # reading opens account and period where they are missing: not in a read-only transaction
        with tenancy.tenant_session(principal.organization_id) as own:
            periods.ensure_account(own, principal.organization_id)
            periods.ensure_period(own, principal.organization_id, clock.now())
    tenancy.bind_request(principal.organization_id, is_read_only=principal.is_impersonating)


def finish_request(response: Response) -> Response:
    """Count a refused call under a key, and tell every caller with a key what is left."""
    call: LimitRequest | None = g.get("gate_call")
    if call is None or call.decision is None:
        return response
    if call.decision.code == _QUOTA_USED_UP:  # what was answered before the quota was used up is answered still
        response = endpoint.find_replay(_require_view_metadata()[1]) or response
    if 400 <= response.status_code < 500 and request.url_rule is not None:
        outcome = "rate_limited" if response.status_code == 429 else "failed"
        refused_requests.count_refused(g.principal, http.openapi_path(request.url_rule.rule), request.method, outcome)
    if (response.status_code >= 400 or g.get("is_replayed")) and call.decision.code == 1 and not call.decision.is_local:
        limiter.release_quota(call)
    if call.decision.windows:
        response.headers.extend(responses.rate_limit_headers(call, call.decision))
    return response


def _parse(operation: Operation) -> None:
    try:
        g.arguments = operation.parse()
        g.units = operation.metered_units(g.arguments["body"]) if operation.metered_units else {}
    except ApiError as error:
        g.refusal, g.units = error, {}


def _view_metadata() -> tuple[Access, Operation | None] | None:
    if request.endpoint is None or request.method == "OPTIONS":
        return None
    view = current_app.view_functions[request.endpoint]
    asked = getattr(view, "__access__", None)
    if asked is None:
        if request.path.startswith("/api/"):
            raise RuntimeError(f"{request.endpoint} does not say who may call it")
        return None
    return asked, getattr(view, "__operation__", None)


def _confirm_decision() -> None:
    seen = None
    for asked in range(MAX_LIMIT_CHECKS):
        decision: LimitDecision | None = g.gate_call.decision
        if decision is None:
            raise ServiceUnavailable
        limits.remember_decision(g.gate_call)
        if decision.code >= -1 and (
            not decision.is_local or credentials.principal_age_seconds(g.principal) < CACHE_SECONDS_WITHOUT_REDIS
        ):
            return
        fresh = 0
        if decision.code != _PERIOD_CHANGED:
            g.principal = credentials.load_key_principal(g.key_digests, is_fresh=True)
            _authorize_and_parse(*_require_view_metadata())
            if decision.is_local:
                return
            fresh = 2 if decision.code == _STALE_GENERATION and decision.generation == seen else 1
            seen = decision.generation
        g.gate_call = limits.build_limit_request(g.principal, fresh, g.units, is_final=asked >= FINAL_CHECK_AFTER)
        limit = limiter.gate_limit(*g.gate_call.windows[0], "gate")
        if not limiter.limiter.limiter.hit(limit.limit, g.gate_call.keys[0], "gate"):
            limits.remember_decision(g.gate_call)
            raise responses.limit_exceeded_error(g.gate_call)
    raise ServiceUnavailable(retry_after=1)


def _require_view_metadata() -> tuple[Access, Operation | None]:
    meta = _view_metadata()
    if meta is None:
        raise ServiceUnavailable
    return meta
