"""What every test of billing pages stands on."""

from tests.dashboard.billing.desk import may, owner  # noqa: F401 - fixtures
from tests.payments.shop import client, customer, stripe  # noqa: F401 - fixtures
