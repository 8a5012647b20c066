"""Retry delays of deliveries; pure."""

import random
from email.utils import parsedate_to_datetime

MAX_ATTEMPTS = 10
MAX_INTERRUPTIONS = 10
_STEPS_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
_OVERLOAD_STATUSES = frozenset({429, 502, 503, 504})
_OVERLOADED_SECONDS = 60


def parse_retry_after(header: str | None, now: float) -> int | None:
    """What a Retry-After asks for; None where it asks for nothing that can be read.

    now: Unix time
    source: RFC 9110, 10.2.3: seconds, or an HTTP-date
    """
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return int(header[:9])
    try:
        at = parsedate_to_datetime(header)
        return max(0, round(at.timestamp() - now))
    except (ValueError, OverflowError):
        return None


def retry_delay_seconds(failed: int, status: int | None, asked: int | None) -> float:
    """Time until the next try, spread by a fifth.

    failed: tries that have failed, from 1
    status: of the answer; None where there was none in time, 0 where the connection failed
    asked: seconds the receiver asked for; honoured between once and twice the step
    """
    step = float(_STEPS_SECONDS[min(failed, len(_STEPS_SECONDS)) - 1])
    if status is None or status in _OVERLOAD_STATUSES:
        step = max(step, _OVERLOADED_SECONDS)
    if asked is not None:
        return min(max(float(asked), step), 2 * step)
    return step * random.uniform(0.8, 1.2)  # noqa: S311 - spreads tries, guards nothing
