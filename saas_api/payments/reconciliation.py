"""Pending payments asked again; quarantined payments and events resolved by an operator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.jobs import queue
from saas_api.core.observability import get_logger
from saas_api.payments import checkout, payments, provider_checks
from saas_api.payments.checkout import ProviderUnavailable
from saas_api.payments.models import Payment, ProviderEvent
from saas_api.payments.payments import OPEN
from saas_api.payments.provider_checks import EXPIRE_AFTER, PENDING_STATUSES
from saas_api.payments.provider_events import INBOX_JOB
from saas_api.providers.payments import ProviderUnreachable

log = get_logger(__name__)


def list_due_for_check(session: Session, at: datetime, limit: int) -> Sequence[Payment]:
    """Undecided payments that are to be asked about."""
    return session.scalars(
        select(Payment)
        .where(Payment.state.in_(PENDING_STATUSES), Payment.next_check_at <= at)
        .order_by(Payment.next_check_at)
        .limit(limit)
    ).all()


CHECK_BATCH_SIZE = 200


@dataclass
class ReconciliationResult:
    """What a round has done: payments it asked about, and those it could not finish."""

    asked: int = 0
    failed: list[UUID] = field(default_factory=list)


def reconcile_pending(at: datetime) -> ReconciliationResult:
    """Ask about every payment that is due to be asked about; a trouble with one does not hold up another."""
    rounds = ReconciliationResult()
    with tenancy.system_session("payments.janitor") as session:
        payments = list_due_for_check(session, at, CHECK_BATCH_SIZE)
    for payment in payments:
        rounds.asked += 1
        try:
            _reconcile_payment(payment)
        except Exception:
            log.exception("payment_not_looked_after", payment_id=str(payment.id))
            rounds.failed.append(payment.id)
            _postpone(payment)
    return rounds


def _reconcile_payment(payment: Payment) -> None:
    if payment.checkout_url is None:
        try:
            checkout.create_checkout_page(payment.organization_id, payment.id)
        except ProviderUnavailable:
            _schedule_next_check(payment, "provider_unavailable")
        else:
            _postpone(payment)
        return
    try:
        outcome = payments.settle_payment(payment.provider, payment.provider_reference or "")
    except (ProviderUnreachable, LookupError):
        _schedule_next_check(payment, "provider_unavailable")
        return
    if outcome == OPEN:
        _schedule_next_check(payment, "expired")


def _schedule_next_check(payment: Payment, code: str) -> None:
    if clock.now() - payment.created_at >= EXPIRE_AFTER:
        payments.expire_payment(payment.organization_id, payment.id, code)
    else:
        _postpone(payment)


def _postpone(payment: Payment) -> None:
    with tenancy.system_session("payments.janitor") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.state.in_(PENDING_STATUSES))
            .values(
                checks=payment.checks + 1, next_check_at=provider_checks.next_check_at(payment.checks + 1, clock.now())
            )
        )


class PaymentNotQuarantined(Conflict):
    """Only a payment that stands apart can be resolved by hand."""

    code, message = "PAYMENT_NOT_QUARANTINED", "This payment is not quarantined."


class EventNotQuarantined(Conflict):
    """Only an event that stands apart can be taken up again or resolved."""

    message = "This event is not quarantined."


class NoProviderToQuery(Conflict):
    """No provider can be asked about the payment: it was booked by hand, or no page was ever opened for it."""

    message = "There is nothing to ask a provider about this payment."


class ProviderNotResponding(Conflict):
    """The provider gives no answer, or is not configured here; nothing changed."""

    message = "The provider does not answer, or is not configured here. Nothing changed."


def recheck_payment(payment_id: UUID, actor: Actor, reason: str) -> Payment:
    """Ask a payment's provider about it now and let it be what the answer says; a quarantined one too.

    raises: NotFound, NothingToAsk, ProviderSilent
    """
    found = _find(payment_id)
    if found.provider_reference is None or found.provider == "offline":
        raise NoProviderToQuery
    with tenancy.system_session("payments.resolve") as session:
        _record(session, found, actor, "payment.asked_about", {"reason": reason, "was": found.state})
    try:
        outcome = payments.settle_payment(found.provider, found.provider_reference)
    except (ProviderUnreachable, LookupError) as cause:
        raise ProviderNotResponding from cause
    with tenancy.system_session("payments.resolve") as session:
        payment = session.get_one(Payment, (found.organization_id, payment_id))
        data = {"reason": reason, "was": found.state, "is": payment.state, "outcome": outcome}
        _record(session, payment, actor, "payment.answered", data)
        return payment


def resolve_payment(payment_id: UUID, actor: Actor, reason: str) -> Payment:
    """Close a quarantined payment by hand, after what it was about has been set right with the provider.

    raises: NotFound, PaymentNotQuarantined
    """
    found = _find(payment_id)
    with tenancy.system_session("payments.resolve") as session:
        key = (found.organization_id, payment_id)
        payment = session.get_one(Payment, key, with_for_update=True, populate_existing=True)
        if payment.state != "quarantined":
            raise PaymentNotQuarantined
        payment.state = "canceled"
        _record(session, payment, actor, "payment.resolved", {"reason": reason, "was": payment.failure_code})
        return payment


def retry_event(provider: str, event_id: str, actor: Actor, reason: str) -> None:
    """Let a quarantined event be due again, with all its tries before it: its provider is asked once more.

    raises: NotFound, EventNotQuarantined
    """
    with tenancy.system_session("payments.resolve") as session:
        event = _lock(session, provider, event_id)
        _record_event(session, event, actor, "payment_event.taken_up", {"reason": reason, "was": event.error})
        anew = {"state": "received", "attempts": 0, "error": None, "processed_at": None, "next_at": sa.func.now()}
        is_it = sa.and_(ProviderEvent.provider == provider, ProviderEvent.event_id == event_id)
        session.execute(sa.update(ProviderEvent).where(is_it).values(anew))
        queue.enqueue(session, INBOX_JOB)


def ignore_event(provider: str, event_id: str, actor: Actor, reason: str) -> None:
    """Lay a quarantined event aside, after somebody has understood it; nothing is booked.

    raises: NotFound, EventNotQuarantined
    """
    with tenancy.system_session("payments.resolve") as session:
        event = _lock(session, provider, event_id)
        event.state, event.processed_at = "ignored", clock.now()
        _record_event(session, event, actor, "payment_event.resolved", {"reason": reason, "was": event.error})


def _find(payment_id: UUID) -> Payment:
    with tenancy.system_session("payments.resolve") as session:
        found = payments.get_by_id(session, payment_id)
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


def _record(session: Session, payment: Payment, actor: Actor, action: str, data: Mapping[str, str | None]) -> None:
    audit.record_event(session, payment.organization_id, actor, action, ("payment", payment.id), data)


def _record_event(
    session: Session, event: ProviderEvent, actor: Actor, action: str, data: dict[str, str | None]
) -> None:
    """An event is nobody's: the platform's log alone tells of it."""
    target = ("payment_event", f"{event.provider}:{event.event_id}")
    audit.record_event(session, None, actor, action, target, {**data, "reference": event.reference})
