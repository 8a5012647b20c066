"""The inbox of provider events: verifies and stores them, then settles the payments that they refer to."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select, text

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import BadRequest, Unauthenticated
from saas_api.core.faults import fault_point
from saas_api.core.jobs import queue
from saas_api.core.jobs.outbox import LOOKAHEAD_SECONDS, DueOwners
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.payments import events, payments, provider_checks
from saas_api.payments.models import ProviderEvent, ProviderEventStatus
from saas_api.payments.payments import SettlementOutcome
from saas_api.providers import selection
from saas_api.providers.payments import MalformedEvent, ProviderUnreachable, SignatureMismatch

log = get_logger(__name__)

INBOX_JOB = "payments.inbox"
CLAIM_BATCH_SIZE = 10
MAX_ERROR_LENGTH = 500


class MissingSignature(Unauthenticated):
    """The event has no signature header."""

    code, message = "MISSING_SIGNATURE", "This event is not signed."


class InvalidSignature(Unauthenticated):
    """The signature does not match, or is too old."""

    code, message = "INVALID_SIGNATURE", "The signature of this event is not valid."


_DUE_EVENTS = text("""
SELECT provider, min(extract(epoch FROM next_at - now()))::float8 AS seconds FROM provider_events
 WHERE state = 'received' GROUP BY provider
""")


def list_due_providers(session: SystemSession) -> list[tuple[str, float]]:
    """Providers with unprocessed events, and the seconds until the first of each is due."""
    return [(provider, float(seconds)) for provider, seconds in session.execute(_DUE_EVENTS)]


def list_quarantined_events(session: SystemSession, limit: int) -> Sequence[ProviderEvent]:
    """Quarantined events, newest first."""
    return session.scalars(
        select(ProviderEvent)
        .where(ProviderEvent.status == ProviderEventStatus.QUARANTINED)
        .order_by(ProviderEvent.received_at.desc())
        .limit(limit)
    ).all()


_INSERT_EVENT = text("""
INSERT INTO provider_events (provider, event_id, event_type, reference, body, next_at, received_at)
VALUES (:provider, :event_id, :event_type, :reference, :body, now(), :at) ON CONFLICT DO NOTHING
""")
_CLAIM = text("""
WITH due AS (SELECT provider, event_id FROM provider_events
  WHERE provider = :provider AND state = 'received' AND next_at <= now()
  ORDER BY next_at LIMIT :n FOR UPDATE SKIP LOCKED)
UPDATE provider_events e SET attempts = e.attempts + 1, next_at = now() + interval '2 min'
FROM due WHERE e.provider = due.provider AND e.event_id = due.event_id
RETURNING e.event_id, e.event_type, e.reference, e.attempts
""")
_FINISH = text("""
UPDATE provider_events SET state = :status, error = :error, next_at = NULL, processed_at = :at
 WHERE provider = :provider AND event_id = :event_id AND state = 'received' RETURNING event_id
""")
_RETRY = text("""
UPDATE provider_events SET error = :error, next_at = now() + :delay
 WHERE provider = :provider AND event_id = :event_id AND state = 'received'
""")


def receive_event(provider: str, body: bytes, signature: str | None) -> None:
    """Verify and store a signed event, and wake the inbox, in a transaction of its own. Idempotent.

    raises: MissingSignature, InvalidSignature, BadRequest
    """
    if not signature:
        raise MissingSignature
    if not signature.isascii():
        raise InvalidSignature
    try:
        event = selection.payment_provider(provider).verify_event(body, signature)
    except (SignatureMismatch, LookupError) as cause:
        raise InvalidSignature from cause
    except MalformedEvent as cause:
        raise BadRequest("The event cannot be read.") from cause
    values = {
        "provider": provider,
        "event_id": event.event_id,
        "event_type": event.kind,
        "reference": event.reference,
        "body": body,
        "at": clock.now(),
    }
    with tenancy.system_session("payments.inbox") as session:
        session.execute(_INSERT_EVENT, values)
        queue.enqueue(session, INBOX_JOB)
    fault_point("payments.after_inbox")


def list_due() -> DueOwners[str]:
    """Providers with due events, for `outbox.drain_queue`."""
    with tenancy.system_session("payments.inbox") as session:
        providers = list_due_providers(session)
    later = [seconds for _, seconds in providers if 0 < seconds <= LOOKAHEAD_SECONDS]
    return DueOwners([provider for provider, seconds in providers if seconds <= 0], min(later, default=None))


def process_batch(provider: str) -> int:
    """Claim up to ten due events of a provider and process each, in transactions of its own.

    returns: number of claimed events
    """
    with tenancy.system_session("payments.inbox") as session:
        rows = session.execute(_CLAIM, {"provider": provider, "n": CLAIM_BATCH_SIZE}).all()
    fault_point("payments.after_claim")
    for event in rows:
        _process_event(provider, event)
    return len(rows)


def _process_event(provider: str, event: Row[Any]) -> None:
    if event.reference is None or not provider_checks.is_payment_event(provider, event.event_type):
        _finish(provider, event, ProviderEventStatus.IGNORED)
        return
    try:
        outcome = payments.settle_payment(provider, event.reference)
    except (ProviderUnreachable, LookupError) as error:
        _retry_or_quarantine(provider, event, f"not asked: {error}")
        return
    except Exception as error:  # one event must not stop the others
        log.exception("event_failed", provider=provider, event_id=event.event_id)
        _retry_or_quarantine(provider, event, type(error).__name__)
        return
    if outcome == SettlementOutcome.OPEN:
        _retry_or_quarantine(provider, event, "not decided")
    elif outcome == SettlementOutcome.UNKNOWN:
        _finish(provider, event, ProviderEventStatus.QUARANTINED, "unknown_reference")
    elif outcome == SettlementOutcome.QUARANTINED:
        _finish(provider, event, ProviderEventStatus.QUARANTINED)
    else:
        _finish(provider, event, ProviderEventStatus.PROCESSED)


def _retry_or_quarantine(provider: str, event: Row[Any], error: str) -> None:
    delay = provider_checks.event_retry_delay(event.attempts)
    if delay is None:
        _finish(provider, event, ProviderEventStatus.QUARANTINED, error)
        return
    values = {"provider": provider, "event_id": event.event_id, "error": error[:MAX_ERROR_LENGTH]}
    with tenancy.system_session("payments.inbox") as session:
        session.execute(_RETRY, {**values, "delay": delay / setting("TIME_SCALE")})


def _finish(provider: str, event: Row[Any], status: ProviderEventStatus, error: str | None = None) -> None:
    values = {"provider": provider, "event_id": event.event_id, "status": status, "error": error, "at": clock.now()}
    with tenancy.system_session("payments.inbox") as session:
        is_finished = session.execute(_FINISH, values).first() is not None
        if is_finished and status == ProviderEventStatus.QUARANTINED and error:
            detail = f"{provider} event {event.event_id} ({event.event_type}) about {event.reference}: {error}."
            events.email_operators(session, "a payment event is quarantined", detail)
