"""The job that sends due mails."""

from saas_api.core.jobs import outbox, schedule
from saas_api.mail import dispatch
from saas_api.mail.mails import DRAIN_JOB


@schedule.drain(DRAIN_JOB, due=dispatch.list_due_organizations)
def drain(*, at_most_seconds: float | None = None) -> None:
    outbox.drain_queue(
        DRAIN_JOB, dispatch.list_due_organizations, dispatch.deliver_batch, at_most_seconds=at_most_seconds
    )
