"""The limit request of a call with an API key, and the cached quantities that price the next one."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from limits import RateLimitItemPerSecond

from saas_api.billing import period_spend, spend_cap
from saas_api.billing.service_terms import ServiceTerms
from saas_api.core.access import KeyMode
from saas_api.core.db import tenancy
from saas_api.core.errors import ServiceUnavailable
from saas_api.core.limits import counters, limiter
from saas_api.core.limits.limiter import LimitRequest, QuotaCounter
from saas_api.gate import responses
from saas_api.gate.cache import LruCache
from saas_api.gate.credentials import KeyPrincipal
from saas_api.usage import quotas

QUOTA_TTL_SECONDS = 604_800
"""Seconds after the end of the billing period for which Redis keeps its counters."""
MAX_CACHED_QUANTITIES = 20_000
_cached_quantities: LruCache[str, int] = LruCache(MAX_CACHED_QUANTITIES)


def build_limit_request(
    principal: KeyPrincipal, freshness: int, units: Mapping[str, int], *, is_final: bool = False
) -> LimitRequest:
    """Build the keys and arguments of the script that decides on one call.

    freshness: 1 when the principal was just read from PostgreSQL, 2 when PostgreSQL overrules Redis, else 0
    units: used by the call, by meter
    is_final: accept the price even when concurrent calls change the quantity that it depends on
    raises: ServiceUnavailable
    """
    terms = principal.terms
    if terms is None:
        raise ServiceUnavailable
    tag, windows = f"{{{principal.organization_id}}}", principal.windows
    quota_counters = _build_counters(principal, units, is_fresh=freshness > 0, is_final=is_final)
    keys = [
        limiter.generation_key(principal.organization_id),
        *(f"{tag}:rl:{owner}:{ms}" for owner, (_, ms) in zip((principal.mode, principal.id), windows, strict=False)),
        *(counters.counter_key(principal.organization_id, terms.period_id, counter.name) for counter in quota_counters),
    ]
    expires_at = int(terms.period_ends_at.timestamp()) + QUOTA_TTL_SECONDS
    quota_arguments = [
        (c.units, c.limit, expires_at, c.last_value if freshness else -1, c.lower_bound, c.upper_bound)
        for c in quota_counters
    ]
    arguments = [
        *(terms.generation, freshness, len(windows), *itertools.chain(*windows)),
        *(len(quota_arguments), *itertools.chain(*quota_arguments)),
    ]

    def recount() -> Sequence[QuotaCounter]:
        return _build_counters(principal, units, is_fresh=True, is_final=True)

    return LimitRequest(keys, arguments, windows, quota_counters, recount)


def hit_denied_limit(principal: KeyPrincipal) -> None:
    """Count a call that the key may not make, against the limit of that key alone.

    raises: TooManyRequests
    """
    amount, window_ms = principal.windows[-1]
    item = RateLimitItemPerSecond(amount, window_ms // 1000)
    if not limiter.limiter.limiter.hit(item, str(principal.id), "denied"):
        stats = limiter.limiter.limiter.get_window_stats(item, str(principal.id), "denied")
        wait_seconds = max(1, math.ceil(stats.reset_time - time.time()))
        raise responses.rate_limit_error(amount, window_ms // 1000, wait_seconds, "key")


def remember_decision(call: LimitRequest) -> None:
    """Cache the quantities in a decision of Redis; the price of the next call starts from them."""
    decision = call.decision
    if decision is None or decision.is_local or not decision.used:
        return
    first_counter = 1 + len(call.windows)
    for key, counter, used in zip(call.keys[first_counter:], call.counters, decision.used, strict=True):
        if not spend_cap.is_spend_counter(counter.name):
            _cached_quantities.put(key, used)


def _build_counters(
    principal: KeyPrincipal, units: Mapping[str, int], *, is_fresh: bool, is_final: bool
) -> Sequence[QuotaCounter]:
    terms = principal.terms
    if terms is None or principal.mode != KeyMode.LIVE:
        return []
    quota_counters: list[QuotaCounter] = [
        *quotas.quota_counters(principal, units, is_fresh=is_fresh, period_id=terms.period_id, limits=terms.quotas)
    ]
    if terms.cap is None or not units:
        return quota_counters
    if not is_fresh:
        quantities = _find_cached_quantities(principal.organization_id, terms, units)
        return [*quota_counters, *spend_cap.spend_counters(terms, units, quantities, None, is_final=is_final)]
    with tenancy.tenant_session(principal.organization_id) as session:
        spend = period_spend.get_period_spend(session, principal.organization_id, terms.period_id)
    return [*quota_counters, *spend_cap.spend_counters(terms, units, {}, spend, is_final=is_final)]


def _find_cached_quantities(organization_id: UUID, terms: ServiceTerms, units: Mapping[str, int]) -> Mapping[str, int]:
    names = [spend_cap.quantity_counter_name(terms.plan_version_id, meter) for meter in units]
    cached = {
        name: _cached_quantities.find(counters.counter_key(organization_id, terms.period_id, name)) for name in names
    }
    return {name: quantity for name, quantity in cached.items() if quantity is not None}
