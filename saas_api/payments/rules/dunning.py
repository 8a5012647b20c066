"""When an unpaid invoice is pursued, and how far."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

SCHEDULE = (
    (0, "remind"),
    (3, "remind"),
    (5, "warn"),
    (7, "restrict"),
    (10, "remind"),
    (14, "suspend"),
    (30, "write_off"),
)
LATE = timedelta(hours=24)


@dataclass(frozen=True)
class Step:
    """One step of a pursuit.

    day: after the invoice was due
    """

    ordinal: int
    day: int
    action: str
    run_at: datetime


def steps(due_at: datetime) -> Iterator[Step]:
    """Every step of the pursuit of an invoice that is due then."""
    for ordinal, (day, action) in enumerate(SCHEDULE, start=1):
        yield Step(ordinal, day, action, due_at + timedelta(days=day))


def shift(run_at: datetime, done_at: datetime) -> timedelta:
    """By how much later steps move when one was done late, so that nobody loses the time between them."""
    late = done_at - run_at
    return late if late > LATE else timedelta(0)


def standing(actions: Collection[str]) -> str:
    """The standing that done steps of unpaid invoices lead to."""
    if "suspend" in actions:
        return "suspended"
    return "restricted" if "restrict" in actions else "good"
