"""Fixtures of the portal's tests."""

from tests.support.payments import acme, client  # noqa: F401 - fixtures of this folder
from tests.support.portal import maker  # noqa: F401 - a fixture of this folder
