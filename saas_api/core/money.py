"""Amounts in minor units: exact arithmetic, rounding, reading and writing."""

import re
from decimal import ROUND_HALF_UP, Decimal, localcontext

CURRENCY_EXPONENTS = {"USD": 2, "EUR": 2, "GBP": 2, "NGN": 2, "GHS": 2, "ZAR": 2, "KES": 2, "JPY": 0}
DEFAULT_CURRENCY = "USD"
"""Currency of an organization until it chooses a plan in another one, and of prices in settings."""
DECIMAL_PRECISION = 60
_AMOUNT = re.compile(r"[0-9]{1,12}(?:\.([0-9]+))?")


class UnknownCurrency(ValueError):
    """A currency whose number of decimals is not in CURRENCY_EXPONENTS."""


def currency_exponent(currency: str) -> int:
    """Number of decimals of a currency.

    raises: UnknownCurrency
    """
    try:
        return CURRENCY_EXPONENTS[currency]
    except KeyError as cause:
        raise UnknownCurrency(currency) from cause


def round_half_up(amount: Decimal) -> int:
    """Round to a whole number, halves away from zero."""
    with localcontext(prec=DECIMAL_PRECISION):
        return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def multiply_exact(*factors: Decimal) -> Decimal:
    """The exact product; Python's default precision would drop digits silently."""
    with localcontext(prec=DECIMAL_PRECISION):
        product = Decimal(1)
        for factor in factors:
            product *= factor
        return product


def prorate(amount_minor: int, used: int, whole: int) -> int:
    """The share of an amount for a part of a duration, rounded half up once.

    amount_minor: >= 0
    used: in the unit of `whole`, >= 0; may exceed it
    """
    return (2 * amount_minor * used + whole) // (2 * whole)


def format_minor(amount_minor: int, currency: str) -> str:
    """An amount as the API writes it, with all decimals of its currency: "29.00".

    raises: UnknownCurrency
    """
    return f"{Decimal(amount_minor).scaleb(-currency_exponent(currency)):f}"


def parse_minor(amount: str, currency: str) -> int:
    """Read an amount such as "29.00".

    raises: UnknownCurrency; ValueError for anything else, and for decimals finer than the currency's
    """
    match = _AMOUNT.fullmatch(amount)
    if match is None or not amount.isascii():
        raise ValueError(f"not an amount: {amount!r}")
    places = currency_exponent(currency)
    if len((match[1] or "").rstrip("0")) > places:
        raise ValueError(f"{currency} has {places} decimals")
    return int(Decimal(amount).scaleb(places))


def format_unit_price(price: Decimal) -> str:
    """A unit price or a quantity, without trailing zeros."""
    with localcontext(prec=DECIMAL_PRECISION):
        return f"{price.normalize():f}" if price else "0"


def format_exact_amount(amount: Decimal, currency: str) -> str:
    """An unrounded amount in major units, with at least the decimals of its currency and no further trailing zeros.

    raises: UnknownCurrency
    """
    whole, _, fraction = format_unit_price(amount).partition(".")
    fraction = fraction.ljust(currency_exponent(currency), "0")
    return f"{whole}.{fraction}" if fraction else whole
