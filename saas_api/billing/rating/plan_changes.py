"""Segments before and after a change; difference of two bills."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from saas_api.billing.rating.bill import Bill, ProratedSegment


@dataclass(frozen=True)
class PlanSegment:
    """A plan version from an instant on, until the next stage begins."""

    version_id: str
    starts_at: datetime


@dataclass(frozen=True)
class LineDifference:
    """What a change adds to one line of a bill.

    amount_minor: below 0 for a part that is no longer charged
    """

    kind: str
    description: str
    version_id: str | None
    meter: str | None
    amount_minor: int


def segment_at(stages: Sequence[PlanSegment], at: datetime) -> PlanSegment:
    """The stage that contains an instant; the first one where it lies before all."""
    return next((stage for stage in reversed(stages) if stage.starts_at <= at), stages[0])


def next_segment(stages: Sequence[PlanSegment], at: datetime) -> PlanSegment | None:
    """The next stage that has not begun."""
    return next((stage for stage in stages if stage.starts_at > at), None)


def apply_change(
    stages: Sequence[PlanSegment], version_id: str, now: datetime, effective_at: datetime
) -> list[PlanSegment]:
    """The stages after a change; whatever was planned for later is dropped.

    effective_at: >= now
    returns: the same stages where nothing changes
    """
    kept = [stage for stage in stages if stage.starts_at <= now and stage.starts_at < effective_at]
    if kept and kept[-1].version_id == version_id:
        return kept
    return [*kept, PlanSegment(version_id, effective_at)]


def prorate_segments(
    stages: Sequence[PlanSegment], starts_at: datetime, ends_at: datetime
) -> tuple[ProratedSegment, ...]:
    """The parts of a period, each under its version."""
    ends = [*(stage.starts_at for stage in stages[1:]), ends_at]
    bounded = (
        ProratedSegment(stage.version_id, max(stage.starts_at, starts_at), min(end, ends_at))
        for stage, end in zip(stages, ends, strict=True)
    )
    return tuple(stretch for stretch in bounded if stretch.starts_at < stretch.ends_at)


def diff_bills(before: Bill, after: Bill) -> tuple[LineDifference, ...]:
    """Line by line what turns one bill into the other: what falls away first, then what is added."""
    old = {line.source_key: line for line in before.lines}
    new = {line.source_key: line for line in after.lines}
    found = []
    for key in dict.fromkeys((*old, *new)):
        line = new.get(key) or old[key]
        amount = (new[key].amount_minor if key in new else 0) - (old[key].amount_minor if key in old else 0)
        if amount:
            unused = ", unused part" if line.kind == "base" and amount < 0 else ""
            found.append(LineDifference(line.kind, line.description + unused, line.version_id, line.meter, amount))
    return tuple(found)
