"""DueOwners, drain_queue, and claim / finish / retry / give back for a claimable table."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rq.timeouts import JobTimeoutException

from saas_api.core.jobs import counters, queue
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)


Owner = TypeVar("Owner")

LOOKAHEAD_SECONDS = 20.0
_IDLE_POLL_SECONDS = 0.1
_LOOKAHEAD_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class DueOwners(Generic[Owner]):
    """Whose work is due now, and in how many seconds the next will be (None: not soon).

    organizations: by id; None among them is the platform itself
    """

    owners: Sequence[Owner]
    next_seconds: float | None


def drain_queue(
    job: str,
    due: Callable[[], DueOwners[Owner]],
    turn: Callable[[Owner], object],
    *,
    at_most_seconds: float | None = None,
) -> None:
    """Give every organization with due work one turn after another, until twice nothing is due or time is up.

    turn: works off a bounded part of one organization's rows, so that nobody waits for another's backlog
    at_most_seconds: less than a job's usual time, for the scheduler
    """
    queue.allow_next_wake(job)
    deadline = time.monotonic() + (at_most_seconds or setting("DRAIN_SECONDS"))
    try:
        is_done = _drain_rounds(due, turn, deadline)
    finally:
        counters.flush_counters()
    if not is_done:
        queue.wake_workers(job, is_forced=True)


def _drain_rounds(due: Callable[[], DueOwners[Owner]], turn: Callable[[Owner], object], deadline: float) -> bool:
    """Go round until nothing is left, which is returned, or there is no more time for it."""
    empty = 0
    failed: set[Owner] = set()
    while empty < 2 and time.monotonic() < deadline:
        if queue.is_stopping():
            return True  # others go on
        found = due()
        organizations = [one for one in found.owners if one not in failed]
        for organization_id in random.sample(organizations, len(organizations)):
            if queue.is_stopping() or time.monotonic() >= deadline:
                break
            _process_owner_safely(turn, organization_id, failed)
        if organizations:
            empty = 0
        elif found.next_seconds is not None and found.next_seconds <= deadline - time.monotonic():
            time.sleep(_LOOKAHEAD_POLL_SECONDS)
        else:
            empty += 1
            time.sleep(_IDLE_POLL_SECONDS if empty < 2 else 0)
    return empty >= 2


def _process_owner_safely(turn: Callable[[Owner], object], owner: Owner, failed: set[Owner]) -> None:
    try:
        turn(owner)
    except JobTimeoutException:
        raise
    except Exception:  # one organization's trouble must not hold up another's work
        log.exception("turn_failed", organization_id=str(owner))
        failed.add(owner)
