"""The clock of business rules, and its format in the API."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from saas_api.core import clock, time_zones
from saas_api.core.db.engine import db


def test_frozen_clock_returns_the_instant_until_released() -> None:
    instant = datetime(2026, 3, 1, 12, tzinfo=UTC)
    clock.freeze_time(instant)
    try:
        assert clock.now() == instant
    finally:
        clock.freeze_time(None)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_engines_and_application_have_the_same_time(app: Flask) -> None:
    with app.app_context():
        at_postgres = db.session.scalar(sa.text("SELECT clock_timestamp()"))
    with redis.Redis.from_url(app.config["REDIS_URL"]) as client:
        at_redis = datetime.fromtimestamp(client.time()[0], UTC)
    for instant in (at_postgres, at_redis):
        assert abs(clock.now() - instant) < timedelta(seconds=5)


def test_naive_time_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="aware"):
        clock.freeze_time(datetime(2026, 3, 1))  # noqa: DTZ001 - naive is what is refused


def test_rfc3339_has_utc_and_milliseconds() -> None:
    lagos = timezone(timedelta(hours=1))
    assert clock.format_rfc3339(datetime(2026, 3, 1, 1, 2, 3, 999999, lagos)) == "2026-03-01T00:02:03.999Z"


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "", "/etc/localtime", "Europe"])
def test_unknown_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        time_zones.get_zone(name)
