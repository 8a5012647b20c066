"""Fixtures of payments."""

from tests.payments.shop import client, customer, olga, paystack, stripe  # noqa: F401 - fixtures for the tests beside this
