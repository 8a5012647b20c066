"""Points at which the fault tests interrupt the product."""

import os
import signal
import time

active_fault: list[str] = []
"""The setting FAULT, or nothing: set by `observability.configure_logging`."""
_hits: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Kill the process, raise or sleep when FAULT=name:kill|raise|sleep=2[:nth] names this point and APP_FAULTS=1."""
    if not active_fault:
        return
    active_name, _, rest = active_fault[0].partition(":")
    if active_name != name:
        return
    action, _, nth = rest.partition(":")
    _hits[name] = _hits.get(name, 0) + 1
    if _hits[name] != int(nth or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise RuntimeError(f"fault {name}")
    elif action.startswith("sleep="):
        time.sleep(int(action.removeprefix("sleep=")))
