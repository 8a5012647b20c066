"""Running what is due: every job reads what there is to do, so no slot needs a replay and only the newest matters."""

import os
import platform

from saas_api.core import clock, lease, queue
from saas_api.core.timetable import Drain, drains, scheduled_jobs, sweeps

TICK = "saas_api.schedule.tick"
_DIRECT_SECONDS = 5


def tick() -> None:
    """Run every job whose newest slot nobody took; one broken job hinders no other."""
    host = f"{platform.node()}:{os.getpid()}"
    for entry in scheduled_jobs():
        lease.run_slot(entry.job, entry.slot(clock.now()), host)


def sweep() -> None:
    """Call every sweep, and wake the drains that have due work; without Redis, do some of the work here."""
    for run in sweeps():
        run()
    for drain in drains():
        _announce(drain)


def _announce(drain: Drain) -> None:
    if drain.due().organizations and not queue.wake(drain.job, is_forced=True):
        drain.run(at_most_seconds=_DIRECT_SECONDS)
