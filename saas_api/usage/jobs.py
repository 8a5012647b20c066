"""Timed work of usage: the roll-up, every minute."""

from saas_api.usage import service as usage


def roll_up() -> None:
    """Move settled ledger rows into rollups."""
    usage.roll_up()
