"""The question to the script: which windows and counters a call under a key has, and what Redis said of them last."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from saas_api.billing import service as billing
from saas_api.core import tenancy
from saas_api.core.counters import counter_key
from saas_api.core.errors import Unavailable
from saas_api.core.limits import Counter, GateCall, generation_key
from saas_api.gate.callers import KeyPrincipal
from saas_api.usage import service as usage

QUOTA_KEPT_SECONDS = 604_800
REMEMBERED_QUANTITIES = 20_000


@dataclass
class _Told:
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


_told = _Told(REMEMBERED_QUANTITIES)


def call_for(principal: KeyPrincipal, fresh: int, units: Mapping[str, int], *, is_final: bool = False) -> GateCall:
    """The question about one request.

    fresh: 1 when the principal was just read from PostgreSQL, 2 when PostgreSQL is right against Redis, else 0
    is_final: what is worked out from a quantity that others keep moving holds, even if it has moved again
    raises: Unavailable
    """
    terms = principal.terms
    if terms is None:
        raise Unavailable
    tag, windows = f"{{{principal.organization_id}}}", principal.windows
    counters = _counters(principal, units, is_fresh=fresh > 0, is_final=is_final)
    keys = [
        generation_key(principal.organization_id),
        *(f"{tag}:rl:{who}:{ms}" for who, (_, ms) in zip((principal.mode, principal.id), windows, strict=False)),
        *(counter_key(principal.organization_id, terms.period_id, counter.name) for counter in counters),
    ]
    expires_at = int(terms.period_ends_at.timestamp()) + QUOTA_KEPT_SECONDS
    quotas = [(c.units, c.ceiling, expires_at, c.known if fresh else -1, c.low, c.high) for c in counters]
    arguments = [
        *(terms.generation, fresh, len(windows), *itertools.chain(*windows)),
        *(len(quotas), *itertools.chain(*quotas)),
    ]
    return GateCall(
        keys, arguments, windows, counters, lambda: _counters(principal, units, is_fresh=True, is_final=True)
    )


def learn(call: GateCall) -> None:
    """Remember what Redis said, so that the next request is priced from there."""
    decision = call.decision
    if decision is None or decision.is_local or not decision.used:
        return
    first = 1 + len(call.windows)
    for key, counter, used in zip(call.keys[first:], call.counters, decision.used, strict=True):
        if counter.name != billing.SPEND:
            _told.keep(key, used)


def _counters(
    principal: KeyPrincipal, units: Mapping[str, int], *, is_fresh: bool, is_final: bool
) -> Sequence[Counter]:
    terms = principal.terms
    if terms is None or principal.mode != "live":
        return []
    counters: list[Counter] = [
        *usage.quota_counters(principal, units, is_fresh=is_fresh, period_id=terms.period_id, ceilings=terms.ceilings)
    ]
    if terms.cap is None or not units:
        return counters
    seed, told = None, {}
    if is_fresh:
        with tenancy.transaction(principal.organization_id) as session:
            seed = billing.spent_now(session, principal.organization_id, terms.period_id)
    else:
        names = {meter: billing.quantity_name(terms.plan_version_id, meter) for meter in units}
        found = {
            name: _told.find(counter_key(principal.organization_id, terms.period_id, name)) for name in names.values()
        }
        told = {name: quantity for name, quantity in found.items() if quantity is not None}
    return [*counters, *billing.spend_counters(terms, units, told, seed, is_final=is_final)]
