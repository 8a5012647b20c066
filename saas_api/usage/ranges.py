"""DateRange, buckets, success rate; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

MAX_RANGE_DAYS = 366
DEFAULT_RANGE_DAYS = 30
QUARTER_HOUR_SECONDS = 900
MAX_POINTS = 744
FAR_FUTURE = 2**53
"""Beyond every counter: the last whole number that a script in Redis counts exactly."""


class InvalidDateRange(Exception):
    """A pair of dates that names no range.

    field: the date that is wrong
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class DateRange:
    """Whole local days, both inclusive."""

    first: date
    last: date
    zone: ZoneInfo

    @property
    def starts_at(self) -> datetime:
        """First instant of the first day."""
        return day_start(self.first, self.zone)

    @property
    def ends_at(self) -> datetime:
        """First instant after the last day."""
        return day_start(self.last + timedelta(days=1), self.zone)

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1))


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """First instant of a local day in UTC; the first existing one where midnight was skipped."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def parse_date_range(first: date | None, last: date | None, today: date, zone: ZoneInfo) -> DateRange:
    """The range a pair of dates names; what is left out is filled up to thirty days that end today.

    raises: BadRange for a reversed pair or more than 366 days
    """
    last = last or max(today, first or today)
    first = first or last - timedelta(days=min(DEFAULT_RANGE_DAYS - 1, last.toordinal() - 1))
    if first > last:
        raise InvalidDateRange("end_date", "Must not be before start_date.")
    if (last - first).days >= MAX_RANGE_DAYS:
        raise InvalidDateRange("end_date", f"At most {MAX_RANGE_DAYS} days.")
    if first.year < 2 or last.year > 9998:  # zones shift the first and last year out of the calendar
        raise InvalidDateRange("start_date", "Outside the calendar.")
    return DateRange(first, last, zone)


def bucket_starts(days: DateRange, interval: str) -> list[datetime]:
    """Start of every local hour or day of a range, in UTC; a day may have 23 or 25 hours.

    interval: "hour" or "day"
    raises: BadRange for more than 744 of them
    """
    if interval == "day":
        found = [day_start(day, days.zone) for day in days]
    elif (days.last - days.first).days > MAX_POINTS // 23:
        raise _check_point_count()
    else:
        quarters = int((days.ends_at - days.starts_at).total_seconds()) // QUARTER_HOUR_SECONDS
        instants = (days.starts_at + timedelta(seconds=QUARTER_HOUR_SECONDS * n) for n in range(quarters))
        found = list(dict.fromkeys(max(days.starts_at, _local_hour(instant, days.zone)) for instant in instants))
    if len(found) > MAX_POINTS:
        raise _check_point_count()
    return found


def _check_point_count() -> InvalidDateRange:
    return InvalidDateRange("end_date", f"At most {MAX_POINTS} points; choose a shorter range or interval=day.")


def _local_hour(instant: datetime, zone: ZoneInfo) -> datetime:
    local = instant.astimezone(zone)
    return instant - timedelta(minutes=local.minute, seconds=local.second)


def success_rate(accepted: int, failed: int) -> Decimal:
    """Share of accepted among accepted and failed, in percent with two decimals; 100 when there was none."""
    if accepted + failed == 0:
        return Decimal(100)
    return (Decimal(100) * accepted / (accepted + failed)).quantize(Decimal("0.01"), ROUND_HALF_UP)


def floor_to_quarter_hour(at: datetime) -> datetime:
    """Start of the quarter hour; every zone's hours are made of them."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % QUARTER_HOUR_SECONDS, UTC)
