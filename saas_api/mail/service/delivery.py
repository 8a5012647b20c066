"""Handing mails over in three steps: claim and commit, call the provider with no transaction open, finish.

Every finishing statement is fenced by the lease's token. It erases the content of what has left, and of whatever holds
a one-time token; the rest of what failed is kept, so that it can be sent again.
"""

import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import observe, queue
from saas_api.core.lease import Due
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system
from saas_api.mail import queries, rules
from saas_api.providers import Letter, Outcome, mailer

log = observe.get_logger(__name__)

CLAIMED_AT_ONCE = 20
START_WITHIN_SECONDS = 12

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
_TRY_AGAIN = sa.text("""
UPDATE mails SET status = 'queued', attempts = attempts + 1, error_code = :error, next_at = now() + :delay,
  lease_token = NULL
WHERE id = :id AND status = 'sending' AND lease_token = :token RETURNING id
""")
_GIVE_BACK = sa.text("""
UPDATE mails SET status = 'queued', next_at = now(), lease_token = NULL
WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'sending' AND lease_token = :token RETURNING id
""")


def due() -> Due[UUID | None]:
    """Organizations with mails that are due; None for mails of nobody's organization."""
    with as_system("mail.due") as session:
        return queries.due(session)


def hand_over_some(organization_id: UUID | None) -> int:
    """Claim a bounded number of one organization's due mails and bring each to its next state.

    returns: how many were claimed
    """
    token = uuid.uuid4()
    rows = {row.id: row for row in _claim(organization_id, token)}
    observe.fault("mail.after_claim")
    for row in [row for row in rows.values() if row.interruptions >= rules.POISONED_AFTER]:
        _finish(token, row.id, "failed", "poisoned")
        del rows[row.id]
    started, left = time.monotonic(), dict(rows)
    letters = [
        Letter(row.id, row.recipient, row.subject, row.text_body, row.html_body, row.created_at)
        for row in rows.values()
    ]
    with closing(mailer().deliver(letters)) as outcomes:
        for letter, outcome in outcomes:
            observe.fault("mail.after_send")
            _settle(token, letter.id, rows[letter.id].attempts + 1, outcome)
            del left[letter.id]
            if queue.is_stopping() or time.monotonic() - started > START_WITHIN_SECONDS:
                break
    if left:
        _write(_GIVE_BACK, {"ids": list(left), "token": token})
    return len(rows)


def _claim(organization_id: UUID | None, token: UUID) -> Sequence[Any]:
    values = {"org": organization_id, "token": token, "lease": setting("LEASE_SECONDS")}
    with as_system("mail.deliver") as session:
        rows = session.execute(_CLAIM_MANY, {**values, "n": CLAIMED_AT_ONCE}).all()
        return rows or session.execute(_CLAIM_ONE, {**values, "n": 1}).all()


def _settle(token: UUID, mail_id: UUID, attempt: int, outcome: Outcome) -> None:
    if outcome.kind == "sent":
        _finish(token, mail_id, "sent", None)
    elif outcome.kind == "rejected" or attempt >= rules.LAST_ATTEMPT:
        _finish(token, mail_id, "failed", outcome.error_code)
    else:
        delay = rules.retry_delay(attempt)
        _write(_TRY_AGAIN, {"id": mail_id, "token": token, "delay": delay, "error": outcome.error_code})


def _finish(token: UUID, mail_id: UUID, status: str, error: str | None) -> None:
    values = {"id": mail_id, "token": token, "status": status, "error": error}
    _write(_FINISH, {**values, "with_tokens": list(rules.WITH_TOKENS)})
    if status == "failed":
        log.warning("mail_failed", id=str(mail_id), error=error)


def _write(statement: sa.TextClause, values: dict[str, Any]) -> None:
    with as_system("mail.deliver") as session:
        if not session.execute(statement, values).all():
            log.warning("leases_lost")
