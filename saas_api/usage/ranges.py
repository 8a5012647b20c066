"""Date ranges of usage reports, their hours and days, and the success rate; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

MAX_RANGE_DAYS = 366
DEFAULT_RANGE_DAYS = 30
QUARTER_HOUR_SECONDS = 900
MAX_POINTS = 744


class InvalidDateRange(Exception):
    """A pair of dates that is no valid range.

    field: "start_date" or "end_date", whichever is wrong
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


@dataclass(frozen=True)
class HourRange(DateRange):
    """Whole local hours, on the days that they touch."""

    begins: datetime
    ends: datetime

    @property
    def starts_at(self) -> datetime:
        """First instant of the first hour."""
        return self.begins

    @property
    def ends_at(self) -> datetime:
        """First instant after the last hour."""
        return self.ends


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """First instant of a local day, in UTC; the first that exists where a time zone change skips midnight."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def parse_date_range(first: date | None, last: date | None, today: date, zone: ZoneInfo) -> DateRange:
    """The range of two dates, both inclusive. Without them: the thirty days that end today.

    raises: InvalidDateRange for a reversed pair, more than 366 days, or dates outside the calendar
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
    """Start of every local hour or day of a range, in UTC. A day may have 23 or 25 hours.

    interval: "hour" or "day"
    raises: InvalidDateRange for more than 744 of them
    """
    if interval == "day":
        starts = [day_start(day, days.zone) for day in days]
    elif (days.last - days.first).days > MAX_POINTS // 23:
        raise _too_many_points()
    else:
        quarters = int((days.ends_at - days.starts_at).total_seconds()) // QUARTER_HOUR_SECONDS
        instants = (days.starts_at + timedelta(seconds=QUARTER_HOUR_SECONDS * n) for n in range(quarters))
        starts = list(dict.fromkeys(max(days.starts_at, _local_hour(instant, days.zone)) for instant in instants))
    if len(starts) > MAX_POINTS:
        raise _too_many_points()
    return starts


def _too_many_points() -> InvalidDateRange:
    return InvalidDateRange("end_date", f"At most {MAX_POINTS} points; choose a shorter range or interval=day.")


def _local_hour(instant: datetime, zone: ZoneInfo) -> datetime:
    local = instant.astimezone(zone)
    return instant - timedelta(minutes=local.minute, seconds=local.second)


def success_rate(accepted: int, failed: int) -> Decimal:
    """Percentage of accepted calls among accepted and failed ones, with two decimals; 100 without calls."""
    if accepted + failed == 0:
        return Decimal(100)
    return (Decimal(100) * accepted / (accepted + failed)).quantize(Decimal("0.01"), ROUND_HALF_UP)


def floor_to_quarter_hour(at: datetime) -> datetime:
    """Start of the quarter hour. The hours of every time zone begin at one."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % QUARTER_HOUR_SECONDS, UTC)
