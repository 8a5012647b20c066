"""Retry delays of deliveries. Pure."""

import random
from email.utils import parsedate_to_datetime

MAX_ATTEMPTS = 10
MAX_INTERRUPTIONS = 10
_DELAYS_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
_OVERLOAD_STATUSES = frozenset({429, 502, 503, 504})
_MIN_OVERLOAD_DELAY_SECONDS = 60


def parse_retry_after(header: str | None, now: float) -> int | None:
    """Return the seconds that a Retry-After header asks for, or None when it is absent or malformed.

    now: Unix time
    source: RFC 9110, 10.2.3: seconds, or an HTTP-date
    """
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return int(header[:9])
    try:
        return max(0, round(parsedate_to_datetime(header).timestamp() - now))
    except (ValueError, OverflowError):
        return None


def retry_delay_seconds(failed_attempts: int, status: int | None, retry_after: int | None) -> float:
    """Return the seconds until the next attempt, spread by a fifth.

    failed_attempts: from 1
    status: HTTP status of the response; None for a timeout, 0 for a failed connection
    retry_after: seconds that the endpoint asked for; honored from one to two times the scheduled delay
    """
    delay = float(_DELAYS_SECONDS[min(failed_attempts, len(_DELAYS_SECONDS)) - 1])
    if status is None or status in _OVERLOAD_STATUSES:
        delay = max(delay, _MIN_OVERLOAD_DELAY_SECONDS)
    if retry_after is not None:
        return min(max(float(retry_after), delay), 2 * delay)
    return delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads attempts, guards nothing
