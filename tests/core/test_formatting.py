"""Numbers, money, days and times for people."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from saas_api.core import formatting
from saas_api.core.formatting import EMPTY_VALUE

PM = "\N{NO-BREAK SPACE}PM"
RANGE = " \N{EN DASH} "


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("5E+1"), "50"),
        (Decimal("1E+6"), "1,000,000"),
        (Decimal("0E-10"), "0"),
        (Decimal("1234.500000"), "1,234.5"),
        (Decimal("-0.0000000001"), "-0.0000000001"),
        ("1E+3", "1,000"),
        ("2.50", "2.5"),
        (1234, "1,234"),
        (None, EMPTY_VALUE),
    ],
)
def test_numbers_have_separators_and_no_exponent(value: Any, text: str) -> None:
    """G4: every template formats quantities with this filter."""
    assert formatting.format_number(value) == text


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (7408, "USD", "$74.08"),
        (-123450, "USD", "-$1,234.50"),
        (0, "EUR", "€0.00"),
        (1200, "JPY", "¥1,200"),
        (7408, "NGN", "NGN\N{NO-BREAK SPACE}74.08"),
        (10**15 + 1, "USD", "$10,000,000,000,000.01"),
        (None, "USD", EMPTY_VALUE),
    ],
)
def test_amounts_have_the_symbol_and_decimals_of_their_currency(
    amount_minor: int | None, currency: str, text: str
) -> None:
    assert formatting.format_money(amount_minor, currency) == text


def test_only_unit_prices_have_more_decimals_than_their_currency() -> None:
    assert formatting.format_unit_price("0.0025", "USD") == "$0.0025"
    assert formatting.format_unit_price(Decimal("0.0000000001"), "USD") == "$0.0000000001"
    assert formatting.format_unit_price("2", "USD") == "$2.00"
    assert formatting.format_cost(Decimal("2.4350"), "USD") == "$2.44"
    assert formatting.format_cost(Decimal("-2.4350"), "USD") == "-$2.44"
    assert [formatting.format_compact_money(minor, "USD") for minor in (0, 94_050, -199_900, 123_456_789)] == [
        *("$0", "$941", "-$2K", "$1.2M"),
    ]


@pytest.mark.parametrize(
    ("share", "text"), [(5.61, "561%"), (Decimal("0.9987"), "99.9%"), (0, "0%"), (None, EMPTY_VALUE)]
)
def test_percentages_have_at_most_one_decimal(share: Any, text: str) -> None:
    assert formatting.format_percent(share) == text


def test_instants_are_on_the_day_and_at_the_time_of_their_zone() -> None:
    instant = datetime(2026, 9, 8, 23, 30, 5, tzinfo=UTC)
    assert formatting.format_date(instant, "UTC") == "Sep 8, 2026"
    assert formatting.format_date(instant.date(), "Pacific/Kiritimati") == "Sep 8, 2026"
    assert formatting.format_day(instant, "Asia/Tokyo") == "Sep 9"
    assert formatting.format_time(instant, "America/Lima") == f"Sep 8, 2026, 6:30{PM}"
    assert formatting.format_clock_time(instant, "America/Lima", has_seconds=True) == f"6:30:05{PM}"


def test_a_period_is_told_by_its_days_unless_it_begins_or_ends_within_one() -> None:
    start, end = datetime(2026, 10, 31, 23, tzinfo=UTC), datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert formatting.format_period(start, end, "Africa/Lagos") == f"Nov 1{RANGE}Nov 30, 2026"
    within = formatting.format_period(start, end + timedelta(hours=1), "Africa/Lagos")
    assert within == f"Nov 1, 2026, 12:00\N{NO-BREAK SPACE}AM{RANGE}Dec 1, 2026, 1:00\N{NO-BREAK SPACE}AM"
    assert formatting.format_days(date(2026, 12, 30), date(2027, 1, 2)) == f"Dec 30, 2026{RANGE}Jan 2, 2027"
    assert formatting.format_days(date(2026, 12, 30), date(2026, 12, 30)) == "Dec 30, 2026"


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [
        (timedelta(seconds=59.9), "59 seconds ago"),
        (timedelta(seconds=119), "1 minute ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(minutes=-5), "in 5 minutes"),
    ],
)
def test_elapsed_time_is_told_in_its_largest_whole_unit(elapsed: timedelta, text: str) -> None:
    assert formatting.format_elapsed(elapsed) == text


def test_another_locale_has_its_own_separators_and_order() -> None:
    with formatting.localized("en-ZA"):
        assert formatting.format_money(123456, "ZAR") == "R\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}234,56"
        assert formatting.format_date(date(2026, 11, 30)) == "30 Nov 2026"
    assert formatting.format_date(date(2026, 11, 30)) == "Nov 30, 2026"


def test_every_locale_is_english_and_describes_itself() -> None:
    samples = [formatting.describe_locale(locale) for locale in formatting.LOCALES]
    assert samples[0] == f"United States: $1,234.56, Nov 30, 2026, 5:31{PM}"
    assert len({sample.partition(":")[0] for sample in samples}) == len(formatting.LOCALES)
    assert all("Nov" in sample for sample in samples)
