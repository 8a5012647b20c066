"""Fixtures of payments."""

from tests.support.payments import client, customer, olga, paystack, stripe  # noqa: F401 - fixtures of this folder
