"""Who is calling, for which tenant, how fast: settled before every request, under a key in one Redis round trip.

Three hooks in this order: `authenticate`, Flask-Limiter's own (which asks our script), `settle`. A refusal found by the
first is counted by the second and raised by the third, so that refused calls are limited too.
"""

from flask import Flask, Response, current_app, g, request
from flask_limiter import RateLimitExceeded

from saas_api.api_keys import service as api_keys
from saas_api.auth import service as auth
from saas_api.billing import service as billing
from saas_api.core import clock, crypto, tenancy
from saas_api.core.access import NO_ORGANIZATION, Access, Principal
from saas_api.core.domain import Domain
from saas_api.core.errors import ApiError, Unavailable
from saas_api.core.http import Operation, path_template, replay_of
from saas_api.core.limits import Decision, GateCall, configure, gate_limit, limiter, refund
from saas_api.gate.answers import full_limit, limit_headers, too_many
from saas_api.gate.callers import REMEMBERED_WITHOUT_REDIS_SECONDS, age, authorise, credential, load
from saas_api.gate.counters import call_for, learn
from saas_api.gate.visitors import configure as configure_visits
from saas_api.gate.visitors import hand_out, recognise
from saas_api.usage import service as usage

DOMAIN = Domain(name="gate", system_purposes=("gate.key",))
MOST_QUESTIONS, SURE_QUESTIONS = 8, 5
_FULL, _STALE, _MOVED = -1, -2, -4


def init_app(app: Flask) -> None:
    """Put the gate before every view of an application."""
    app.config.from_mapping(configure(app.config["REDIS_URL"], app.config["WEB_CONCURRENCY"]))
    app.config.from_mapping(auth.configure(app.config["JWT_SECRET"], app.config["APP_URL"]))
    app.config.from_mapping(configure_visits(app.config["JWT_COOKIE_SECURE"]))
    auth.jwt.init_app(app)
    app.before_request(authenticate)
    limiter.init_app(app)
    app.before_request(settle)
    app.after_request(count_and_tell)
    app.after_request(hand_out)
    app.register_error_handler(RateLimitExceeded, too_many)


def authenticate() -> None:
    """Find out who is calling; what is wrong with the call besides is kept for `settle`.

    A public view has no caller: its arguments are read here too, so that throttles may look at them.
    """
    meta = _meta()
    if meta is None:
        return
    asked, operation = meta
    g.refusal = None
    if not request.path.startswith("/api/"):
        recognise(asked)
        if "principal" in g:
            _judge(asked, operation)
        return
    if asked.is_public:
        if operation is not None:
            _parse(operation)
        return
    kind, text = credential(asked)
    if kind == "key":
        g.key_digests = crypto.api_key_digests(text)
        g.principal = load(g.key_digests)
    else:
        g.principal = auth.principal_of(text)
        g.user_id = g.principal.id
    _judge(asked, operation)
    if kind == "key":
        g.gate_call = call_for(g.principal, 0, g.units)


def _judge(asked: Access, operation: Operation | None) -> None:
    g.refusal, g.units = None, {}
    try:
        authorise(g.principal, asked)
    except ApiError as error:
        g.refusal = error
    if operation is not None and not g.refusal:
        _parse(operation)


def settle() -> None:
    """Make sure the answer was about the present, raise what was kept, bind the tenant."""
    if "gate_call" in g:
        _confirm()
        api_keys.touch(g.principal.organization_id, g.principal.id)
    if g.get("refusal"):
        raise g.refusal
    if "principal" in g and g.principal.organization_id != NO_ORGANIZATION and not _is_for_operators():
        _bind(g.principal)


def _is_for_operators() -> bool:
    meta = _meta()
    return meta is not None and meta[0].office is not None


def _bind(principal: Principal) -> None:
    if principal.is_looking:  # reading opens account and period where they are missing: not in a read-only transaction
        with tenancy.transaction(principal.organization_id) as own:
            billing.ensure_account(own, principal.organization_id)
            billing.ensure_period(own, principal.organization_id, clock.now())
    tenancy.open_tenant(principal.organization_id, is_read_only=principal.is_looking)


def count_and_tell(response: Response) -> Response:
    """Count a refused call under a key, and tell every caller with a key what is left."""
    call: GateCall | None = g.get("gate_call")
    if call is None or call.decision is None:
        return response
    if call.decision.code == _FULL:  # what was answered before the quota was used up is answered still
        response = replay_of(_meta_of_request()[1]) or response
    if 400 <= response.status_code < 500 and request.url_rule is not None:
        outcome = "rate_limited" if response.status_code == 429 else "failed"
        usage.count_refusal(g.principal, path_template(request.url_rule.rule), request.method, outcome)
    if (response.status_code >= 400 or g.get("is_replayed")) and call.decision.code == 1 and not call.decision.is_local:
        refund(call)
    if call.decision.windows:
        response.headers.extend(limit_headers(call, call.decision))
    return response


def _parse(operation: Operation) -> None:
    try:
        g.arguments = operation.parse()
        g.units = operation.units(g.arguments["body"]) if operation.units else {}
    except ApiError as error:
        g.refusal, g.units = error, {}


def _meta() -> tuple[Access, Operation | None] | None:
    if request.endpoint is None or request.method == "OPTIONS":
        return None
    view = current_app.view_functions[request.endpoint]
    asked = getattr(view, "__access__", None)
    if asked is None:
        if request.path.startswith("/api/"):
            raise RuntimeError(f"{request.endpoint} does not say who may call it")
        return None
    return asked, getattr(view, "__operation__", None)


def _confirm() -> None:
    seen = None
    for asked in range(MOST_QUESTIONS):
        decision: Decision | None = g.gate_call.decision
        if decision is None:
            raise Unavailable
        learn(g.gate_call)
        if decision.code >= -1 and (not decision.is_local or age(g.principal) < REMEMBERED_WITHOUT_REDIS_SECONDS):
            return
        fresh = 0
        if decision.code != _MOVED:
            g.principal = load(g.key_digests, is_fresh=True)
            _judge(*_meta_of_request())
            if decision.is_local:
                return
            fresh = 2 if decision.code == _STALE and decision.generation == seen else 1
            seen = decision.generation
        g.gate_call = call_for(g.principal, fresh, g.units, is_final=asked >= SURE_QUESTIONS)
        limit = gate_limit(*g.gate_call.windows[0], "gate")
        if not limiter.limiter.hit(limit.limit, g.gate_call.keys[0], "gate"):
            learn(g.gate_call)
            raise full_limit(g.gate_call)
    raise Unavailable(retry_after=1)


def _meta_of_request() -> tuple[Access, Operation | None]:
    meta = _meta()
    if meta is None:
        raise Unavailable
    return meta
