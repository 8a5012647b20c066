"""The fixtures of two cells."""

from tests.support.cells import acme, client, eu, spread, spread_app  # noqa: F401
