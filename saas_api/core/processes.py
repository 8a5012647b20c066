"""Processes of the operating system."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8


def share_heap() -> None:
    """Let all threads allocate from one heap; glibc gives each its own, and each keeps what its thread once needed."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        libc.mallopt(_M_ARENA_MAX, 1)


def parent_death_signal(number: signal.Signals) -> Callable[[], None] | None:
    """A function after which Linux signals this process when its parent dies; None elsewhere."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def request_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)

    return request_signal
