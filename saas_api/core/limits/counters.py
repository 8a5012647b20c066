"""Reads and corrections of the quota counters in Redis, for jobs."""

import contextlib
from collections.abc import Mapping, Sequence
from uuid import UUID

from saas_api.core.limits import limiter
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.core.limits.direct_connections import Script
from saas_api.core.limits.limiter import LimitRequest

_ADJUST_COUNTERS = Script.of("""
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then redis.call('INCRBY', key, ARGV[i]) end
end
""")
"""Leaves alone what Redis has lost meanwhile: it is counted from PostgreSQL again."""
MAX_COUNTER_VALUE = 10**18
"""No counter exceeds it: a million millions of a meter's unit or of a currency, in millionths."""


def counter_key(organization_id: UUID, period_id: UUID, name: str) -> str:
    """Redis key of a quota counter."""
    return f"{{{organization_id}}}:q:{period_id}:{name}"


def read_counters(keys: Sequence[str]) -> list[int | None]:
    """Values of counters of one organization; None for a counter that Redis does not have.

    raises: RedisUnavailable
    """
    values = limiter.get_backend().execute(("MGET", *keys)) if keys else []
    return [None if value is None else int(value) for value in values]


def adjust_counters(changes: Mapping[str, int]) -> None:
    """Add positive or negative amounts to the counters that exist, by key.

    One round trip; in a cluster one for each organization, those of others after one that failed, too.
    raises: RedisUnavailable
    """
    amounts = {key: amount for key, amount in changes.items() if amount}
    backend, failure = limiter.get_backend(), None
    for keys in backend.group(amounts) if amounts else ():
        try:
            backend.run_script(_ADJUST_COUNTERS, keys, [amounts[key] for key in keys])
        except RedisUnavailable as error:
            failure = error
    if failure is not None:
        raise failure


def release_quota(call: LimitRequest) -> None:
    """Subtract from quotas what Redis counted for a call that was admitted and failed, once. Never raises.

    Without Redis nothing happens.
    """
    first = 1 + len(call.windows)
    pairs = zip(call.keys[first:], call.counters, strict=True) if call.is_counted else ()
    call.is_released = True
    with contextlib.suppress(RedisUnavailable):
        adjust_counters({key: -counter.units for key, counter in pairs})


def exchange_previous_excess(key: str, excess: int) -> int:
    """Store for three minutes by how much a counter seems too high.

    returns: the excess stored before; 0 without one
    raises: RedisUnavailable
    """
    previous = limiter.get_backend().execute(("SET", f"{key}:over", excess, "EX", 180, "GET"))
    return int(previous or 0)
