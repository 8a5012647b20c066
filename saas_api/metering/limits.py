"""The limit request of a call with an API key, its errors, and the cached quantities that price the next one."""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from saas_api.billing import alerts, period_spend, spend_cap
from saas_api.billing.service_terms import ServiceTerms
from saas_api.core import clock, money
from saas_api.core.access import KeyMode
from saas_api.core.db import tenancy
from saas_api.core.errors import ApiError, ServiceUnavailable
from saas_api.core.limits import counters, limiter
from saas_api.core.limits.limiter import LimitCode, LimitRequest, QuotaCounter, RedisUnavailable
from saas_api.metering import refusals
from saas_api.metering.key_principals import CACHE_SECONDS_WITHOUT_REDIS, KeyPrincipal
from saas_api.metering.lru_cache import LruCache
from saas_api.metering.refusals import QuotaExceeded, SpendCapReached
from saas_api.usage import quotas
from saas_api.usage.ledger import MeteredUsage

QUOTA_TTL_SECONDS = 604_800
"""Seconds after the end of the billing period for which Redis keeps its counters."""
MAX_CACHED_QUANTITIES = 20_000
MAX_LIMIT_CHECKS, FINAL_CHECK_AFTER = 8, 5
_cached_quantities: LruCache[str, int] = LruCache(MAX_CACHED_QUANTITIES)


def build_limit_request(
    principal: KeyPrincipal, freshness: int, usage: Sequence[MeteredUsage], *, is_final: bool = False
) -> LimitRequest:
    """Build the keys and arguments of the script that decides on one call.

    freshness: 1 when the principal was just read from PostgreSQL, 2 when PostgreSQL overrules Redis, else 0
    usage: what the call uses, as far as it is known before
    is_final: accept the price even when concurrent calls change the quantity that it depends on
    raises: ServiceUnavailable
    """
    terms = principal.terms
    if terms is None:
        raise ServiceUnavailable
    tag, windows = f"{{{principal.organization_id}}}", principal.windows
    quota_counters = _build_counters(principal, usage, is_fresh=freshness > 0, is_final=is_final)
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
        return _build_counters(principal, usage, is_fresh=True, is_final=True)

    return LimitRequest(keys, arguments, windows, quota_counters, recount)


def _remember_quantities(call: LimitRequest) -> None:
    """Cache the quantities in a decision of Redis; the price of the next call starts from them."""
    decision = call.decision
    if decision is None or decision.is_local or not decision.used:
        return
    first_counter = 1 + len(call.windows)
    for key, counter, used in zip(call.keys[first_counter:], call.counters, decision.used, strict=True):
        if not spend_cap.is_spend_counter(counter.name):
            _cached_quantities.put(key, used)


def _build_counters(
    principal: KeyPrincipal, usage: Sequence[MeteredUsage], *, is_fresh: bool, is_final: bool
) -> Sequence[QuotaCounter]:
    terms = principal.terms
    units = {used.meter: int(used.quantity) for used in usage}
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


def limit_exceeded_error(principal: KeyPrincipal, call: LimitRequest) -> ApiError:
    """The error of the window, quota or spend cap that the decision found full."""
    decision, terms = call.decision, principal.terms
    if decision is None or terms is None:
        raise ServiceUnavailable
    window_count = len(call.windows)
    if decision.full > window_count:
        index = decision.full - window_count - 1
        counter = call.counters[index]
        used = decision.used[index] if decision.used else counter.last_value
        return _counter_error(principal.organization_id, terms, counter, used)
    limit, window_ms = call.windows[decision.full - 1]
    wait_seconds = -(-decision.windows[decision.full - 1][1] // 1000)
    scope = "organization" if decision.full == 1 else "key"
    return refusals.rate_limit_error(limit, window_ms // 1000, wait_seconds, scope)


def require_room(principal: KeyPrincipal, usage: Sequence[MeteredUsage]) -> None:
    """Compare quotas and cap with PostgreSQL; exact while the caller holds the lock of `recording.lock_limits`.

    raises: QuotaExceeded, SpendCapReached
    """
    terms = principal.terms
    if terms is None:
        raise ServiceUnavailable
    for counter in _build_counters(principal, usage, is_fresh=True, is_final=True):
        if counter.limit != -1 and counter.last_value + counter.units > counter.limit:
            raise _counter_error(principal.organization_id, terms, counter, counter.last_value)


def _counter_error(organization_id: UUID, terms: ServiceTerms, counter: QuotaCounter, used: int) -> ApiError:
    if spend_cap.is_spend_counter(counter.name):
        return _spend_cap_error(organization_id, terms, used)
    resets_at = clock.format_rfc3339(terms.period_ends_at)
    return QuotaExceeded(details={"meter": counter.name, "limit": counter.limit, "used": used, "resets_at": resets_at})


def _spend_cap_error(organization_id: UUID, terms: ServiceTerms, used: int) -> SpendCapReached:
    alerts.notify_cap_reached(organization_id, terms.period_id)
    cap = money.format_minor(terms.cap.amount_minor if terms.cap else 0, terms.currency)
    details = {"cap": cap, "spent": spend_cap.spend_text(terms, used), "currency": terms.currency}
    return SpendCapReached(details=details)


def confirm_decision(
    call: LimitRequest,
    principal: KeyPrincipal,
    usage: Sequence[MeteredUsage],
    reload_principal: Callable[[], KeyPrincipal],
) -> tuple[LimitRequest, KeyPrincipal]:
    """Decide again until the decision is based on the current principal and counters, refusals included.

    call: with a decision
    reload_principal: reads the principal from PostgreSQL and checks it; its errors are raised
    returns: the last call with its decision, and the principal that it is based on
    raises: ServiceUnavailable after MAX_LIMIT_CHECKS decisions
    """
    previous_generation = None
    for check in range(MAX_LIMIT_CHECKS):
        decision = call.decision
        if decision is None:
            raise ServiceUnavailable
        _remember_quantities(call)
        is_current = not decision.is_local or principal.age_seconds < CACHE_SECONDS_WITHOUT_REDIS
        if decision.code.is_refusal or (decision.code.is_final and is_current):
            return call, principal
        freshness = 0
        if decision.code != LimitCode.COUNTER_OUT_OF_BOUNDS:
            principal = reload_principal()
            if decision.is_local:
                return call, principal
            is_repeated = decision.code == LimitCode.STALE_GENERATION and decision.generation == previous_generation
            freshness = 2 if is_repeated else 1
            previous_generation = decision.generation
        call = build_limit_request(principal, freshness, usage, is_final=check >= FINAL_CHECK_AFTER)
        limiter.decide(call)
    raise ServiceUnavailable(retry_after=1)


def adjust_counters(principal: KeyPrincipal, before: Sequence[MeteredUsage], after: Sequence[MeteredUsage]) -> None:
    """Correct the counters in Redis of a call that was admitted with one usage and has another. Never raises.

    Without Redis nothing happens: the counters are read from PostgreSQL when it is back.
    """
    with contextlib.suppress(RedisUnavailable):
        counters.adjust_counters(counter_changes(principal, before, after))


def counter_changes(
    principal: KeyPrincipal, before: Sequence[MeteredUsage], after: Sequence[MeteredUsage]
) -> Mapping[str, int]:
    """What `adjust_counters` adds, by the key of the counter in Redis."""
    terms = principal.terms
    if terms is None:
        return {}
    units: defaultdict[str, int] = defaultdict(int)
    for sign, usage in ((-1, before), (1, after)):
        for counter in _build_counters(principal, usage, is_fresh=False, is_final=True):
            units[counters.counter_key(principal.organization_id, terms.period_id, counter.name)] += (
                sign * counter.units
            )
    return units
