"""Boundaries of billing periods: local midnights of the billing day of each month."""

import calendar
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MIN_FIRST_PERIOD = timedelta(days=1)
MIN_PERIOD = timedelta(days=20)


def grid_boundary(month: int, anchor_day: int, zone: ZoneInfo) -> datetime:
    """Local midnight of the anchor day, or of the month's last day where the month is shorter.

    month: counted from year 0: 12 * year + month - 1
    returns: in UTC; where clocks skip midnight the first instant after it, where they repeat it the first of both
    """
    year, index = divmod(month, 12)
    day = min(anchor_day, calendar.monthrange(year, index + 1)[1])
    naive = datetime(year, index + 1, day)  # noqa: DTZ001 - a wall time, given its zone below
    boundary = naive.replace(tzinfo=zone).astimezone(UTC)
    if boundary.astimezone(zone).replace(tzinfo=None) == naive:
        return boundary
    early = int(naive.replace(tzinfo=zone, fold=1).timestamp()) - 1
    late = int(boundary.timestamp())
    while late - early > 1:
        middle = (early + late) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) < naive:
            early = middle
        else:
            late = middle
    return datetime.fromtimestamp(late, UTC)


def next_period_end(starts_at: datetime, anchor_day: int, zone: ZoneInfo, min_length: timedelta) -> datetime:
    """End of a period: the first boundary of the grid at which it is long enough.

    min_length: minimum length of the period
    returns: in UTC
    """
    earliest = starts_at + min_length
    month = _month(earliest, zone) - 1
    while (end := grid_boundary(month, anchor_day, zone)) < earliest:
        month += 1
    return end


def nominal_seconds(starts_at: datetime, ends_at: datetime, anchor_day: int, zone: ZoneInfo) -> int:
    """Length of the month that the base of a period is a price for: of the period or, if longer, of the grid month.

    returns: rounded up
    """
    month = _month(ends_at, zone) + 1
    while (start := grid_boundary(month, anchor_day, zone)) >= ends_at:
        month -= 1
    return -((min(start, starts_at) - ends_at) // timedelta(seconds=1))


def _month(instant: datetime, zone: ZoneInfo) -> int:
    local = instant.astimezone(zone)
    return 12 * local.year + local.month - 1
