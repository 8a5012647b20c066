"""Which instants a pair of dates in the log of acts means."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

LONGEST_RANGE_DAYS = 366
INVITATION_LIFETIME = timedelta(days=7)


class BadRange(Exception):
    """A pair of dates that names no range.

    field: the date that is wrong
    """

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(reason)


def instants(first: date | None, last: date | None, zone: ZoneInfo) -> tuple[datetime | None, datetime | None]:
    """The first instant of the first local day, and the first one after the last; None where there is no bound.

    raises: BadRange for a reversed pair, more than 366 days, or days outside the calendar
    """
    for field, day in (("start_date", first), ("end_date", last)):
        if day and not 2 <= day.year <= 9998:  # zones shift the first and last year out of the calendar
            raise BadRange(field, "Outside the calendar.")
    if first and last and first > last:
        raise BadRange("end_date", "Must not be before start_date.")
    if first and last and (last - first).days >= LONGEST_RANGE_DAYS:
        raise BadRange("end_date", f"At most {LONGEST_RANGE_DAYS} days.")
    starts_at = _first_instant(first, zone) if first else None
    return starts_at, _first_instant(last + timedelta(days=1), zone) if last else None


def _first_instant(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
