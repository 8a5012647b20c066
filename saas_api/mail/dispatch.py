"""Claim due mails, deliver, record (over core.jobs.outbox)."""

import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.db import tenancy
from saas_api.core.faults import fault_point
from saas_api.core.jobs import queue, retries
from saas_api.core.jobs.outbox import LOOKAHEAD_SECONDS, DueOwners
from saas_api.core.jobs.retries import MAX_ATTEMPTS, MAX_INTERRUPTIONS
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.mail.mails import TEMPLATES_WITH_TOKENS
from saas_api.providers import selection
from saas_api.providers.mail import OutboundEmail
from saas_api.providers.messages import SendResult

log = get_logger(__name__)

MAX_ORGANIZATIONS_PER_SCAN = 200
_DUE = sa.text("""
SELECT organization_id, extract(epoch FROM min(next_at) - now())::float8 AS seconds FROM mails
 WHERE status IN ('queued', 'sending') AND next_at < now() + make_interval(secs => :soon)
 GROUP BY organization_id ORDER BY 2 LIMIT :limit
""")


def list_due(session: Session) -> DueOwners[UUID | None]:
    """Organizations with a mail that is due, the longest waiting first; None for mails of nobody's organization.

    session: of the system
    """
    rows = session.execute(_DUE, {"soon": LOOKAHEAD_SECONDS, "limit": MAX_ORGANIZATIONS_PER_SCAN}).all()
    later = [row.seconds for row in rows if row.seconds > 0]
    return DueOwners([row.organization_id for row in rows if row.seconds <= 0], min(later, default=None))


CLAIM_BATCH_SIZE = 20
CLAIM_DEADLINE_SECONDS = 12

# Rows that were interrupted three times come alone, so that what kills a worker kills it with nothing else in hand.
_CLAIM = """
WITH due AS (SELECT id FROM mails WHERE organization_id IS NOT DISTINCT FROM CAST(:org AS uuid)
  AND status IN ('queued', 'sending') AND next_at <= now() AND interruptions {interrupted} 3
  ORDER BY next_at LIMIT :n FOR UPDATE SKIP LOCKED)
UPDATE mails m SET status = 'sending', interruptions = m.interruptions + (m.status = 'sending')::int,
  lease_token = :token, next_at = now() + make_interval(secs => :lease)
FROM due WHERE m.id = due.id
RETURNING m.id, m.recipient, m.subject, m.text_body, m.html_body, m.created_at, m.attempts, m.interruptions
"""
_CLAIM_MANY = sa.text(_CLAIM.format(interrupted="<"))
_CLAIM_ONE = sa.text(_CLAIM.format(interrupted=">="))
_FINISH = sa.text(
    """
UPDATE mails SET status = :status, attempts = attempts + 1, error_code = :error, finished_at = now(), next_at = NULL,
  lease_token = NULL, subject = CASE WHEN {kept} THEN subject END, text_body = CASE WHEN {kept} THEN text_body END,
  html_body = CASE WHEN {kept} THEN html_body END
WHERE id = :id AND status = 'sending' AND lease_token = :token RETURNING id
""".format(kept=":status = 'failed' AND template <> ALL (CAST(:with_tokens AS text[]))")
)
_RETRY = sa.text("""
UPDATE mails SET status = 'queued', attempts = attempts + 1, error_code = :error, next_at = now() + :delay,
  lease_token = NULL
WHERE id = :id AND status = 'sending' AND lease_token = :token RETURNING id
""")
_GIVE_BACK = sa.text("""
UPDATE mails SET status = 'queued', next_at = now(), lease_token = NULL
WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'sending' AND lease_token = :token RETURNING id
""")


def list_due_organizations() -> DueOwners[UUID | None]:
    """Organizations with mails that are due; None for mails of nobody's organization."""
    with tenancy.system_session("mail.due") as session:
        return list_due(session)


def deliver_batch(organization_id: UUID | None) -> int:
    """Claim a bounded number of one organization's due mails and bring each to its next state.

    returns: how many were claimed
    """
    token = uuid.uuid4()
    rows = {row.id: row for row in _claim(organization_id, token)}
    fault_point("mail.after_claim")
    for row in [row for row in rows.values() if row.interruptions >= MAX_INTERRUPTIONS]:
        _finish(token, row.id, "failed", "poisoned")
        del rows[row.id]
    started, left = time.monotonic(), dict(rows)
    letters = [
        OutboundEmail(row.id, row.recipient, row.subject, row.text_body, row.html_body, row.created_at)
        for row in rows.values()
    ]
    with closing(selection.email_provider().deliver(letters)) as outcomes:
        for letter, outcome in outcomes:
            fault_point("mail.after_send")
            _apply_result(token, letter.id, rows[letter.id].attempts + 1, outcome)
            del left[letter.id]
            if queue.is_stopping() or time.monotonic() - started > CLAIM_DEADLINE_SECONDS:
                break
    if left:
        _write(_GIVE_BACK, {"ids": list(left), "token": token})
    return len(rows)


def _claim(organization_id: UUID | None, token: UUID) -> Sequence[Any]:
    values = {"org": organization_id, "token": token, "lease": setting("LEASE_SECONDS")}
    with tenancy.system_session("mail.deliver") as session:
        rows = session.execute(_CLAIM_MANY, {**values, "n": CLAIM_BATCH_SIZE}).all()
        return rows or session.execute(_CLAIM_ONE, {**values, "n": 1}).all()


def _apply_result(token: UUID, mail_id: UUID, attempt: int, outcome: SendResult) -> None:
    if outcome.kind == "sent":
        _finish(token, mail_id, "sent", None)
    elif outcome.kind == "rejected" or attempt >= MAX_ATTEMPTS:
        _finish(token, mail_id, "failed", outcome.error_code)
    else:
        delay = retries.retry_delay(attempt)
        _write(_RETRY, {"id": mail_id, "token": token, "delay": delay, "error": outcome.error_code})


def _finish(token: UUID, mail_id: UUID, status: str, error: str | None) -> None:
    values = {"id": mail_id, "token": token, "status": status, "error": error}
    _write(_FINISH, {**values, "with_tokens": list(TEMPLATES_WITH_TOKENS)})
    if status == "failed":
        log.warning("mail_failed", id=str(mail_id), error=error)


def _write(statement: sa.TextClause, values: dict[str, Any]) -> None:
    with tenancy.system_session("mail.deliver") as session:
        if not session.execute(statement, values).all():
            log.warning("leases_lost")
