"""Ranges of local days, success rates and quarter hours, without a database."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from saas_api.core import time_zones
from saas_api.usage import ranges
from saas_api.usage.ranges import InvalidDateRange

TODAY = date(2026, 4, 15)
UTC_ZONE = time_zones.get_zone("UTC")


def test_range_without_dates_is_the_thirty_days_that_end_today() -> None:
    days = ranges.parse_date_range(None, None, TODAY, UTC_ZONE)
    assert (days.first, days.last, len(list(days))) == (date(2026, 3, 17), TODAY, 30)


def test_reversed_range_is_rejected() -> None:
    with pytest.raises(InvalidDateRange, match="before start_date"):
        ranges.parse_date_range(date(2026, 4, 2), date(2026, 4, 1), TODAY, UTC_ZONE)


def test_range_has_at_most_366_days() -> None:
    assert len(list(ranges.parse_date_range(date(2026, 1, 1), date(2027, 1, 1), TODAY, UTC_ZONE))) == 366
    with pytest.raises(InvalidDateRange, match="At most 366 days"):
        ranges.parse_date_range(date(2026, 1, 1), date(2027, 1, 2), TODAY, UTC_ZONE)


@pytest.mark.parametrize(
    ("zone", "day", "instant"),
    [
        ("Asia/Kolkata", date(2026, 4, 1), datetime(2026, 3, 31, 18, 30, tzinfo=UTC)),
        ("Asia/Kathmandu", date(2026, 4, 1), datetime(2026, 3, 31, 18, 15, tzinfo=UTC)),
        ("Africa/Cairo", date(2026, 4, 24), datetime(2026, 4, 23, 22, tzinfo=UTC)),
        ("America/New_York", date(2026, 3, 9), datetime(2026, 3, 9, 4, tzinfo=UTC)),
    ],
)
def test_day_starts_at_its_first_existing_local_instant(zone: str, day: date, instant: datetime) -> None:
    assert ranges.day_start(day, time_zones.get_zone(zone)) == instant


@pytest.mark.parametrize(
    ("accepted", "failed", "rate"),
    [(0, 0, "100"), (1, 0, "100"), (1, 1, "50"), (2, 1, "66.67"), (0, 3, "0")],
)
def test_success_rate_is_the_percentage_of_accepted_calls(accepted: int, failed: int, rate: str) -> None:
    assert ranges.success_rate(accepted, failed) == Decimal(rate)


def test_every_quarter_hour_has_one_start() -> None:
    at = datetime(2026, 4, 1, 10, 44, 59, 999_999, tzinfo=UTC)
    assert ranges.floor_to_quarter_hour(at) == datetime(2026, 4, 1, 10, 30, tzinfo=UTC)
