"""Changing a plan, before anything is written: what is in force when, and what a change does to a bill."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from saas_api.billing.rules.bill import Draft, Stretch


@dataclass(frozen=True)
class Stage:
    """A plan version from an instant on, until the next stage begins."""

    version_id: str
    starts_at: datetime


@dataclass(frozen=True)
class Shift:
    """What a change adds to one line of a bill.

    amount_minor: below 0 for a part that is no longer charged
    """

    kind: str
    description: str
    version_id: str | None
    meter: str | None
    amount_minor: int


def in_force(stages: Sequence[Stage], at: datetime) -> Stage:
    """The stage that contains an instant; the first one where it lies before all."""
    return next((stage for stage in reversed(stages) if stage.starts_at <= at), stages[0])


def scheduled(stages: Sequence[Stage], at: datetime) -> Stage | None:
    """The next stage that has not begun."""
    return next((stage for stage in stages if stage.starts_at > at), None)


def replan(stages: Sequence[Stage], version_id: str, now: datetime, effective_at: datetime) -> list[Stage]:
    """The stages after a change; whatever was planned for later is dropped.

    effective_at: >= now
    returns: the same stages where nothing changes
    """
    kept = [stage for stage in stages if stage.starts_at <= now and stage.starts_at < effective_at]
    if kept and kept[-1].version_id == version_id:
        return kept
    return [*kept, Stage(version_id, effective_at)]


def stretches(stages: Sequence[Stage], starts_at: datetime, ends_at: datetime) -> tuple[Stretch, ...]:
    """The parts of a period, each under its version."""
    ends = [*(stage.starts_at for stage in stages[1:]), ends_at]
    bounded = (
        Stretch(stage.version_id, max(stage.starts_at, starts_at), min(end, ends_at))
        for stage, end in zip(stages, ends, strict=True)
    )
    return tuple(stretch for stretch in bounded if stretch.starts_at < stretch.ends_at)


def shifts(before: Draft, after: Draft) -> tuple[Shift, ...]:
    """Line by line what turns one bill into the other: what falls away first, then what is added."""
    old = {line.source_key: line for line in before.lines}
    new = {line.source_key: line for line in after.lines}
    found = []
    for key in dict.fromkeys((*old, *new)):
        line = new.get(key) or old[key]
        amount = (new[key].amount_minor if key in new else 0) - (old[key].amount_minor if key in old else 0)
        if amount:
            unused = ", unused part" if line.kind == "base" and amount < 0 else ""
            found.append(Shift(line.kind, line.description + unused, line.version_id, line.meter, amount))
    return tuple(found)
