"""Fixtures of the console: a customer who owes money."""

from tests.payments.shop import customer  # noqa: F401 - a fixture for the tests beside this
