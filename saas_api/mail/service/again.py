"""Sending a mail once more, or at once instead of with its next try."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.errors import Conflict, NotFound
from saas_api.core.queue import enqueue
from saas_api.mail.service.writing import DRAIN

_KNOWN = sa.text("SELECT status FROM mails WHERE id = :id FOR UPDATE")
_AGAIN = sa.text("""
UPDATE mails SET status = 'queued', attempts = 0, interruptions = 0, next_at = now(), lease_token = NULL,
  finished_at = NULL
WHERE id = :id AND status IN ('queued', 'failed') AND text_body IS NOT NULL RETURNING id
""")


class ContentErased(Conflict):
    """Nothing is left to send: the mail has left, is leaving, or held a one-time token."""

    message = "This mail cannot be sent again: it has left, is just being sent, or held a one-time link that is erased."


def send_again(session: Session, mail_id: UUID) -> None:
    """Let a mail that was given up, or that waits for its next try, be due now, with all its tries before it.

    session: of the system
    raises: NotFound, ContentErased
    """
    if session.scalar(_KNOWN, {"id": mail_id}) is None:
        raise NotFound
    if session.execute(_AGAIN, {"id": mail_id}).first() is None:
        raise ContentErased
    enqueue(session, DRAIN)
