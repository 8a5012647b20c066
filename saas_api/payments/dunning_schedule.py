"""Steps of a dunning run; pure."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

DUNNING_SCHEDULE = (
    (0, "remind"),
    (3, "remind"),
    (5, "warn"),
    (7, "restrict"),
    (10, "remind"),
    (14, "suspend"),
    (30, "write_off"),
)
LATE_AFTER = timedelta(hours=24)


@dataclass(frozen=True)
class DunningStepPlan:
    """One step of a pursuit.

    day: after the invoice was due
    """

    ordinal: int
    day: int
    action: str
    run_at: datetime


def plan_steps(due_at: datetime) -> Iterator[DunningStepPlan]:
    """Every step of the pursuit of an invoice that is due then."""
    for ordinal, (day, action) in enumerate(DUNNING_SCHEDULE, start=1):
        yield DunningStepPlan(ordinal, day, action, due_at + timedelta(days=day))


def later_steps_shift(run_at: datetime, done_at: datetime) -> timedelta:
    """By how much later steps move when one was done late, so that nobody loses the time between them."""
    late = done_at - run_at
    return late if late > LATE_AFTER else timedelta(0)


def standing_after(actions: Collection[str]) -> str:
    """The standing that done steps of unpaid invoices lead to."""
    if "suspend" in actions:
        return "suspended"
    return "restricted" if "restrict" in actions else "good"
