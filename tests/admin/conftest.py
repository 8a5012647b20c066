"""Fixtures of the console: a customer who owes money."""

from tests.support.payments import customer  # noqa: F401 - a fixture for the tests beside this
