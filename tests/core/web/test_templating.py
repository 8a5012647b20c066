"""Filters of the templates."""

from decimal import Decimal
from typing import Any

import pytest

from saas_api.core.web import templating


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("5E+1"), "50"),
        (Decimal("1E+6"), "1,000,000"),
        (Decimal("0E-10"), "0"),
        (Decimal("1234.500000"), "1,234.5"),
        ("1E+3", "1,000"),
        ("2.50", "2.5"),
        (1234, "1,234"),
        (None, templating.EMPTY_VALUE),
    ],
)
def test_numbers_have_separators_and_no_exponent(value: Any, text: str) -> None:
    """G4: every template formats quantities with this filter."""
    assert templating.format_number(value) == text
