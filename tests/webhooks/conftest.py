"""What every test of webhooks stands on."""

from tests.webhooks.people import acme, allowed  # noqa: F401 - fixtures
