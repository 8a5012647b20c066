"""What every test of webhooks stands on."""

from tests.support.webhooks import acme, allowed  # noqa: F401 - fixtures
