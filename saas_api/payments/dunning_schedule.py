"""Steps of a dunning run and the standing that they lead to; pure."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class DunningAction(StrEnum):
    """Effect of a dunning step."""

    REMIND = "remind"
    WARN = "warn"
    RESTRICT = "restrict"
    SUSPEND = "suspend"
    WRITE_OFF = "write_off"


DUNNING_SCHEDULE = (
    (0, DunningAction.REMIND),
    (3, DunningAction.REMIND),
    (5, DunningAction.WARN),
    (7, DunningAction.RESTRICT),
    (10, DunningAction.REMIND),
    (14, DunningAction.SUSPEND),
    (30, DunningAction.WRITE_OFF),
)
"""Days after the due date, and the action."""
LATE_AFTER = timedelta(hours=24)


@dataclass(frozen=True)
class DunningStepPlan:
    """One step of a dunning run.

    ordinal: from 1
    day: days after the due date
    """

    ordinal: int
    day: int
    action: DunningAction
    run_at: datetime


def plan_steps(due_at: datetime) -> Iterator[DunningStepPlan]:
    """The steps of a dunning run for an invoice with this due date, in order."""
    for ordinal, (day, action) in enumerate(DUNNING_SCHEDULE, start=1):
        yield DunningStepPlan(ordinal, day, action, due_at + timedelta(days=day))


def later_steps_shift(run_at: datetime, done_at: datetime) -> timedelta:
    """How much later the following steps run when one ran late, so that the time between them stays the same."""
    delay = done_at - run_at
    return delay if delay > LATE_AFTER else timedelta(0)


def standing_after(actions: Collection[str]) -> str:
    """The standing of an organization after these steps for its unpaid invoices."""
    if DunningAction.SUSPEND in actions:
        return "suspended"
    return "restricted" if DunningAction.RESTRICT in actions else "good"
