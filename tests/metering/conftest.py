"""Fixtures of metered calls."""

from tests.support.holds import acme  # noqa: F401 - a fixture
