"""Fault_point: the points where the fault tests interrupt the product."""

import os
import signal
import time

active_fault: list[str] = []
_fault_hits: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Strike here when the fault tests asked for it: FAULT=name:kill|raise|sleep=2[:nth], inert unless APP_FAULTS=1."""
    if not active_fault:
        return
    wanted, _, rest = active_fault[0].partition(":")
    if wanted != name:
        return
    action, _, nth = rest.partition(":")
    _fault_hits[name] = _fault_hits.get(name, 0) + 1
    if _fault_hits[name] != int(nth or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise RuntimeError(f"fault {name}")
    elif action.startswith("sleep="):
        time.sleep(int(action.removeprefix("sleep=")))
