"""Reads and corrections of the quota counters in Redis, for jobs."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from saas_api.core.limits import limiter

MAX_COUNTER_VALUE = 10**18
"""No counter exceeds it: a million millions of a meter's unit or of a currency, in millionths."""


def counter_key(organization_id: UUID, period_id: UUID, name: str) -> str:
    """Redis key of a quota counter."""
    return f"{{{organization_id}}}:q:{period_id}:{name}"


def read_counters(keys: Sequence[str]) -> list[int | None]:
    """Values of counters; None for a counter that Redis does not have.

    raises: RedisUnavailable
    """
    storage = limiter.get_storage()
    values = storage.run(storage.storage.mget, keys) if keys else []
    return [None if value is None else int(value) for value in values]


def adjust_counters(changes: Mapping[str, int]) -> None:
    """Add positive or negative amounts to the counters that exist, by key, in one round trip.

    raises: RedisUnavailable
    """
    amounts = {key: amount for key, amount in changes.items() if amount}
    if amounts:
        storage = limiter.get_storage()
        storage.run(storage.adjust_script, list(amounts), list(amounts.values()))


def exchange_previous_excess(key: str, excess: int) -> int:
    """Store for three minutes by how much a counter seems too high.

    returns: the excess stored before; 0 without one
    raises: RedisUnavailable
    """
    storage = limiter.get_storage()
    previous = storage.run(lambda: storage.storage.set(f"{key}:over", excess, ex=180, get=True))
    return int(previous or 0)
