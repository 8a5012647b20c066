"""What every test of webhook pages stands on."""

from tests.dashboard.webhooks.hooks import browser  # noqa: F401 - a fixture
from tests.webhooks.people import acme, allowed, short_drains  # noqa: F401 - fixtures
