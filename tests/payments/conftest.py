"""Fixtures of payments."""

from tests.support.faults import inject_fault  # noqa: F401 - a fixture of this folder
from tests.support.payments import acme, client, olga, paystack, stripe  # noqa: F401 - fixtures of this folder
