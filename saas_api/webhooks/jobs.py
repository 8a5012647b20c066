"""Queue and schedule entry points of webhooks."""

from saas_api.core import timetable
from saas_api.core.timetable import DAY, HOUR, MINUTE, scheduled
from saas_api.webhooks import service as webhooks


@timetable.drain(webhooks.DRAIN, queue="webhooks", due=webhooks.due)
def drain(*, at_most_seconds: float | None = None) -> None:
    webhooks.deliver_due(at_most_seconds=at_most_seconds)


@scheduled(
    "webhooks.disable_failing",
    every=HOUR,
    offset=50 * MINUTE,
    description="Disable endpoints whose deliveries have failed for five days.",
)
def disable_failing() -> dict[str, int]:
    return {"disabled": webhooks.disable_failing()}


@scheduled("webhooks.purge", every=DAY, offset=190 * MINUTE, description="Delete events older than thirty days.")
def purge() -> dict[str, int]:
    return {"deleted": webhooks.purge()}
