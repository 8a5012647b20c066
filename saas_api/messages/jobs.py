"""The jobs that send due messages, and move old ones to the partitions of their months."""

from saas_api.core.jobs import outbox, schedule
from saas_api.core.jobs.schedule import MINUTE
from saas_api.messages import dispatch, past_messages
from saas_api.messages.messages import DRAIN_JOB

MAX_MOVE_SECONDS = 10
"""Other jobs wait behind it where one worker runs them."""


@schedule.drain(DRAIN_JOB, queue="messages", due=dispatch.list_due_organizations)
def drain(*, at_most_seconds: float | None = None) -> None:
    outbox.drain_queue(
        DRAIN_JOB, dispatch.list_due_organizations, dispatch.deliver_batch, at_most_seconds=at_most_seconds
    )


@schedule.scheduled(
    "messages.move_past",
    every=10 * MINUTE,
    offset=3 * MINUTE,
    description="Move messages that are more than 31 days old to the partitions of their months.",
)
def move_past() -> dict[str, int]:
    return {"moved": past_messages.move_finished(MAX_MOVE_SECONDS)}
