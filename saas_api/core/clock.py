"""The clock of business rules, time zones and the API's format of instants."""

import zoneinfo
from datetime import UTC, date, datetime, timedelta

# Hosts with different zone data would close a month at different instants: only the pinned package tzdata is read.
zoneinfo.reset_tzpath(to=[])

MAX_DAYS_AHEAD = 400
_EARLIEST_ASSUMED = datetime(2000, 1, 1, tzinfo=UTC)
_frozen_at: list[datetime] = []


def now() -> datetime:
    """The current instant, aware, in UTC."""
    return _frozen_at[-1] if _frozen_at else datetime.now(UTC)


def freeze_time(instant: datetime | None) -> None:
    """Freeze `now()` at an instant, or return to real time with None; for tests and demo data.

    raises: ValueError for a naive time
    """
    _frozen_at.clear()
    if instant is not None:
        if instant.tzinfo is None:
            raise ValueError("the clock needs an aware time")
        _frozen_at.append(instant.astimezone(UTC))


def check_assumed_now(instant: datetime) -> None:
    """Check an instant that a job is to take for the current one: every month until then gets an invoice.

    raises: ValueError for an instant before 2000 or more than `MAX_DAYS_AHEAD` days in the future
    """
    latest = now() + timedelta(days=MAX_DAYS_AHEAD)
    if not _EARLIEST_ASSUMED <= instant <= latest:
        raise ValueError(f"Must lie between {format_rfc3339(_EARLIEST_ASSUMED)} and {format_rfc3339(latest)}.")


def get_zone(name: str) -> zoneinfo.ZoneInfo:
    """The IANA zone of that name.

    raises: ValueError for an unknown zone
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as cause:
        raise ValueError(f"unknown time zone {name!r}") from cause


def format_rfc3339(instant: datetime, zone: str = "UTC") -> str:
    """An instant with milliseconds: in UTC with `Z`, as the API writes it, or in a time zone with its offset."""
    return instant.astimezone(get_zone(zone)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_date(moment: date, zone: str, *, is_short: bool = False) -> str:
    """A day for people, such as "5 March 2026".

    moment: a day, or an instant (`datetime`), of which the day in the zone counts
    is_short: abbreviates the month, as tables of pages do
    """
    day = moment.astimezone(get_zone(zone)) if isinstance(moment, datetime) else moment
    return f"{day.day} {day:%b %Y}" if is_short else f"{day.day} {day:%B %Y}"


def format_time(instant: datetime, zone: str, *, is_short: bool = False) -> str:
    """An instant for people, to the minute, such as "5 March 2026, 14:00"; otherwise as `format_date`."""
    return f"{format_date(instant, zone, is_short=is_short)}, {instant.astimezone(get_zone(zone)):%H:%M}"
