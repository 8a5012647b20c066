"""Retry delays of messages and mails; pure."""

import random
from datetime import timedelta

MAX_ATTEMPTS = 8
MAX_INTERRUPTIONS = 10
_RETRY_SECONDS = (5, 30, 120, 600, 1_800, 3_600, 7_200)
_MAX_RETRY_AFTER_SECONDS = 3_600


def retry_delay(attempt: int, retry_after_seconds: int | None = None) -> timedelta:
    """Return the time until the next attempt.

    attempt: number of the failed attempt, from 1
    retry_after_seconds: wish of the provider, honoured up to an hour
    """
    if retry_after_seconds is not None:
        return timedelta(seconds=min(max(retry_after_seconds, 1), _MAX_RETRY_AFTER_SECONDS))
    return timedelta(seconds=_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS)) - 1] * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
