"""Processes of the operating system."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def parent_death_signal(number: signal.Signals) -> Callable[[], None] | None:
    """A function after which Linux signals this process when its parent dies; None elsewhere."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def request_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)

    return request_signal
