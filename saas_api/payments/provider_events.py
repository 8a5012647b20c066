"""The inbox of provider events: verifies and stores them, then settles the payments that they refer to."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import select, text

from saas_api.accounts import operators
from saas_api.core import clock
from saas_api.core.db import cells, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import BadRequest, Unauthenticated
from saas_api.core.faults import fault_point
from saas_api.core.jobs import outbox, queue
from saas_api.core.jobs.outbox import Claim, Claimable, DueOwners, RowResult
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.payments import payment_methods, payments, provider_checks, reversals
from saas_api.payments.models import ProviderEvent, ProviderEventStatus
from saas_api.payments.payments import SettlementOutcome
from saas_api.providers import selection
from saas_api.providers.payments import MalformedEvent, ProviderUnreachable, SignatureMismatch

log = get_logger(__name__)

INBOX_JOB = "payments.inbox"
CLAIM_BATCH_SIZE = 10
MAX_PROCESSING_SECONDS = 12
"""Calls of the provider begin in this time; the last one still ends within a lease of thirty seconds."""

INBOX = Claimable(
    name="provider_events",
    table="provider_events",
    owner=("provider",),
    claimed="r.event_id, r.event_type, r.reference",
)


class MissingSignature(Unauthenticated):
    """The event has no signature header."""

    code, message = "MISSING_SIGNATURE", "This event is not signed."


class InvalidSignature(Unauthenticated):
    """The signature does not match, or is too old."""

    code, message = "INVALID_SIGNATURE", "The signature of this event is not valid."


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
        return outbox.list_due(session, INBOX)


def process_batch(provider: str) -> int:
    """Claim up to ten due events of a provider and process each, in transactions of its own.

    returns: number of claimed events
    """
    claim = claim_batch(provider)
    fault_point("payments.after_claim")
    unprocessed, started = {row.id: row for row in claim.rows}, time.monotonic()
    for event in claim.rows:
        _record_result(claim, event, _process_event(provider, event))
        del unprocessed[event.id]
        if queue.is_stopping() or time.monotonic() - started > MAX_PROCESSING_SECONDS:
            break
    if unprocessed:
        with tenancy.system_session("payments.inbox") as session:
            outbox.give_back(session, claim, list(unprocessed))
    return len(claim.rows)


def claim_batch(provider: str) -> Claim:
    """Claim due events of a provider and commit."""
    with tenancy.system_session("payments.inbox") as session:
        return outbox.claim(session, INBOX, provider, limit=CLAIM_BATCH_SIZE)


_FINAL_RESULTS: Mapping[SettlementOutcome, tuple[ProviderEventStatus, str | None]] = {
    SettlementOutcome.UNKNOWN: (ProviderEventStatus.QUARANTINED, "unknown_reference"),
    SettlementOutcome.QUARANTINED: (ProviderEventStatus.QUARANTINED, None),
}


def _process_event(provider: str, event: Any) -> RowResult:
    if event.interruptions >= INBOX.max_interruptions:
        return RowResult(event.id, ProviderEventStatus.QUARANTINED, "poisoned")
    is_reversal = provider_checks.is_reversal_event(provider, event.event_type)
    if event.reference is None or not (is_reversal or provider_checks.is_payment_event(provider, event.event_type)):
        return RowResult(event.id, ProviderEventStatus.IGNORED)
    try:
        apply = reversals.apply_reversals if is_reversal else payments.settle_payment
        outcome = _apply_in_its_cell(apply, provider, event.reference)
    except (ProviderUnreachable, LookupError) as error:
        log.warning("event_not_asked", provider=provider, event_id=event.event_id, error=str(error))
        return _retry_or_quarantine(event, "not_asked")
    except Exception as error:  # one event must not stop the others
        log.exception("event_failed", provider=provider, event_id=event.event_id)
        return _retry_or_quarantine(event, type(error).__name__)
    if outcome == SettlementOutcome.OPEN:
        return _retry_or_quarantine(event, "not_decided")
    return RowResult(event.id, *_FINAL_RESULTS.get(outcome, (ProviderEventStatus.PROCESSED, None)))


def _apply_in_its_cell(
    apply: Callable[[str, str], SettlementOutcome], provider: str, reference: str
) -> SettlementOutcome:
    def apply_in_cell() -> SettlementOutcome | None:
        outcome = apply(provider, reference)
        if outcome == SettlementOutcome.UNKNOWN:  # a page that saves a method has events like a checkout
            outcome = payment_methods.settle_setup(provider, reference)
        return None if outcome == SettlementOutcome.UNKNOWN else outcome

    return cells.search(apply_in_cell) or SettlementOutcome.UNKNOWN


def _retry_or_quarantine(event: Any, error_code: str) -> RowResult:
    delay = provider_checks.event_retry_delay(event.attempts + 1)
    if delay is None:
        return RowResult(event.id, ProviderEventStatus.QUARANTINED, error_code)
    return RowResult.retry(event.id, delay / setting("TIME_SCALE"), error_code)


def _record_result(claim: Claim, event: Any, result: RowResult) -> None:
    [provider] = claim.owner
    with tenancy.system_session("payments.inbox") as session:
        is_recorded = bool(outbox.record(session, claim, [result]))
        if is_recorded and result.status == ProviderEventStatus.QUARANTINED and result.error_code:
            detail = (
                f"{provider} event {event.event_id} ({event.event_type}) about {event.reference}: {result.error_code}."
            )
            operators.send_alert(session, "a payment event is quarantined", detail)
