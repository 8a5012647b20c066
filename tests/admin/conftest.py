"""Fixtures of the console: an organization with an open invoice."""

from tests.support.payments import acme  # noqa: F401 - a fixture for the tests beside this
