"""Claim due messages, send, record (over core.jobs.outbox)."""

import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from saas_api.billing import periods
from saas_api.core import clock
from saas_api.core.db import engine, tenancy
from saas_api.core.faults import fault_point
from saas_api.core.jobs import counters, retries
from saas_api.core.jobs.outbox import LOOKAHEAD_SECONDS, DueOwners
from saas_api.core.jobs.retries import MAX_ATTEMPTS, MAX_INTERRUPTIONS
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.messages import events as message_events
from saas_api.messages import messages
from saas_api.messages.events import MessageEventData
from saas_api.providers import selection
from saas_api.providers.messages import OutboundMessage, SendResult
from saas_api.webhooks import events as webhook_events

log = get_logger(__name__)

MAX_ORGANIZATIONS_PER_SCAN = 200


# A loose index scan: one step of the index an organization, however many rows each has.
_DUE = sa.text("""
WITH RECURSIVE o AS (
  (SELECT organization_id FROM messages WHERE status IN ('queued', 'sending') ORDER BY organization_id LIMIT 1)
  UNION ALL
  SELECT (SELECT m.organization_id FROM messages m WHERE m.status IN ('queued', 'sending')
            AND m.organization_id > o.organization_id ORDER BY m.organization_id LIMIT 1)
    FROM o WHERE o.organization_id IS NOT NULL)
SELECT o.organization_id, extract(epoch FROM first.next_at - now())::float8 AS seconds
  FROM o CROSS JOIN LATERAL (SELECT m.next_at FROM messages m WHERE m.organization_id = o.organization_id
    AND m.status IN ('queued', 'sending') ORDER BY m.next_at LIMIT 1) first
 WHERE o.organization_id IS NOT NULL AND first.next_at < now() + make_interval(secs => :soon) ORDER BY 2 LIMIT :limit
""")


def list_due(session: Session) -> DueOwners[UUID]:
    """Organizations with a message that is due, the longest waiting first.

    session: of the system
    """
    rows = session.execute(_DUE, {"soon": LOOKAHEAD_SECONDS, "limit": MAX_ORGANIZATIONS_PER_SCAN}).all()
    later = [row.seconds for row in rows if row.seconds > 0]
    return DueOwners([row.organization_id for row in rows if row.seconds <= 0], min(later, default=None))


CLAIM_BATCH_SIZE = 100
CLAIM_DEADLINE_SECONDS = 0.4  # of the lease
_NO_OPEN_PERIOD = "usage_events.billing_period_id"

# Rows that were interrupted three times come alone, so that what kills a worker kills it with nothing else in hand.
_CLAIM = """
WITH due AS (SELECT id, status FROM messages WHERE organization_id = :org AND status IN ('queued', 'sending')
  AND next_at <= now() AND interruptions {interrupted} 3 ORDER BY next_at LIMIT :n FOR UPDATE SKIP LOCKED)
UPDATE messages m SET status = 'sending', interruptions = m.interruptions + (m.status = 'sending')::int,
  lease_token = :token, next_at = now() + make_interval(secs => :lease)
FROM due WHERE m.organization_id = :org AND m.id = due.id
RETURNING m.id, m.mode, m.channel, m.recipient, m.subject, m.body, m.segments, m.attempts, m.interruptions,
  due.status = 'sending' AS was_interrupted,
  m.expires_at <= now() AS is_expired, extract(epoch FROM m.expires_at - now())::float8 AS seconds_left
"""
_CLAIM_MANY = sa.text(_CLAIM.format(interrupted="<"))
_CLAIM_ONE = sa.text(_CLAIM.format(interrupted=">="))
_FINISH = sa.text("""
UPDATE messages m SET status = v.status, attempts = m.attempts + 1, error_code = v.error,
  provider_reference = v.reference, sent_at = CASE WHEN v.status <> 'failed' THEN now() END, finished_at = now(),
  next_at = NULL, lease_token = NULL
FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:errors AS text[]), CAST(:references AS text[]))
  AS v (id, status, error, reference)
WHERE m.organization_id = :org AND m.id = v.id AND m.status = 'sending' AND m.lease_token = :token
RETURNING m.id, m.channel, m.recipient, m.segments, m.mode, m.status, m.attempts, m.error_code
""")
_GIVE_BACK = sa.text("""
UPDATE messages m SET status = 'queued', attempts = m.attempts + v.tries, next_at = now() + v.delay,
  lease_token = NULL, error_code = coalesce(v.error, m.error_code)
FROM unnest(CAST(:ids AS uuid[]), CAST(:tries AS int[]), CAST(:delays AS interval[]), CAST(:errors AS text[]))
  AS v (id, tries, delay, error)
WHERE m.organization_id = :org AND m.id = v.id AND m.status = 'sending' AND m.lease_token = :token RETURNING m.id
""")


@dataclass(frozen=True)
class _FinalResult:
    id: UUID
    status: str
    error_code: str | None
    reference: str | None = None


@dataclass(frozen=True)
class _RetryResult:
    id: UUID
    tries: int
    delay: timedelta
    error_code: str | None


def list_due_organizations() -> DueOwners[UUID]:
    """Organizations with messages that are due."""
    with tenancy.system_session("messages.due") as session:
        return list_due(session)


def deliver_batch(organization_id: UUID) -> int:
    """Claim a bounded number of one organization's due messages and bring each to its next state.

    returns: how many were claimed
    """
    token = uuid.uuid4()
    rows = _claim(organization_id, token)
    counters.increment("interruptions_total", "messages", sum(row.was_interrupted for row in rows))
    fault_point("claim.after_commit")
    hopeless = [_FinalResult(row.id, "failed", "poisoned") for row in rows if row.interruptions >= MAX_INTERRUPTIONS]
    hopeless += [
        _FinalResult(row.id, "failed", "expired")
        for row in rows
        if row.is_expired and row.interruptions < MAX_INTERRUPTIONS
    ]
    if hopeless:
        _finish(organization_id, token, hopeless)
    settled = {final.id for final in hopeless}
    _send(organization_id, token, [row for row in rows if row.id not in settled])
    return len(rows)


def _claim(organization_id: UUID, token: UUID) -> Sequence[Any]:
    values = {"org": organization_id, "token": token, "lease": setting("LEASE_SECONDS")}
    with tenancy.tenant_session(organization_id) as session:
        rows = session.execute(_CLAIM_ONE, {**values, "n": 1}).all()
        return rows or session.execute(_CLAIM_MANY, {**values, "n": CLAIM_BATCH_SIZE}).all()


def _send(organization_id: UUID, token: UUID, rows: Sequence[Any]) -> None:
    by_carrier: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        by_carrier[row.channel, row.mode].append(row)
    started = time.monotonic()
    ends_at = {row.id: started + row.seconds_left for row in rows}
    for (channel, mode), chosen in by_carrier.items():
        if time.monotonic() - started > CLAIM_DEADLINE_SECONDS * setting("LEASE_SECONDS"):
            _give_back(organization_id, token, [_RetryResult(row.id, 0, timedelta(0), None) for row in chosen])
            continue
        items = [
            OutboundMessage(row.id, row.channel, row.recipient, row.subject, row.body, row.attempts + 1)
            for row in chosen
        ]
        for group in selection.message_provider(channel, mode).send_many(items):
            fault_point("provider.after_send")
            _apply_results(organization_id, token, group, ends_at)


def _apply_results(
    organization_id: UUID, token: UUID, group: Sequence[tuple[OutboundMessage, SendResult]], ends_at: dict[UUID, float]
) -> None:
    finals: list[_FinalResult] = []
    again: list[_RetryResult] = []
    for item, outcome in group:
        delay = retries.retry_delay(item.attempt, outcome.retry_after) / setting("TIME_SCALE")
        if outcome.kind == "rejected":
            finals.append(_FinalResult(item.id, "failed", outcome.error_code))
        elif outcome.kind != "retry":
            finals.append(_FinalResult(item.id, outcome.kind, None, outcome.reference))
        elif item.attempt >= MAX_ATTEMPTS:
            finals.append(_FinalResult(item.id, "failed", "provider_unavailable"))
        elif time.monotonic() + delay.total_seconds() >= ends_at[item.id]:
            finals.append(_FinalResult(item.id, "failed", "expired"))
        else:
            again.append(_RetryResult(item.id, 1, delay, outcome.error_code))
    if finals:
        _finish(organization_id, token, finals)
    if again:
        _give_back(organization_id, token, again)


def _finish(organization_id: UUID, token: UUID, finals: Sequence[_FinalResult]) -> None:
    try:
        with tenancy.tenant_session(organization_id) as session:
            _write_finals(session, organization_id, token, finals)
    except IntegrityError as error:
        if engine.violated_constraint(error) != _NO_OPEN_PERIOD:
            raise
        with tenancy.tenant_session(organization_id) as session:
            periods.ensure_period(session, organization_id, clock.now())
        with tenancy.tenant_session(organization_id) as session:
            _write_finals(session, organization_id, token, finals)


def _write_finals(session: Session, organization_id: UUID, token: UUID, finals: Sequence[_FinalResult]) -> None:
    values = {
        "org": organization_id,
        "token": token,
        "ids": [final.id for final in finals],
        "statuses": [final.status for final in finals],
        "errors": [final.error_code for final in finals],
        "references": [final.reference for final in finals],
    }
    periods.lock_periods_shared(session, organization_id)
    written = session.execute(_FINISH, values).all()
    messages.reverse_usage(session, organization_id, [final.id for final in finals if final.status == "failed"])
    states = [MessageEventData(**row._mapping) for row in written]  # noqa: SLF001 - SQLAlchemy's public name
    webhook_events.publish_many(session, organization_id, [message_events.status_event(state) for state in states])
    for state in states:
        counters.increment("messages_finished_total", state.status)
    _log_lost_lease(len(finals) - len(written))


def _give_back(organization_id: UUID, token: UUID, again: Sequence[_RetryResult]) -> None:
    values = {
        "org": organization_id,
        "token": token,
        "ids": [one.id for one in again],
        "tries": [one.tries for one in again],
        "delays": [one.delay for one in again],
        "errors": [one.error_code for one in again],
    }
    with tenancy.tenant_session(organization_id) as session:
        written = session.execute(_GIVE_BACK, values).all()
    _log_lost_lease(len(again) - len(written))


def _log_lost_lease(count: int) -> None:
    if count:
        counters.increment("lease_lost_total", "messages", count)
        log.warning("leases_lost", count=count)
