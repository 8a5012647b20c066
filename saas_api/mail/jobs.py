"""Queue entry point of mail."""

from saas_api.core import lease, timetable
from saas_api.mail import service as mail


@timetable.drain(mail.DRAIN, due=mail.due)
def drain(*, at_most_seconds: float | None = None) -> None:
    lease.drain(mail.DRAIN, mail.due, mail.hand_over_some, at_most_seconds=at_most_seconds)
