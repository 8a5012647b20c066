"""The inbox: a provider's event is verified over its bytes, kept once, answered; what it means is asked afterwards.

A claim moves an event's next look two minutes on, so what a killed worker held is simply due again.
"""

from typing import Any

import sqlalchemy as sa

from saas_api.core import clock, observe
from saas_api.core.errors import Malformed, Unauthenticated
from saas_api.core.lease import SOON_SECONDS, Due
from saas_api.core.queue import enqueue
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system
from saas_api.payments import queries
from saas_api.payments.rules import checking
from saas_api.payments.service import settlement
from saas_api.payments.service.telling import alert
from saas_api.providers import payments as providers

log = observe.get_logger(__name__)

INBOX = "payments.inbox"
CLAIMED_AT_ONCE = 10

_KEEP = sa.text("""
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
_TRY_AGAIN = sa.text("""
UPDATE provider_events SET error = :error, next_at = now() + :delay
 WHERE provider = :provider AND event_id = :event_id AND state = 'received'
""")


class MissingSignature(Unauthenticated):
    """A payment event came without the header that signs it."""

    code, message = "MISSING_SIGNATURE", "This event is not signed."


class InvalidSignature(Unauthenticated):
    """The signature is not the provider's, or too old."""

    code, message = "INVALID_SIGNATURE", "The signature of this event is not valid."


def receive(provider: str, body: bytes, signature: str | None) -> None:
    """Keep a signed event, whatever it says, and wake the inbox once it is kept; a repetition changes nothing.

    raises: MissingSignature, InvalidSignature, Malformed
    """
    if not signature:
        raise MissingSignature
    if not signature.isascii():
        raise InvalidSignature
    try:
        notice = providers.named(provider).read(body, signature)
    except (providers.Forged, LookupError) as cause:
        raise InvalidSignature from cause
    except providers.Unreadable as cause:
        raise Malformed("The event cannot be read.") from cause
    values = {
        "provider": provider,
        "event_id": notice.event_id,
        "kind": notice.kind,
        "reference": notice.reference,
        "body": body,
        "at": clock.now(),
    }
    with as_system("payments.inbox") as session:
        session.execute(_KEEP, values)
        enqueue(session, INBOX)
    observe.fault("payments.after_inbox")


def due() -> Due[str]:
    """Providers with events that are due."""
    with as_system("payments.inbox") as session:
        found = queries.due_providers(session)
    later = [seconds for _, seconds in found if 0 < seconds <= SOON_SECONDS]
    return Due([provider for provider, seconds in found if seconds <= 0], min(later, default=None))


def work_off_some(provider: str) -> int:
    """Claim a few of a provider's due events and bring each to an end or to its next try.

    returns: how many were claimed
    """
    with as_system("payments.inbox") as session:
        rows = session.execute(_CLAIM, {"provider": provider, "n": CLAIMED_AT_ONCE}).all()
    observe.fault("payments.after_claim")
    for row in rows:
        _work_off(provider, row)
    return len(rows)


def _work_off(provider: str, row: Any) -> None:
    if row.reference is None or not checking.is_about_a_payment(provider, row.event_type):
        _finish(provider, row, "ignored")
        return
    try:
        outcome = settlement.settle(provider, row.reference)
    except (providers.ProviderAway, LookupError) as error:
        _try_again(provider, row, f"not asked: {error}")
        return
    except Exception as error:  # the event keeps its place, and the next one its turn
        log.exception("event_failed", provider=provider, event_id=row.event_id)
        _try_again(provider, row, type(error).__name__)
        return
    if outcome == settlement.OPEN:
        _try_again(provider, row, "not decided")
    elif outcome == settlement.UNKNOWN:
        _finish(provider, row, "quarantined", "unknown_reference")
    else:
        _finish(provider, row, "quarantined" if outcome == settlement.QUARANTINED else "processed")


def _try_again(provider: str, row: Any, error: str) -> None:
    delay = checking.retry_delay(row.attempts)
    if delay is None:
        _finish(provider, row, "quarantined", error)
        return
    values = {"provider": provider, "event_id": row.event_id, "error": error[:500]}
    with as_system("payments.inbox") as session:
        session.execute(_TRY_AGAIN, {**values, "delay": delay / setting("TIME_SCALE")})


def _finish(provider: str, row: Any, state: str, error: str | None = None) -> None:
    values = {"provider": provider, "event_id": row.event_id, "state": state, "error": error, "at": clock.now()}
    with as_system("payments.inbox") as session:
        is_done_here = session.execute(_FINISH, values).first() is not None
        if is_done_here and state == "quarantined" and error:
            detail = f"{provider} event {row.event_id} ({row.event_type}) about {row.reference}: {error}."
            alert(session, "a payment event is quarantined", detail)
