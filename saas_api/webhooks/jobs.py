"""Jobs of webhooks: delivery, disabling of failing endpoints, deletion of old events."""

from saas_api.core.jobs import schedule
from saas_api.core.jobs.schedule import DAY, HOUR, MINUTE, scheduled
from saas_api.webhooks import claims, dispatch, endpoints, events
from saas_api.webhooks.events import DRAIN_JOB


@schedule.drain(DRAIN_JOB, queue="webhooks", due=claims.list_due_endpoints)
def drain(*, at_most_seconds: float | None = None) -> None:
    dispatch.run_dispatch(at_most_seconds=at_most_seconds)


@scheduled(
    "webhooks.disable_failing",
    every=HOUR,
    offset=50 * MINUTE,
    description="Disable endpoints whose deliveries have failed for five days.",
)
def disable_failing() -> dict[str, int]:
    return {"disabled": endpoints.disable_failing_endpoints()}


@scheduled("webhooks.purge", every=DAY, offset=190 * MINUTE, description="Delete events older than thirty days.")
def purge() -> dict[str, int]:
    return {"deleted": events.delete_old_events()}
