"""What a caller is told about limits: the headers of every answer under a key, and the refusals."""

import random
import time

from flask import Response, g
from flask_limiter import RateLimitExceeded

from saas_api.billing import service as billing
from saas_api.core import clock
from saas_api.core.errors import ApiError, PaymentRequired, TooManyRequests, Unavailable
from saas_api.core.limits import Decision, GateCall, limiter
from saas_api.core.money import minor_to_text
from saas_api.core.render import render_error


class QuotaExceeded(TooManyRequests):
    """The period's quota of a meter is used up."""

    code, message = "QUOTA_EXCEEDED", "The quota of this billing period is used up."


class SpendCapReached(PaymentRequired):
    """This call would cost more than the spend cap of the period leaves."""

    code, message = "SPEND_CAP_REACHED", "The spend cap of this billing period is reached; raise it to go on."


def too_many(error: RateLimitExceeded) -> Response:
    """The answer to a limit of Flask-Limiter that is used up."""
    call: GateCall | None = g.get("gate_call")
    if call is not None and call.decision is not None and call.decision.code in (0, -1):
        return render_error(full_limit(call))
    item = error.limit.limit
    current = limiter.current_limit
    wait = max(1, int(current.reset_at - time.time())) if current else item.get_expiry()
    return render_error(refused(item.amount, item.get_expiry(), wait, "user" if g.get("user_id") else "address"))


def full_limit(call: GateCall) -> ApiError:
    """The refusal by the window, quota or cap that the script found full."""
    decision = call.decision
    if decision is None:
        raise Unavailable
    full, n = decision.full, len(call.windows)
    if full > n:
        counter = call.counters[full - n - 1]
        if counter.name == billing.SPEND:
            return _cap_reached(decision.used[full - n - 1] if decision.used else counter.known)
        resets_at = clock.rfc3339(g.principal.terms.period_ends_at)
        used = decision.used[full - n - 1] if decision.used else counter.known
        return QuotaExceeded(
            details={"meter": counter.name, "limit": counter.ceiling, "used": used, "resets_at": resets_at}
        )
    limit, window_ms = call.windows[full - 1]
    wait = -(-decision.windows[full - 1][1] // 1000)
    return refused(limit, window_ms // 1000, wait, "organization" if full == 1 else "key")


def _cap_reached(used: int) -> SpendCapReached:
    terms = g.principal.terms
    billing.cap_reached(g.principal.organization_id, terms.period_id)
    spent = billing.spent_text(terms, used)
    cap = minor_to_text(terms.cap.amount_minor, terms.currency)
    return SpendCapReached(details={"cap": cap, "spent": spent, "currency": terms.currency})


def refused(limit: int, window_seconds: int, wait_seconds: int, scope: str) -> TooManyRequests:
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


def limit_headers(call: GateCall, decision: Decision) -> dict[str, str]:
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
