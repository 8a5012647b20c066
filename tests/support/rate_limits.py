"""Keeps a test of rate limits within one minute."""

import time


def stay_within_a_minute(seconds: float) -> None:
    """Wait for the next minute when less than `seconds` are left, because rate limits count per clock minute."""
    left = 60 - time.time() % 60
    if left < seconds:
        time.sleep(left + 0.05)
