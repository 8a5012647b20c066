"""Now, freeze_time for tests, get_zone, format_rfc3339."""

import zoneinfo
from datetime import UTC, datetime

# Two hosts with different zone data would close a month at different instants: the pinned tzdata package decides.
zoneinfo.reset_tzpath(to=[])

_travelled: list[datetime] = []


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return _travelled[-1] if _travelled else datetime.now(UTC)


def freeze_time(instant: datetime | None) -> None:
    """Freeze `now()` at an instant, or return to real time with None; for tests only."""
    _travelled.clear()
    if instant is not None:
        if instant.tzinfo is None:
            raise ValueError("the clock needs an aware time")
        _travelled.append(instant.astimezone(UTC))


def get_zone(name: str) -> zoneinfo.ZoneInfo:
    """The IANA zone of that name.

    raises: ValueError when there is none
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as cause:
        raise ValueError(f"unknown time zone {name!r}") from cause


def format_rfc3339(instant: datetime) -> str:
    """An instant as the wire shows it: UTC, milliseconds, `Z`."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"
