"""The clock of business rules and the API's format of instants."""

from datetime import UTC, datetime, timedelta

from saas_api.core import time_zones

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


def format_rfc3339(instant: datetime, zone: str = "UTC") -> str:
    """An instant with milliseconds: in UTC with `Z`, as the API writes it, or in a time zone with its offset."""
    return instant.astimezone(time_zones.get_zone(zone)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
