"""`make calendar`: run tests as if it were another day, by one shifted clock for application, engines and children."""

import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = (
    ("2027-01-31T23:59:00", "UTC"),  # the next month has no 29th, 30th or 31st
    ("2027-03-14T01:59:00", "America/New_York"),  # the clock goes from 02:00 to 03:00
    ("2027-07-01T00:20:00", "UTC"),  # the ended month is not closed yet
    ("2027-08-31T12:00:00", "UTC"),
    ("2027-09-15T12:00:00", "UTC"),  # no month ends near, so that first periods are short of a month
    ("2027-10-31T02:59:00", "Europe/Berlin"),  # the clock goes from 03:00 to 02:00
    ("2027-12-31T23:59:00", "UTC"),
    ("2028-01-29T12:00:00", "UTC"),  # 35 days later two months have ended
    ("2028-02-28T23:59:00", "UTC"),  # a leap year
    ("2028-02-29T23:59:00", "UTC"),
)


def choose(environment: Mapping[str, str]) -> tuple[datetime, str]:
    """When the run begins, and its time zone: DAY in the zone TZ (default UTC), or without DAY one of DAYS in turn.

    raises: ValueError when DAY is not an ISO 8601 time or TZ not an IANA zone
    """
    day, zone = DAYS[time.gmtime().tm_yday % len(DAYS)]
    if environment.get("DAY"):
        day, zone = environment["DAY"], environment.get("TZ") or "UTC"
    begins_at = datetime.fromisoformat(day)
    try:
        return begins_at if begins_at.tzinfo else begins_at.replace(tzinfo=ZoneInfo(zone)), zone
    except (ZoneInfoNotFoundError, IsADirectoryError):
        raise ValueError(f"unknown time zone {zone!r}") from None


def main(arguments: list[str]) -> None:
    """Replace this process by pytest with these arguments, on the chosen day."""
    library = next(Path("/usr/lib").glob("*/datefudge/datefudge.so"), None)  # shifts no monotonic clock: timeouts hold
    if library is None:
        sys.exit("make calendar needs datefudge (on Debian: apt-get install datefudge)")
    try:
        begins_at, zone = choose(os.environ)
    except ValueError as error:
        sys.exit(f"DAY: {error}")
    sys.stderr.write(f"The tests begin at {begins_at.isoformat()} in {zone}\n")
    shift = {"LD_PRELOAD": str(library), "DATEFUDGE": str(int(time.time() - begins_at.timestamp())), "TZ": zone}
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *arguments], {**os.environ, **shift})  # noqa: S606 - pytest


if __name__ == "__main__":
    main(sys.argv[1:])
