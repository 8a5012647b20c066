"""Subscription segments before and after a plan change, and the difference between two bills."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from saas_api.billing.rating.bill import Bill, LineKind, ProratedSegment


class Pause(NamedTuple):
    """A time in which neither base amounts nor minimums are charged; `ends_at` is None while it lasts."""

    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True)
class PlanSegment:
    """A plan version in force from an instant until the next segment starts."""

    version_id: str
    starts_at: datetime


@dataclass(frozen=True)
class LineDifference:
    """Difference of one line between two bills.

    amount_minor: below 0 for a part that is no longer charged
    """

    kind: LineKind
    description: str
    version_id: str | None
    meter: str | None
    amount_minor: int


def segment_at(segments: Sequence[PlanSegment], at: datetime) -> PlanSegment:
    """The segment in force at an instant; the first segment for an instant before all of them."""
    return next((segment for segment in reversed(segments) if segment.starts_at <= at), segments[0])


def next_segment(segments: Sequence[PlanSegment], at: datetime) -> PlanSegment | None:
    """The first segment that starts after an instant."""
    return next((segment for segment in segments if segment.starts_at > at), None)


def apply_change(
    segments: Sequence[PlanSegment], version_id: str, now: datetime, effective_at: datetime
) -> list[PlanSegment]:
    """Segments after a plan change; it replaces changes that were scheduled before.

    effective_at: >= now
    returns: the segments without an added one if the version is in force already
    """
    past = [segment for segment in segments if segment.starts_at <= now and segment.starts_at < effective_at]
    if past and past[-1].version_id == version_id:
        return past
    return [*past, PlanSegment(version_id, effective_at)]


def replace_period(segments: Sequence[PlanSegment], starts_at: datetime, version_id: str) -> list[PlanSegment]:
    """Segments with another version in force from the start of a period on, instead of all that were."""
    return [*(segment for segment in segments if segment.starts_at < starts_at), PlanSegment(version_id, starts_at)]


def prorate_segments(
    segments: Sequence[PlanSegment], starts_at: datetime, ends_at: datetime, pauses: Sequence[Pause] = ()
) -> tuple[ProratedSegment, ...]:
    """Divide a period by the versions in force, without its pauses."""
    ends = [*(segment.starts_at for segment in segments[1:]), ends_at]
    bounded = (
        ProratedSegment(segment.version_id, max(segment.starts_at, starts_at), min(end, ends_at))
        for segment, end in zip(segments, ends, strict=True)
    )
    return exclude_pauses(tuple(part for part in bounded if part.starts_at < part.ends_at), pauses)


def exclude_pauses(parts: tuple[ProratedSegment, ...], pauses: Sequence[Pause]) -> tuple[ProratedSegment, ...]:
    """The parts of a period outside its pauses.

    parts: in order
    returns: the last part without length if it is paused all the time, so that its version still ends the period
    """
    charged = parts
    for pause in pauses:
        charged = tuple(
            replace(part, starts_at=starts_at, ends_at=ends_at)
            for part in charged
            for starts_at, ends_at in (
                (part.starts_at, min(part.ends_at, pause.starts_at)),
                (max(part.starts_at, pause.ends_at or part.ends_at), part.ends_at),
            )
            if starts_at < ends_at
        )
    if charged == parts or (charged and charged[-1].version_id == parts[-1].version_id):
        return charged
    return (*charged, replace(parts[-1], starts_at=parts[-1].ends_at))


def diff_bills(before: Bill, after: Bill) -> tuple[LineDifference, ...]:
    """Differences line by line: lines of the old bill first, then added lines; equal lines are left out."""
    old = {line.source_key: line for line in before.lines}
    new = {line.source_key: line for line in after.lines}
    differences = []
    for key in dict.fromkeys((*old, *new)):
        line = new.get(key) or old[key]
        amount = (new[key].amount_minor if key in new else 0) - (old[key].amount_minor if key in old else 0)
        if amount:
            unused = ", unused part" if line.kind == LineKind.BASE and amount < 0 else ""
            differences.append(
                LineDifference(line.kind, line.description + unused, line.version_id, line.meter, amount)
            )
    return tuple(differences)
