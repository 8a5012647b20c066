"""Amounts: exact until rounded, rounded once, halves away from zero."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saas_api.core import money
from saas_api.core.money import CURRENCY_EXPONENTS, UnknownCurrency

AMOUNTS = st.integers(0, 10**12 - 1)


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [("0.5", 1), ("1.5", 2), ("2.5", 3), ("-0.5", -1), ("-2.5", -3), ("1.4999999999", 1), ("0", 0), ("320.5", 321)],
)
def test_half_is_rounded_away_from_zero(exact: str, rounded: int) -> None:
    assert money.round_half_up(Decimal(exact)) == rounded


def test_product_of_forty_digits_is_exact() -> None:
    quantity, price = Decimal("12345678901234.567891"), Decimal("1234567890.1234567891")
    exact = Fraction(quantity) * Fraction(price)
    assert Fraction(money.multiply_exact(quantity, price)) == exact


@given(AMOUNTS, st.integers(0, 10**13), st.integers(1, 10**13))
def test_prorated_amount_is_rounded_half_up_once(amount: int, used: int, whole: int) -> None:
    exact = Fraction(amount * used, whole)
    assert abs(money.prorate(amount, used, whole) - exact) <= Fraction(1, 2)
    assert money.prorate(amount, whole, whole) == amount


@given(AMOUNTS, st.sampled_from(sorted(CURRENCY_EXPONENTS)))
def test_written_amount_is_read_back(amount: int, currency: str) -> None:
    assert money.parse_minor(money.format_minor(amount, currency), currency) == amount


def test_amount_is_written_with_all_decimals_of_its_currency() -> None:
    assert money.format_minor(2900, "USD") == "29.00"
    assert money.format_minor(-5, "USD") == "-0.05"
    assert money.format_minor(2900, "JPY") == "2900"
    assert money.format_minor(0, "USD") == "0.00"


@pytest.mark.parametrize("text", ["", "1,00", "1e3", "-1", "1.001", "NaN", "\u0661", "1."])
def test_malformed_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        money.parse_minor(text, "USD")


def test_unknown_currency_is_refused() -> None:
    with pytest.raises(UnknownCurrency):
        money.format_minor(1, "XXX")


def test_unit_price_has_no_trailing_zeros() -> None:
    assert money.format_unit_price(Decimal("0.0100000000")) == "0.01"
    assert money.format_unit_price(Decimal("1000.000000")) == "1000"
    assert money.format_unit_price(Decimal(0)) == "0"
