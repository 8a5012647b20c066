"""IANA time zones from one source of data."""

import zoneinfo

# Hosts with different zone data would close a month at different instants: only the pinned package tzdata is read.
zoneinfo.reset_tzpath(to=[])


def get_zone(name: str) -> zoneinfo.ZoneInfo:
    """The IANA zone of that name.

    raises: ValueError for an unknown zone
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as cause:
        raise ValueError(f"unknown time zone {name!r}") from cause
