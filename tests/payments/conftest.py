"""Fixtures of payments."""

from tests.support.payments import acme, client, olga, paystack, stripe  # noqa: F401 - fixtures of this folder
