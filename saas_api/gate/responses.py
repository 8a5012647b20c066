"""Rate-limit headers, and the response to an exceeded limit of Flask-Limiter."""

import math
import time

from flask import Response, g
from flask_limiter import RateLimitExceeded

from saas_api.core.limits import limiter
from saas_api.core.limits.limiter import LimitDecision, LimitRequest
from saas_api.core.web import error_pages
from saas_api.metering import limits, refusals


def rate_limited_response(error: RateLimitExceeded) -> Response:
    """The response to an exceeded limit of Flask-Limiter."""
    call: LimitRequest | None = g.get("gate_call")
    if call is not None and call.decision is not None and call.decision.code.is_refusal:
        return error_pages.render_error(limits.limit_exceeded_error(g.principal, call))
    item = error.limit.limit
    current_limit = limiter.limiter.current_limit
    wait_seconds = max(1, math.ceil(current_limit.reset_at - time.time())) if current_limit else item.get_expiry()
    scope = "user" if g.get("user_id") else "address"
    return error_pages.render_error(refusals.rate_limit_error(item.amount, item.get_expiry(), wait_seconds, scope))


def rate_limit_headers(call: LimitRequest, decision: LimitDecision) -> list[tuple[str, str]]:
    """Headers of the window with the fewest remaining requests.

    source: draft-ietf-httpapi-ratelimit-headers-11, and the older X-RateLimit fields
    """
    names = ("organization", "key")
    index = min(range(len(decision.windows)), key=lambda i: decision.windows[i][0])
    remaining, reset_ms = decision.windows[index]
    seconds = -(-reset_ms // 1000)
    policies = (f'"{name}";q={limit};w={ms // 1000}' for name, (limit, ms) in zip(names, call.windows, strict=False))
    return [
        ("X-RateLimit-Limit", str(call.windows[index][0])),
        ("X-RateLimit-Remaining", str(remaining)),
        ("X-RateLimit-Reset", str(int(time.time()) + seconds)),
        ("RateLimit-Policy", ", ".join(policies)),
        ("RateLimit", f'"{names[index]}";r={remaining};t={seconds}'),
    ]
