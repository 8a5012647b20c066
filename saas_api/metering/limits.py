"""The limit request of a call with an API key, its errors, and the cached quantities that price the next one."""

import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from saas_api.billing import alerts, period_spend, spend_cap
from saas_api.billing.rating.bill import PriceKey
from saas_api.billing.service_terms import ServiceTerms
from saas_api.core import clock, money
from saas_api.core.access import KeyMode
from saas_api.core.db import tenancy
from saas_api.core.errors import ApiError, ServiceUnavailable
from saas_api.core.limits import counters, limiter
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.core.limits.limiter import LimitCode, LimitRequest, QuotaCounter
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
MAX_SPEND_AGE_SECONDS, MAX_CACHED_SPENDS = 10, 5_000
_cached_quantities: LruCache[str, int] = LruCache(MAX_CACHED_QUANTITIES)
_spends: LruCache[UUID, tuple[float, str]] = LruCache(MAX_CACHED_SPENDS)


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
    windows = principal.windows
    quota_counters = _build_counters(principal, usage, is_fresh=freshness > 0, is_final=is_final)
    keys = [
        *principal.limit_keys,
        *(counters.counter_key(principal.organization_id, terms.period_id, counter.name) for counter in quota_counters),
    ]
    expires_at = int(terms.period_ends_at.timestamp()) + QUOTA_TTL_SECONDS
    quota_arguments = [
        (
            *(c.units, c.limit, expires_at, c.last_value if freshness else -1),
            *(c.lower_bound, c.upper_bound, c.limit - c.units),
        )
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
    terms, organization_id = principal.terms, principal.organization_id
    if terms is None or principal.mode != KeyMode.LIVE:
        return []
    prices = spend_cap.list_spend_prices(terms, usage)
    counted: Mapping[str, Decimal] = {}
    cached: Mapping[str, int] = {}
    spent = None
    if not is_fresh:
        cached = _find_cached_quantities(organization_id, terms.period_id, prices)
    elif prices or any(used.meter in terms.quotas for used in usage):
        # usage and open holds of one instant: a hold that is settled meanwhile is one of the two
        with tenancy.snapshot_session(organization_id) as session:
            counted = quotas.count_towards_quotas(session, organization_id, terms.period_id)
            spent = period_spend.get_period_spend(session, organization_id, terms.period_id) if prices else None
    return [
        *quotas.quota_counters(usage, counted, terms.quotas, terms.exact_meters),
        *spend_cap.spend_counters(terms, usage, cached, spent, is_final=is_final),
    ]


def _find_cached_quantities(organization_id: UUID, period_id: UUID, keys: Iterable[PriceKey]) -> Mapping[str, int]:
    names = [spend_cap.quantity_counter_name(key) for key in keys]
    cached = {name: _cached_quantities.find(counters.counter_key(organization_id, period_id, name)) for name in names}
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


@dataclass(frozen=True)
class SpendState:
    """Charges of the running period in major units, unrounded, and the cap that blocks calls; None without one."""

    used: str
    cap: str | None
    currency: str


def spend_state(principal: KeyPrincipal, call: LimitRequest | None) -> SpendState | None:
    """The spend of an organization after a call.

    It is exact where the call was counted against a cap, and otherwise at most MAX_SPEND_AGE_SECONDS old.
    """
    terms = principal.terms
    if terms is None:
        return None
    cap = money.format_minor(terms.cap.amount_minor, terms.currency) if terms.cap else None
    decision = call.decision if call else None
    if call and decision and decision.used:
        for counter, used in zip(call.counters, decision.used, strict=True):
            if spend_cap.is_spend_counter(counter.name):
                if decision.code == LimitCode.ADMITTED and call.is_released:
                    used -= counter.units  # noqa: PLW2901 - the same value, without what was given back
                return SpendState(spend_cap.spend_text(terms, used), cap, terms.currency)
    return SpendState(_find_spend(principal.organization_id, terms), cap, terms.currency)


def _find_spend(organization_id: UUID, terms: ServiceTerms) -> str:
    cached = _spends.find(terms.period_id)
    if cached is not None and time.monotonic() - cached[0] < MAX_SPEND_AGE_SECONDS:
        return cached[1]
    with tenancy.tenant_session(organization_id) as session:
        spend = period_spend.get_period_spend(session, organization_id, terms.period_id)
    text = money.format_exact_amount(spend.total_major, terms.currency)
    _spends.put(terms.period_id, (time.monotonic(), text))
    return text


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
    details = quotas.quota_details(counter.name, counter.limit, used)
    return QuotaExceeded(details={**details, "resets_at": resets_at})


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
    terms = principal.terms
    if terms is None or principal.mode != KeyMode.LIVE:
        return
    with contextlib.suppress(RedisUnavailable):
        quantities = _read_quantities_without(principal.organization_id, terms, before, after)
        counters.adjust_counters(counter_changes(principal, before, after, quantities))


def counter_changes(
    principal: KeyPrincipal,
    before: Sequence[MeteredUsage],
    after: Sequence[MeteredUsage],
    quantities: Mapping[str, int] | None = None,
) -> Mapping[str, int]:
    """What `adjust_counters` adds, by the key of the counter in Redis.

    quantities: from which the price starts, without the call, in millionths by counter; None for those that this
        process remembers
    """
    terms, organization_id = principal.terms, principal.organization_id
    changes: defaultdict[str, int] = defaultdict(int)
    if terms is None or principal.mode != KeyMode.LIVE:
        return changes
    if quantities is None:
        prices = spend_cap.list_spend_prices(terms, [*before, *after])
        quantities = _find_cached_quantities(organization_id, terms.period_id, prices)
    for sign, usage in ((-1, before), (1, after)):
        for counter in (
            *quotas.quota_counters(usage, {}, terms.quotas, terms.exact_meters),
            *spend_cap.spend_counters(terms, usage, quantities, None, is_final=True),
        ):
            changes[counters.counter_key(organization_id, terms.period_id, counter.name)] += sign * counter.units
    return changes


def _read_quantities_without(
    organization_id: UUID, terms: ServiceTerms, before: Sequence[MeteredUsage], after: Sequence[MeteredUsage]
) -> Mapping[str, int]:
    """Quantities under the prices of a call, in millionths, as Redis has them, without what it was admitted with.

    raises: RedisUnavailable
    """
    names = [spend_cap.quantity_counter_name(key) for key in spend_cap.list_spend_prices(terms, [*before, *after])]
    keys = [counters.counter_key(organization_id, terms.period_id, name) for name in names]
    values = {name: value or 0 for name, value in zip(names, counters.read_counters(keys), strict=True)}
    for key, (_, units) in spend_cap.list_spend_prices(terms, before).items():
        name = spend_cap.quantity_counter_name(key)
        values[name] = max(0, values[name] - quotas.to_micro_units(units))
    return values
