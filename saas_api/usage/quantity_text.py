"""Quantities of usage as texts. Pure."""

import re
from decimal import Decimal

MAX_EVENT_QUANTITY = Decimal(10**12)
"""The most that one event may count, in the meter's unit."""
DECIMAL = re.compile(r"[0-9]{1,13}(\.[0-9]{1,6})?", re.ASCII)


def parse_quantity(text: str, *, is_zero_allowed: bool = False) -> Decimal:
    """The quantity of a decimal text with at most six decimals.

    raises: ValueError for other text, 0 unless it is allowed, and more than MAX_EVENT_QUANTITY
    """
    if not DECIMAL.fullmatch(text):
        raise ValueError('Not an integer or a decimal string like "1.5", with at most six decimals.')
    quantity = Decimal(text)
    if not (quantity or is_zero_allowed) or quantity > MAX_EVENT_QUANTITY:
        raise ValueError(f"Must be above 0 and at most {MAX_EVENT_QUANTITY:f}.")
    return quantity
