"""The limit request of a call and what is remembered of its decision."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saas_api.billing import period_spend, spend_cap
from saas_api.billing.spend_cap import SPEND_COUNTER
from saas_api.core.db import tenancy
from saas_api.core.errors import ServiceUnavailable
from saas_api.core.limits import counters, limiter
from saas_api.core.limits.limiter import LimitRequest, QuotaCounter
from saas_api.gate.credentials import KeyPrincipal
from saas_api.usage import quotas

QUOTA_TTL_SECONDS = 604_800
MAX_CACHED_QUANTITIES = 20_000


@dataclass
class _KnownCounter:
    """Quantities by key as Redis said them last, the least recently used forgotten first."""

    limit: int
    entries: OrderedDict[str, int] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, key: str) -> int | None:
        with self.lock:
            return self.entries.get(key)

    def keep(self, key: str, quantity: int) -> None:
        with self.lock:
            self.entries[key] = quantity
            self.entries.move_to_end(key)
            if len(self.entries) > self.limit:
                self.entries.popitem(last=False)


_known_counters = _KnownCounter(MAX_CACHED_QUANTITIES)


def build_limit_request(
    principal: KeyPrincipal, fresh: int, units: Mapping[str, int], *, is_final: bool = False
) -> LimitRequest:
    """The question about one request.

    fresh: 1 when the principal was just read from PostgreSQL, 2 when PostgreSQL is right against Redis, else 0
    is_final: what is worked out from a quantity that others keep moving holds, even if it has moved again
    raises: Unavailable
    """
    terms = principal.terms
    if terms is None:
        raise ServiceUnavailable
    tag, windows = f"{{{principal.organization_id}}}", principal.windows
    quota_counters = _counters(principal, units, is_fresh=fresh > 0, is_final=is_final)
    keys = [
        limiter.generation_key(principal.organization_id),
        *(f"{tag}:rl:{who}:{ms}" for who, (_, ms) in zip((principal.mode, principal.id), windows, strict=False)),
        *(counters.counter_key(principal.organization_id, terms.period_id, counter.name) for counter in quota_counters),
    ]
    expires_at = int(terms.period_ends_at.timestamp()) + QUOTA_TTL_SECONDS
    quotas = [
        (c.units, c.ceiling, expires_at, c.last_value if fresh else -1, c.lower_bound, c.upper_bound)
        for c in quota_counters
    ]
    arguments = [
        *(terms.generation, fresh, len(windows), *itertools.chain(*windows)),
        *(len(quotas), *itertools.chain(*quotas)),
    ]
    return LimitRequest(
        keys, arguments, windows, quota_counters, lambda: _counters(principal, units, is_fresh=True, is_final=True)
    )


def remember_decision(call: LimitRequest) -> None:
    """Remember what Redis said, so that the next request is priced from there."""
    decision = call.decision
    if decision is None or decision.is_local or not decision.used:
        return
    first = 1 + len(call.windows)
    for key, counter, used in zip(call.keys[first:], call.counters, decision.used, strict=True):
        if counter.name != SPEND_COUNTER:
            _known_counters.keep(key, used)


def _counters(
    principal: KeyPrincipal, units: Mapping[str, int], *, is_fresh: bool, is_final: bool
) -> Sequence[QuotaCounter]:
    terms = principal.terms
    if terms is None or principal.mode != "live":
        return []
    quota_counters: list[QuotaCounter] = [
        *quotas.quota_counters(principal, units, is_fresh=is_fresh, period_id=terms.period_id, limits=terms.quotas)
    ]
    if terms.cap is None or not units:
        return quota_counters
    seed, told = None, {}
    if is_fresh:
        with tenancy.tenant_session(principal.organization_id) as session:
            seed = period_spend.get_period_spend(session, principal.organization_id, terms.period_id)
    else:
        names = {meter: spend_cap.quantity_counter_name(terms.plan_version_id, meter) for meter in units}
        found = {
            name: _known_counters.find(counters.counter_key(principal.organization_id, terms.period_id, name))
            for name in names.values()
        }
        told = {name: quantity for name, quantity in found.items() if quantity is not None}
    return [*quota_counters, *spend_cap.spend_counters(terms, units, told, seed, is_final=is_final)]
