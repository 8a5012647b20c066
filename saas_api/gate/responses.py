"""Rate-limit headers and errors."""

import random
import time

from flask import Response, g
from flask_limiter import RateLimitExceeded

from saas_api.billing import alerts, spend_cap
from saas_api.billing.spend_cap import SPEND_COUNTER
from saas_api.core import clock, money
from saas_api.core.errors import ApiError, PaymentRequired, ServiceUnavailable, TooManyRequests
from saas_api.core.limits import limiter
from saas_api.core.limits.limiter import LimitDecision, LimitRequest
from saas_api.core.web import error_pages


class QuotaExceeded(TooManyRequests):
    """The period's quota of a meter is used up."""

    code, message = "QUOTA_EXCEEDED", "The quota of this billing period is used up."


class SpendCapReached(PaymentRequired):
    """This call would cost more than the spend cap of the period leaves."""

    code, message = "SPEND_CAP_REACHED", "The spend cap of this billing period is reached; raise it to go on."


def rate_limited_response(error: RateLimitExceeded) -> Response:
    """The answer to a limit of Flask-Limiter that is used up."""
    call: LimitRequest | None = g.get("gate_call")
    if call is not None and call.decision is not None and call.decision.code in (0, -1):
        return error_pages.render_error(limit_exceeded_error(call))
    item = error.limit.limit
    current = limiter.limiter.current_limit
    wait = max(1, int(current.reset_at - time.time())) if current else item.get_expiry()
    return error_pages.render_error(
        to_error(item.amount, item.get_expiry(), wait, "user" if g.get("user_id") else "address")
    )


def limit_exceeded_error(call: LimitRequest) -> ApiError:
    """The refusal by the window, quota or cap that the script found full."""
    decision = call.decision
    if decision is None:
        raise ServiceUnavailable
    full, n = decision.full, len(call.windows)
    if full > n:
        counter = call.counters[full - n - 1]
        if counter.name == SPEND_COUNTER:
            return _cap_reached(decision.used[full - n - 1] if decision.used else counter.last_value)
        resets_at = clock.format_rfc3339(g.principal.terms.period_ends_at)
        used = decision.used[full - n - 1] if decision.used else counter.last_value
        return QuotaExceeded(
            details={"meter": counter.name, "limit": counter.ceiling, "used": used, "resets_at": resets_at}
        )
    limit, window_ms = call.windows[full - 1]
    wait = -(-decision.windows[full - 1][1] // 1000)
    return to_error(limit, window_ms // 1000, wait, "organization" if full == 1 else "key")


def _cap_reached(used: int) -> SpendCapReached:
    terms = g.principal.terms
    alerts.notify_cap_reached(g.principal.organization_id, terms.period_id)
    spent = spend_cap.spend_text(terms, used)
    cap = money.format_minor(terms.cap.amount_minor, terms.currency)
    return SpendCapReached(details={"cap": cap, "spent": spent, "currency": terms.currency})


def to_error(limit: int, window_seconds: int, wait_seconds: int, scope: str) -> TooManyRequests:
    """A refusal with its details.

    scope: "organization", "key", "user" or "address"
    """
    spread = random.uniform(1, 1.2)  # noqa: S311 - spreads retries, guards nothing
    wait_seconds = max(1, int(wait_seconds * spread))
    details = {
        "limit": limit,
        "window_seconds": window_seconds,
        "retry_after_seconds": wait_seconds,
        "scope": scope,
    }
    return TooManyRequests(details=details, retry_after=wait_seconds)


def rate_limit_headers(call: LimitRequest, decision: LimitDecision) -> dict[str, str]:
    """Headers about the window with the least left.

    source: draft-ietf-httpapi-ratelimit-headers-11, besides the older X-RateLimit fields
    """
    names = ("organization", "key")
    index = min(range(len(decision.windows)), key=lambda i: decision.windows[i][0])
    left, reset_ms = decision.windows[index]
    seconds = -(-reset_ms // 1000)
    policies = (f'"{name}";q={limit};w={ms // 1000}' for name, (limit, ms) in zip(names, call.windows, strict=False))
    return {
        "X-RateLimit-Limit": str(call.windows[index][0]),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(int(time.time()) + seconds),
        "RateLimit-Policy": ", ".join(policies),
        "RateLimit": f'"{names[index]}";r={left};t={seconds}',
    }
