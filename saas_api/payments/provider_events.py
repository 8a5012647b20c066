"""The inbox of provider events: receive, process, retry."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.errors import BadRequest, Unauthenticated
from saas_api.core.faults import fault_point
from saas_api.core.jobs import queue
from saas_api.core.jobs.outbox import LOOKAHEAD_SECONDS, DueOwners
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.payments import events, payments, provider_checks
from saas_api.payments.models import ProviderEvent
from saas_api.payments.payments import OPEN, QUARANTINED, UNKNOWN
from saas_api.providers import selection
from saas_api.providers.payments import MalformedEvent, ProviderUnreachable, SignatureMismatch

log = get_logger(__name__)
_DUE_EVENTS = text("""
SELECT provider, min(extract(epoch FROM next_at - now()))::float8 AS seconds FROM provider_events
 WHERE state = 'received' GROUP BY provider
""")


def list_due_providers(session: Session) -> list[tuple[str, float]]:
    """Providers with events to work off, and in how many seconds the first is due."""
    return [(provider, float(seconds)) for provider, seconds in session.execute(_DUE_EVENTS)]


def list_quarantined_events(session: Session, limit: int) -> Sequence[ProviderEvent]:
    """Events that nobody could make sense of, newest first."""
    return session.scalars(
        select(ProviderEvent)
        .where(ProviderEvent.state == "quarantined")
        .order_by(ProviderEvent.received_at.desc())
        .limit(limit)
    ).all()


INBOX_JOB = "payments.inbox"
CLAIM_BATCH_SIZE = 10

_INSERT_EVENT = sa.text("""
INSERT INTO provider_events (provider, event_id, event_type, reference, body, next_at, received_at)
VALUES (:provider, :event_id, :kind, :reference, :body, now(), :at) ON CONFLICT DO NOTHING
""")
_CLAIM = sa.text("""
WITH due AS (SELECT provider, event_id FROM provider_events
  WHERE provider = :provider AND state = 'received' AND next_at <= now()
  ORDER BY next_at LIMIT :n FOR UPDATE SKIP LOCKED)
UPDATE provider_events e SET attempts = e.attempts + 1, next_at = now() + interval '2 min'
FROM due WHERE e.provider = due.provider AND e.event_id = due.event_id
RETURNING e.event_id, e.event_type, e.reference, e.attempts
""")
_FINISH = sa.text("""
UPDATE provider_events SET state = :state, error = :error, next_at = NULL, processed_at = :at
 WHERE provider = :provider AND event_id = :event_id AND state = 'received' RETURNING event_id
""")
_RETRY = sa.text("""
UPDATE provider_events SET error = :error, next_at = now() + :delay
 WHERE provider = :provider AND event_id = :event_id AND state = 'received'
""")


class MissingSignature(Unauthenticated):
    """A payment event came without the header that signs it."""

    code, message = "MISSING_SIGNATURE", "This event is not signed."


class InvalidSignature(Unauthenticated):
    """The signature is not the provider's, or too old."""

    code, message = "INVALID_SIGNATURE", "The signature of this event is not valid."


def receive_event(provider: str, body: bytes, signature: str | None) -> None:
    """Keep a signed event, whatever it says, and wake the inbox once it is kept; a repetition changes nothing.

    raises: MissingSignature, InvalidSignature, Malformed
    """
    if not signature:
        raise MissingSignature
    if not signature.isascii():
        raise InvalidSignature
    try:
        notice = selection.payment_provider(provider).verify_event(body, signature)
    except (SignatureMismatch, LookupError) as cause:
        raise InvalidSignature from cause
    except MalformedEvent as cause:
        raise BadRequest("The event cannot be read.") from cause
    values = {
        "provider": provider,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "reference": notice.reference,
        "body": body,
        "at": clock.now(),
    }
    with tenancy.system_session("payments.inbox") as session:
        session.execute(_INSERT_EVENT, values)
        queue.enqueue(session, INBOX_JOB)
    fault_point("payments.after_inbox")


def list_due() -> DueOwners[str]:
    """Providers with events that are due."""
    with tenancy.system_session("payments.inbox") as session:
        found = list_due_providers(session)
    later = [seconds for _, seconds in found if 0 < seconds <= LOOKAHEAD_SECONDS]
    return DueOwners([provider for provider, seconds in found if seconds <= 0], min(later, default=None))


def process_batch(provider: str) -> int:
    """Claim a few of a provider's due events and bring each to an end or to its next try.

    returns: how many were claimed
    """
    with tenancy.system_session("payments.inbox") as session:
        rows = session.execute(_CLAIM, {"provider": provider, "n": CLAIM_BATCH_SIZE}).all()
    fault_point("payments.after_claim")
    for row in rows:
        _process_event(provider, row)
    return len(rows)


def _process_event(provider: str, row: Any) -> None:
    if row.reference is None or not provider_checks.is_payment_event(provider, row.event_type):
        _finish(provider, row, "ignored")
        return
    try:
        outcome = payments.settle_payment(provider, row.reference)
    except (ProviderUnreachable, LookupError) as error:
        _try_again(provider, row, f"not asked: {error}")
        return
    except Exception as error:  # the event keeps its place, and the next one its turn
        log.exception("event_failed", provider=provider, event_id=row.event_id)
        _try_again(provider, row, type(error).__name__)
        return
    if outcome == OPEN:
        _try_again(provider, row, "not decided")
    elif outcome == UNKNOWN:
        _finish(provider, row, "quarantined", "unknown_reference")
    else:
        _finish(provider, row, "quarantined" if outcome == QUARANTINED else "processed")


def _try_again(provider: str, row: Any, error: str) -> None:
    delay = provider_checks.event_retry_delay(row.attempts)
    if delay is None:
        _finish(provider, row, "quarantined", error)
        return
    values = {"provider": provider, "event_id": row.event_id, "error": error[:500]}
    with tenancy.system_session("payments.inbox") as session:
        session.execute(_RETRY, {**values, "delay": delay / setting("TIME_SCALE")})


def _finish(provider: str, row: Any, state: str, error: str | None = None) -> None:
    values = {"provider": provider, "event_id": row.event_id, "state": state, "error": error, "at": clock.now()}
    with tenancy.system_session("payments.inbox") as session:
        is_done_here = session.execute(_FINISH, values).first() is not None
        if is_done_here and state == "quarantined" and error:
            detail = f"{provider} event {row.event_id} ({row.event_type}) about {row.reference}: {error}."
            events.email_operators(session, "a payment event is quarantined", detail)
