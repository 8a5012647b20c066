"""Fields reject malformed values."""

import marshmallow as ma
import pytest

from saas_api.core.fields import DateField, Timestamp


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00", "2026-03-01T00:00:00", "soon", 5, None]
)
def test_time_outside_the_calendar_is_rejected(text: object) -> None:
    with pytest.raises(ma.ValidationError):
        Timestamp().deserialize(text)


@pytest.mark.parametrize("text", ["2026-1-1", "2026-02-30", "20260101", "2026-01-01T00:00:00Z", 20260101])
def test_date_requires_year_month_and_day(text: object) -> None:
    with pytest.raises(ma.ValidationError):
        DateField().deserialize(text)
