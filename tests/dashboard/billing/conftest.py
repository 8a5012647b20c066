"""Fixtures of the billing pages."""

from tests.support.billing_pages import may, owner  # noqa: F401 - fixtures
from tests.support.payments import acme, client, stripe  # noqa: F401 - fixtures
