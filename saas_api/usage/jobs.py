"""Scheduled job of usage: the roll-up of the ledger."""

from saas_api.core.jobs.schedule import MINUTE, scheduled
from saas_api.usage import rollups


@scheduled("usage.roll_up", every=MINUTE, description="Add settled usage events to the rollups that dashboards read.")
def roll_up() -> None:
    rollups.roll_up()
