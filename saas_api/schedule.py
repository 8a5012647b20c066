"""Keeping the timetable: every job asks what is due, so no slot needs a replay and only the newest one matters."""

import functools
import os
import platform
from collections.abc import Callable

from saas_api.core import clock, lease, queue
from saas_api.core.timetable import TIMETABLE, Entry
from saas_api.mail import service as mail
from saas_api.messages import service as messages
from saas_api.organizations import service as organizations
from saas_api.webhooks import service as webhooks

TICK = "saas_api.schedule.tick"
__all__ = ["TICK", "TIMETABLE", "Entry", "sweep", "tick"]
_DIRECT_SECONDS = 5


def tick() -> None:
    """Run every job whose newest slot nobody took; one broken job hinders no other."""
    host = f"{platform.node()}:{os.getpid()}"
    for entry in TIMETABLE:
        lease.run_slot(entry.job, entry.slot(clock.now()), host)


def sweep() -> None:
    """Announce changes and due work that no wake-up announced; without Redis, do some of the work here."""
    organizations.publish_generations()
    _announce(mail.DRAIN, mail.due, functools.partial(lease.drain, mail.DRAIN, mail.due, mail.hand_over_some))
    own = functools.partial(lease.drain, messages.DRAIN, messages.due, messages.deliver_some)
    _announce(messages.DRAIN, messages.due, own)
    _announce(webhooks.DRAIN, webhooks.due, webhooks.deliver_due)


def _announce(job: str, due: Callable[[], lease.Due[lease.Owner]], work: Callable[..., object]) -> None:
    if due().organizations and not queue.wake(job, is_forced=True):
        work(at_most_seconds=_DIRECT_SECONDS)
