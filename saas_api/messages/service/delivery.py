"""Delivering messages in three steps: claim and commit, call the provider with no transaction open, finish.

Every finishing statement is fenced by the lease's token: who lost the lease writes nothing.
"""

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

from saas_api.billing import service as billing
from saas_api.core import clock, lease, observe
from saas_api.core.db import constraint_of
from saas_api.core.lease import Due
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system, transaction
from saas_api.messages import queries, rules
from saas_api.messages.service.reversing import reverse
from saas_api.messages.service.telling import news_of
from saas_api.providers import Item, Outcome, carrier
from saas_api.webhooks import service as webhooks

log = observe.get_logger(__name__)

CLAIMED_AT_ONCE = 100
START_WITHIN = 0.4  # of the lease
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
class _Final:
    id: UUID
    status: str
    error_code: str | None
    reference: str | None = None


@dataclass(frozen=True)
class _Again:
    id: UUID
    tries: int
    delay: timedelta
    error_code: str | None


def due() -> Due[UUID]:
    """Organizations with messages that are due."""
    with as_system("messages.due") as session:
        return queries.due(session)


def deliver_some(organization_id: UUID) -> int:
    """Claim a bounded number of one organization's due messages and bring each to its next state.

    returns: how many were claimed
    """
    token = uuid.uuid4()
    rows = _claim(organization_id, token)
    lease.tally("interruptions_total", "messages", sum(row.was_interrupted for row in rows))
    observe.fault("claim.after_commit")
    hopeless = [_Final(row.id, "failed", "poisoned") for row in rows if row.interruptions >= rules.POISONED_AFTER]
    hopeless += [
        _Final(row.id, "failed", "expired")
        for row in rows
        if row.is_expired and row.interruptions < rules.POISONED_AFTER
    ]
    if hopeless:
        _finish(organization_id, token, hopeless)
    settled = {final.id for final in hopeless}
    _send(organization_id, token, [row for row in rows if row.id not in settled])
    return len(rows)


def _claim(organization_id: UUID, token: UUID) -> Sequence[Any]:
    values = {"org": organization_id, "token": token, "lease": setting("LEASE_SECONDS")}
    with transaction(organization_id) as session:
        rows = session.execute(_CLAIM_ONE, {**values, "n": 1}).all()
        return rows or session.execute(_CLAIM_MANY, {**values, "n": CLAIMED_AT_ONCE}).all()


def _send(organization_id: UUID, token: UUID, rows: Sequence[Any]) -> None:
    by_carrier: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        by_carrier[row.channel, row.mode].append(row)
    started = time.monotonic()
    ends_at = {row.id: started + row.seconds_left for row in rows}
    for (channel, mode), chosen in by_carrier.items():
        if time.monotonic() - started > START_WITHIN * setting("LEASE_SECONDS"):
            _give_back(organization_id, token, [_Again(row.id, 0, timedelta(0), None) for row in chosen])
            continue
        items = [Item(row.id, row.channel, row.recipient, row.subject, row.body, row.attempts + 1) for row in chosen]
        for group in carrier(channel, mode).send_many(items):
            observe.fault("provider.after_send")
            _settle(organization_id, token, group, ends_at)


def _settle(
    organization_id: UUID, token: UUID, group: Sequence[tuple[Item, Outcome]], ends_at: dict[UUID, float]
) -> None:
    finals: list[_Final] = []
    again: list[_Again] = []
    for item, outcome in group:
        delay = rules.retry_delay(item.attempt, outcome.retry_after) / setting("TIME_SCALE")
        if outcome.kind == "rejected":
            finals.append(_Final(item.id, "failed", outcome.error_code))
        elif outcome.kind != "retry":
            finals.append(_Final(item.id, outcome.kind, None, outcome.reference))
        elif item.attempt >= rules.LAST_ATTEMPT:
            finals.append(_Final(item.id, "failed", "provider_unavailable"))
        elif time.monotonic() + delay.total_seconds() >= ends_at[item.id]:
            finals.append(_Final(item.id, "failed", "expired"))
        else:
            again.append(_Again(item.id, 1, delay, outcome.error_code))
    if finals:
        _finish(organization_id, token, finals)
    if again:
        _give_back(organization_id, token, again)


def _finish(organization_id: UUID, token: UUID, finals: Sequence[_Final]) -> None:
    try:
        with transaction(organization_id) as session:
            _write_finals(session, organization_id, token, finals)
    except IntegrityError as error:
        if constraint_of(error) != _NO_OPEN_PERIOD:
            raise
        with transaction(organization_id) as session:
            billing.ensure_period(session, organization_id, clock.now())
        with transaction(organization_id) as session:
            _write_finals(session, organization_id, token, finals)


def _write_finals(session: Session, organization_id: UUID, token: UUID, finals: Sequence[_Final]) -> None:
    values = {
        "org": organization_id,
        "token": token,
        "ids": [final.id for final in finals],
        "statuses": [final.status for final in finals],
        "errors": [final.error_code for final in finals],
        "references": [final.reference for final in finals],
    }
    billing.hold_periods(session, organization_id)
    written = session.execute(_FINISH, values).all()
    reverse(session, organization_id, [final.id for final in finals if final.status == "failed"])
    states = [rules.State(**row._mapping) for row in written]  # noqa: SLF001 - SQLAlchemy's public name
    webhooks.publish_many(session, organization_id, [news_of(state) for state in states])
    for state in states:
        lease.tally("messages_finished_total", state.status)
    _note_lost(len(finals) - len(written))


def _give_back(organization_id: UUID, token: UUID, again: Sequence[_Again]) -> None:
    values = {
        "org": organization_id,
        "token": token,
        "ids": [one.id for one in again],
        "tries": [one.tries for one in again],
        "delays": [one.delay for one in again],
        "errors": [one.error_code for one in again],
    }
    with transaction(organization_id) as session:
        written = session.execute(_GIVE_BACK, values).all()
    _note_lost(len(again) - len(written))


def _note_lost(count: int) -> None:
    if count:
        lease.tally("lease_lost_total", "messages", count)
        log.warning("leases_lost", count=count)
