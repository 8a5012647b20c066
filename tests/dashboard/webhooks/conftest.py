"""Fixtures of the webhook pages."""

from tests.support.webhook_pages import browser  # noqa: F401 - a fixture
from tests.support.webhooks import acme, allowed  # noqa: F401 - fixtures
