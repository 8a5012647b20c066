"""Scheduled jobs of usage: the roll-up of the ledger, and the sums of request counts."""

from saas_api.core.jobs.schedule import HOUR, MINUTE, scheduled
from saas_api.usage import request_counts, rollups


@scheduled("usage.roll_up", every=MINUTE, description="Add settled usage events to the rollups that dashboards read.")
def roll_up() -> None:
    rollups.roll_up()


@scheduled(
    "usage.sum_requests",
    every=HOUR,
    offset=11 * MINUTE,
    description="Sum the request counts of minutes that are more than a day old into hours.",
)
def sum_requests() -> dict[str, int]:
    return {"hours": request_counts.sum_minutes()}
