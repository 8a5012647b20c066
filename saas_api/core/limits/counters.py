"""Read, correct and exchange quota counters from jobs."""

from collections.abc import Sequence
from uuid import UUID

from saas_api.core.limits import limiter

_CORRECT = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('INCRBY', KEYS[1], ARGV[1]) end"


def counter_key(organization_id: UUID, period_id: UUID, name: str) -> str:
    """Where Redis keeps one of the gate's counters."""
    return f"{{{organization_id}}}:q:{period_id}:{name}"


def read_counters(keys: Sequence[str]) -> list[int | None]:
    """What counters say; None for one that Redis has not.

    raises: Away
    """
    values = limiter.get_storage().run(limiter.get_storage().storage.mget, keys) if keys else []
    return [None if value is None else int(value) for value in values]


def adjust_counter(key: str, amount: int) -> None:
    """Add to a counter, or take away, unless Redis has lost it meanwhile.

    raises: Away
    """
    limiter.get_storage().run(limiter.get_storage().storage.eval, _CORRECT, 1, key, amount)


def exchange_previous_excess(key: str, excess: int) -> int:
    """Remember for three minutes by how much a counter seemed too high; returns what was remembered before.

    raises: Away
    """
    return int(
        limiter.get_storage().run(lambda: limiter.get_storage().storage.set(f"{key}:over", excess, ex=180, get=True))
        or 0
    )
