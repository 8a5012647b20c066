"""Delivery of due messages: claim a batch, call the providers, record the results."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.billing import periods
from saas_api.core import clock
from saas_api.core.db import engine, tenancy
from saas_api.core.faults import fault_point
from saas_api.core.jobs import counters, outbox, retries
from saas_api.core.jobs.outbox import Claim, Claimable, DueOwners, RowResult
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.messages import events as message_events
from saas_api.messages import messages
from saas_api.messages.models import MessageStatus
from saas_api.providers import selection
from saas_api.providers.messages import OutboundMessage, SendResult
from saas_api.webhooks import events as webhook_events

log = get_logger(__name__)

CLAIM_BATCH_SIZE = 200
MAX_SENDING_SHARE = 0.4
"""Part of a lease in which calls of providers may begin."""

MESSAGES = Claimable(
    name="messages",
    table="messages",
    owner=("organization_id",),
    claimed="""r.mode, r.channel, r.recipient, r.subject, r.body, r.expires_at <= now() AS is_expired,
      extract(epoch FROM r.expires_at - now())::float8 AS seconds_left""",
    recorded=f"""r.id, r.channel, r.recipient, r.subject, r.segments, r.cost, r.currency, r.mode, r.status, r.attempts,
      r.error_code, r.accepted_at, r.sent_at, CASE WHEN r.status = 'delivered' THEN r.finished_at END AS delivered_at,
      {webhook_events.STORES_EVENTS_CLAUSE.format(org=":owner_0", mode="r.mode")} AS has_event""",
    result_columns={"provider_reference": "text"},
    assignments={
        "provider_reference": "v.provider_reference",
        "sent_at": "CASE WHEN v.status NOT IN ('queued', 'failed') THEN now() END",
        "cost": f"CASE WHEN v.status = 'failed' THEN {messages.REVERSED_COST_SQL} ELSE r.cost END",
    },
)
_NO_OPEN_PERIOD = "usage_events.billing_period_id"


def list_due_organizations() -> DueOwners[UUID]:
    """Organizations with due messages."""
    with tenancy.system_session("messages.due") as session:
        return outbox.list_due(session, MESSAGES)


def deliver_batch(organization_id: UUID) -> int:
    """Claim due messages of an organization, send them and record the results.

    returns: the number of claimed messages
    """
    claim = claim_batch(organization_id)
    fault_point("claim.after_commit")
    unsendable = {result.id: result for result in claim.interrupted_too_often}
    for row in claim.rows:
        if row.is_expired:
            unsendable.setdefault(row.id, RowResult(row.id, MessageStatus.FAILED, "expired"))
    record_results(organization_id, claim, list(unsendable.values()))
    _send(organization_id, claim, [row for row in claim.rows if row.id not in unsendable])
    return len(claim.rows)


def claim_batch(organization_id: UUID) -> Claim:
    """Claim due messages of an organization and commit."""
    with tenancy.tenant_session(organization_id) as session:
        return outbox.claim(session, MESSAGES, organization_id, limit=CLAIM_BATCH_SIZE)


def _send(organization_id: UUID, claim: Claim, rows: Sequence[Any]) -> None:
    rows_by_provider: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        rows_by_provider[row.channel, row.mode].append(row)
    started = time.monotonic()
    expires_at = {row.id: started + row.seconds_left for row in rows}
    for (channel, mode), provider_rows in rows_by_provider.items():
        if time.monotonic() - started > MAX_SENDING_SHARE * setting("LEASE_SECONDS"):
            with tenancy.tenant_session(organization_id) as session:
                outbox.give_back(session, claim, [row.id for row in provider_rows])
            continue
        outbound = [
            OutboundMessage(row.id, row.channel, row.recipient, row.subject, row.body, row.attempts + 1)
            for row in provider_rows
        ]
        for batch in _call_provider(channel, mode, outbound):
            fault_point("provider.after_send")
            results = [_result(message, outcome, expires_at[message.id]) for message, outcome in batch]
            record_results(organization_id, claim, results)


def _call_provider(
    channel: str, mode: str, outbound: Sequence[OutboundMessage]
) -> Iterator[list[tuple[OutboundMessage, SendResult]]]:
    """Results of the provider; a retry of every message where there is none, until they expire."""
    try:
        provider = selection.message_provider(channel, mode)
    except LookupError as error:
        log.warning("no_message_provider", reason=str(error), messages=len(outbound))
        yield [(message, SendResult("retry", "provider_unavailable")) for message in outbound]
        return
    yield from provider.send_many(outbound)


def _result(message: OutboundMessage, outcome: SendResult, expires_at: float) -> RowResult:
    """Next state of a message after a provider's answer; `expires_at` is on the monotonic clock."""
    if outcome.kind == "rejected":
        return RowResult(message.id, MessageStatus.FAILED, outcome.error_code)
    if outcome.kind != "retry":
        return RowResult(message.id, outcome.kind, values={"provider_reference": outcome.reference})
    if message.attempt >= MESSAGES.max_attempts:
        return RowResult(message.id, MessageStatus.FAILED, "provider_unavailable")
    delay = retries.retry_delay(message.attempt, outcome.retry_after) / setting("TIME_SCALE")
    if time.monotonic() + delay.total_seconds() >= expires_at:
        return RowResult(message.id, MessageStatus.FAILED, "expired")
    return RowResult.retry(message.id, delay, outcome.error_code)


def record_results(organization_id: UUID, claim: Claim, results: Sequence[RowResult]) -> None:
    """Write results under the token of their claim; publish the events and reverse the usage of failed messages."""
    if not results:
        return
    try:
        with tenancy.tenant_session(organization_id) as session:
            _write_results(session, organization_id, claim, results)
    except IntegrityError as error:
        if engine.violated_constraint(error) != _NO_OPEN_PERIOD:
            raise
        with tenancy.tenant_session(organization_id) as session:
            periods.ensure_period(session, organization_id, clock.now())
        with tenancy.tenant_session(organization_id) as session:
            _write_results(session, organization_id, claim, results)


def _write_results(session: Session, organization_id: UUID, claim: Claim, results: Sequence[RowResult]) -> None:
    if any(result.status == MessageStatus.FAILED for result in results):
        periods.lock_periods_shared(session, organization_id)
    rows = outbox.record(session, claim, results)
    messages.reverse_usage(session, organization_id, [row.id for row in rows if row.status == MessageStatus.FAILED])
    finished = [row for row in rows if row.status != MessageStatus.QUEUED]
    new_events = [message_events.status_event(row) for row in finished if row.has_event]
    webhook_events.publish_many(session, organization_id, new_events)
    for row in finished:
        counters.increment("messages_finished_total", row.status)
