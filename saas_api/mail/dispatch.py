"""Delivery of due mails: claim a batch, hand it to the mail provider, record the results."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

from rq.timeouts import JobTimeoutException

from saas_api.core.db import tenancy
from saas_api.core.faults import fault_point
from saas_api.core.jobs import outbox, queue, retries
from saas_api.core.jobs.outbox import Claim, Claimable, DueOwners, RowResult
from saas_api.core.observability import get_logger
from saas_api.mail import attachments
from saas_api.mail.mails import TEMPLATES_WITH_TOKENS, MailStatus
from saas_api.providers import selection
from saas_api.providers.mail import OutboundEmail
from saas_api.providers.messages import SendResult

log = get_logger(__name__)

CLAIM_BATCH_SIZE = 20
MAX_SENDING_SECONDS = 12
_TOKEN_TEMPLATES = ", ".join(f"'{template}'" for template in TEMPLATES_WITH_TOKENS)
_KEEPS_CONTENT = f"v.status = 'queued' OR v.status = 'failed' AND r.template NOT IN ({_TOKEN_TEMPLATES})"

MAILS = Claimable(
    name="mails",
    table="mails",
    owner=("organization_id",),
    claimed="r.recipient, r.subject, r.text_body, r.html_body, r.attachment, r.created_at",
    assignments={
        column: f"CASE WHEN {_KEEPS_CONTENT} THEN r.{column} END" for column in ("subject", "text_body", "html_body")
    },
)


def list_due_organizations() -> DueOwners[UUID | None]:
    """Organizations with due mails; None for mails that belong to no organization."""
    with tenancy.system_session("mail.due") as session:
        return outbox.list_due(session, MAILS)


def deliver_batch(organization_id: UUID | None) -> int:
    """Claim due mails of an organization, send them and record the results.

    returns: the number of claimed mails that were sent or given back
    """
    claim = claim_batch(organization_id)
    fault_point("mail.after_claim")
    for result in claim.interrupted_too_often:
        record_result(claim, result)
    failed_ids = {result.id for result in claim.interrupted_too_often}
    unsent = {row.id: row for row in claim.rows if row.id not in failed_ids}
    count, started = len(unsent), time.monotonic()
    with closing(selection.email_provider().deliver(_iter_emails(claim, unsent))) as outcomes:
        for email, outcome in outcomes:
            fault_point("mail.after_send")
            record_result(claim, _result(email.id, unsent.pop(email.id).attempts + 1, outcome))
            if queue.is_stopping() or time.monotonic() - started > MAX_SENDING_SECONDS:
                break
    if unsent:
        with tenancy.system_session("mail.deliver") as session:
            outbox.give_back(session, claim, list(unsent))
    return count


def _iter_emails(claim: Claim, unsent: dict[UUID, Any]) -> Iterator[OutboundEmail]:
    """Build the claimed mails one by one, so that one file at a time is held.

    A mail whose file cannot be rendered is retried as after a failed sending, and leaves `unsent`. The last attempt
    sends it without the file, which its link leads to.
    """
    for row in list(unsent.values()):
        attempt, file = row.attempts + 1, None
        if row.attachment:
            try:
                file = attachments.render(claim.owner[0], row.attachment)
            except JobTimeoutException:
                raise
            except Exception:  # whatever a renderer raises must not lose the mail, nor delay the others
                log.exception("attachment_not_rendered", id=str(row.id), attempt=attempt)
                if attempt < MAILS.max_attempts:
                    del unsent[row.id]
                    record_result(claim, RowResult.retry(row.id, retries.retry_delay(attempt), "attachment_failed"))
                    continue
        yield OutboundEmail(row.id, row.recipient, row.subject, row.text_body, row.html_body, row.created_at, file)


def claim_batch(organization_id: UUID | None) -> Claim:
    """Claim due mails of an organization and commit."""
    with tenancy.system_session("mail.deliver") as session:
        return outbox.claim(session, MAILS, organization_id, limit=CLAIM_BATCH_SIZE)


def record_result(claim: Claim, result: RowResult) -> None:
    """Write one result at once, so that a mail that was sent is not sent again because a later one was slow."""
    with tenancy.system_session("mail.deliver") as session:
        outbox.record(session, claim, [result])
    if result.status == MailStatus.FAILED:
        log.warning("mail_failed", id=str(result.id), error=result.error_code)


def _result(mail_id: UUID, attempt: int, outcome: SendResult) -> RowResult:
    if outcome.kind == "sent":
        return RowResult(mail_id, MailStatus.SENT)
    if outcome.kind == "rejected" or attempt >= MAILS.max_attempts:
        return RowResult(mail_id, MailStatus.FAILED, outcome.error_code)
    return RowResult.retry(mail_id, retries.retry_delay(attempt), outcome.error_code)
