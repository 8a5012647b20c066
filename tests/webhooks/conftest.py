"""Fixtures of every test of webhooks."""

from tests.support.webhooks import acme, allowed  # noqa: F401 - fixtures
