"""Rate-limit headers, and the errors of an exceeded rate limit, quota or spend cap."""

import math
import time

from flask import Response, g
from flask_limiter import RateLimitExceeded

from saas_api.billing import alerts, spend_cap
from saas_api.core import clock, money
from saas_api.core.errors import ApiError, PaymentRequired, ServiceUnavailable, TooManyRequests
from saas_api.core.limits import limiter
from saas_api.core.limits.limiter import LimitDecision, LimitRequest
from saas_api.core.web import error_pages


class QuotaExceeded(TooManyRequests):
    """The quota of a meter is used up for the billing period."""

    code, message = "QUOTA_EXCEEDED", "The quota of this billing period is used up."


class SpendCapReached(PaymentRequired):
    """The call would exceed the spend cap of the billing period."""

    code, message = "SPEND_CAP_REACHED", "The spend cap of this billing period is reached; raise it to go on."


def rate_limited_response(error: RateLimitExceeded) -> Response:
    """The response to an exceeded limit of Flask-Limiter."""
    call: LimitRequest | None = g.get("gate_call")
    if call is not None and call.decision is not None and call.decision.code.is_refusal:
        return error_pages.render_error(limit_exceeded_error(call))
    item = error.limit.limit
    current_limit = limiter.limiter.current_limit
    wait_seconds = max(1, math.ceil(current_limit.reset_at - time.time())) if current_limit else item.get_expiry()
    scope = "user" if g.get("user_id") else "address"
    return error_pages.render_error(rate_limit_error(item.amount, item.get_expiry(), wait_seconds, scope))


def limit_exceeded_error(call: LimitRequest) -> ApiError:
    """The error of the window, quota or spend cap that the decision found full."""
    decision = call.decision
    if decision is None:
        raise ServiceUnavailable
    window_count = len(call.windows)
    if decision.full > window_count:
        index = decision.full - window_count - 1
        counter = call.counters[index]
        used = decision.used[index] if decision.used else counter.last_value
        if spend_cap.is_spend_counter(counter.name):
            return _spend_cap_error(used)
        resets_at = clock.format_rfc3339(g.principal.terms.period_ends_at)
        return QuotaExceeded(
            details={"meter": counter.name, "limit": counter.limit, "used": used, "resets_at": resets_at}
        )
    limit, window_ms = call.windows[decision.full - 1]
    wait_seconds = -(-decision.windows[decision.full - 1][1] // 1000)
    return rate_limit_error(limit, window_ms // 1000, wait_seconds, "organization" if decision.full == 1 else "key")


def _spend_cap_error(used: int) -> SpendCapReached:
    terms = g.principal.terms
    alerts.notify_cap_reached(g.principal.organization_id, terms.period_id)
    spent = spend_cap.spend_text(terms, used)
    cap = money.format_minor(terms.cap.amount_minor, terms.currency)
    return SpendCapReached(details={"cap": cap, "spent": spent, "currency": terms.currency})


def rate_limit_error(limit: int, window_seconds: int, wait_seconds: int, scope: str) -> TooManyRequests:
    """The error of an exceeded rate limit.

    limit: requests in a window
    wait_seconds: until the request passes, rounded up
    scope: "organization", "key", "user" or "address"
    """
    details = {
        "limit": limit,
        "window_seconds": window_seconds,
        "retry_after_seconds": wait_seconds,
        "scope": scope,
    }
    return TooManyRequests(details=details, retry_after=wait_seconds)


def rate_limit_headers(call: LimitRequest, decision: LimitDecision) -> dict[str, str]:
    """Headers of the window with the fewest remaining requests.

    source: draft-ietf-httpapi-ratelimit-headers-11, and the older X-RateLimit fields
    """
    names = ("organization", "key")
    index = min(range(len(decision.windows)), key=lambda i: decision.windows[i][0])
    remaining, reset_ms = decision.windows[index]
    seconds = -(-reset_ms // 1000)
    policies = (f'"{name}";q={limit};w={ms // 1000}' for name, (limit, ms) in zip(names, call.windows, strict=False))
    return {
        "X-RateLimit-Limit": str(call.windows[index][0]),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(int(time.time()) + seconds),
        "RateLimit-Policy": ", ".join(policies),
        "RateLimit": f'"{names[index]}";r={remaining};t={seconds}',
    }
