"""How far behind the platform is, across all organizations."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

_WAITING = text("""
SELECT (SELECT min(next_at) FROM messages WHERE status IN ('queued', 'sending') AND next_at < now()) AS messages,
  (SELECT min(next_at) FROM webhook_deliveries WHERE status IN ('queued', 'sending') AND next_at < now()) AS webhooks,
  (SELECT max(started_at) FROM job_runs) AS ran, now() AS now
""")


@dataclass(frozen=True)
class Waiting:
    """What waits longest, and when the timetable ran last; None where nothing waits or ran."""

    messages: datetime | None
    webhooks: datetime | None
    ran: datetime | None
    now: datetime


def waiting(session: Session) -> Waiting:
    """What waits longest.

    session: of the system
    """
    return Waiting(*session.execute(_WAITING).one())
