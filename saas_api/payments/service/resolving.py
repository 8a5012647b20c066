"""What a person decides about payments and events that stand apart; money is booked by the provider's word alone."""

from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.queue import enqueue
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import audit
from saas_api.payments import queries
from saas_api.payments.models import Payment, ProviderEvent
from saas_api.payments.service import settlement
from saas_api.payments.service.inbox import INBOX
from saas_api.providers import payments as providers


class PaymentNotQuarantined(Conflict):
    """Only a payment that stands apart can be resolved by hand."""

    code, message = "PAYMENT_NOT_QUARANTINED", "This payment is not quarantined."


class EventNotQuarantined(Conflict):
    """Only an event that stands apart can be taken up again or resolved."""

    message = "This event is not quarantined."


class NothingToAsk(Conflict):
    """No provider can be asked about the payment: it was booked by hand, or no page was ever opened for it."""

    message = "There is nothing to ask a provider about this payment."


class ProviderSilent(Conflict):
    """The provider gives no answer, or is not configured here; nothing changed."""

    message = "The provider does not answer, or is not configured here. Nothing changed."


def ask_again(payment_id: UUID, actor: audit.Actor, reason: str) -> Payment:
    """Ask a payment's provider about it now and let it be what the answer says; a quarantined one too.

    raises: NotFound, NothingToAsk, ProviderSilent
    """
    found = _find(payment_id)
    if found.provider_reference is None or found.provider == "offline":
        raise NothingToAsk
    with as_system("payments.resolve") as session:
        _record(session, found, actor, "payment.asked_about", {"reason": reason, "was": found.state})
    try:
        outcome = settlement.settle(found.provider, found.provider_reference)
    except (providers.ProviderAway, LookupError) as cause:
        raise ProviderSilent from cause
    with as_system("payments.resolve") as session:
        payment = session.get_one(Payment, (found.organization_id, payment_id))
        data = {"reason": reason, "was": found.state, "is": payment.state, "outcome": outcome}
        _record(session, payment, actor, "payment.answered", data)
        return payment


def resolve(payment_id: UUID, actor: audit.Actor, reason: str) -> Payment:
    """Close a quarantined payment by hand, after what it was about has been set right with the provider.

    raises: NotFound, PaymentNotQuarantined
    """
    found = _find(payment_id)
    with as_system("payments.resolve") as session:
        key = (found.organization_id, payment_id)
        payment = session.get_one(Payment, key, with_for_update=True, populate_existing=True)
        if payment.state != "quarantined":
            raise PaymentNotQuarantined
        payment.state = "canceled"
        _record(session, payment, actor, "payment.resolved", {"reason": reason, "was": payment.failure_code})
        return payment


def take_up_again(provider: str, event_id: str, actor: audit.Actor, reason: str) -> None:
    """Let a quarantined event be due again, with all its tries before it: its provider is asked once more.

    raises: NotFound, EventNotQuarantined
    """
    with as_system("payments.resolve") as session:
        event = _lock(session, provider, event_id)
        _record_event(session, event, actor, "payment_event.taken_up", {"reason": reason, "was": event.error})
        anew = {"state": "received", "attempts": 0, "error": None, "processed_at": None, "next_at": sa.func.now()}
        is_it = sa.and_(ProviderEvent.provider == provider, ProviderEvent.event_id == event_id)
        session.execute(sa.update(ProviderEvent).where(is_it).values(anew))
        enqueue(session, INBOX)


def resolve_event(provider: str, event_id: str, actor: audit.Actor, reason: str) -> None:
    """Lay a quarantined event aside, after somebody has understood it; nothing is booked.

    raises: NotFound, EventNotQuarantined
    """
    with as_system("payments.resolve") as session:
        event = _lock(session, provider, event_id)
        event.state, event.processed_at = "ignored", clock.now()
        _record_event(session, event, actor, "payment_event.resolved", {"reason": reason, "was": event.error})


def _find(payment_id: UUID) -> Payment:
    with as_system("payments.resolve") as session:
        found = queries.by_id(session, payment_id)
    if found is None:
        raise NotFound
    return found


def _lock(session: Session, provider: str, event_id: str) -> ProviderEvent:
    event = session.get(ProviderEvent, (provider, event_id), with_for_update=True)
    if event is None:
        raise NotFound
    if event.state != "quarantined":
        raise EventNotQuarantined
    return event


def _record(
    session: Session, payment: Payment, actor: audit.Actor, action: str, data: Mapping[str, str | None]
) -> None:
    audit.record(session, payment.organization_id, actor, action, ("payment", payment.id), data)


def _record_event(
    session: Session, event: ProviderEvent, actor: audit.Actor, action: str, data: dict[str, str | None]
) -> None:
    """An event is nobody's: the platform's log alone tells of it."""
    target = ("payment_event", f"{event.provider}:{event.event_id}")
    audit.record(session, None, actor, action, target, {**data, "reference": event.reference})
