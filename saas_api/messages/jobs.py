"""Queue entry point of messages."""

from saas_api.core import lease, timetable
from saas_api.messages import service as messages


@timetable.drain(messages.DRAIN, queue="messages", due=messages.due)
def drain(*, at_most_seconds: float | None = None) -> None:
    lease.drain(messages.DRAIN, messages.due, messages.deliver_some, at_most_seconds=at_most_seconds)
