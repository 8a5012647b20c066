"""When a mail that was not taken is tried again, and when it is given up."""

import random
from datetime import timedelta

LAST_ATTEMPT = 8
POISONED_AFTER = 10
WITH_TOKENS = ("verify_email", "reset_password", "invitation")
"""Templates whose mails hold a one-time token."""
_RETRY_SECONDS = (5, 30, 120, 600, 1_800, 3_600, 7_200)


def retry_delay(attempt: int) -> timedelta:
    """Time until the next try.

    attempt: the one that failed, from 1
    """
    planned = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS)) - 1]
    return timedelta(seconds=planned * random.uniform(0.8, 1.2))  # noqa: S311 - spreads tries, guards nothing
