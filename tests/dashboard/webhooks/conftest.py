"""What every test of webhook pages stands on."""

from tests.support.webhook_pages import browser  # noqa: F401 - a fixture
from tests.support.webhooks import acme, allowed  # noqa: F401 - fixtures
