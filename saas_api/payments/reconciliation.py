"""Reconciliation: asks providers about pending payments; operators resolve quarantined payments and events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import select

from saas_api.accounts import audit
from saas_api.accounts.audit import Actor
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.faults import fault_point
from saas_api.core.jobs import queue
from saas_api.core.observability import get_logger
from saas_api.payments import automatic, checkout, payments, provider_checks
from saas_api.payments.checkout import ProviderUnavailable
from saas_api.payments.models import (
    PENDING_STATUSES,
    Payment,
    PaymentStatus,
    ProviderEvent,
    ProviderEventStatus,
)
from saas_api.payments.payments import SettlementOutcome
from saas_api.payments.provider_checks import EXPIRE_AFTER
from saas_api.payments.provider_events import INBOX_JOB
from saas_api.providers import selection
from saas_api.providers.payments import ProviderUnreachable

log = get_logger(__name__)
CHECK_BATCH_SIZE = 200


@dataclass
class ReconciliationResult:
    """Result of one reconciliation.

    checked: number of payments
    failed: ids of the payments that raised an error
    """

    checked: int = 0
    failed: list[UUID] = field(default_factory=list)


class PaymentNotQuarantined(Conflict):
    """The payment is not quarantined."""

    code, message = "PAYMENT_NOT_QUARANTINED", "This payment is not quarantined."


class EventNotQuarantined(Conflict):
    """The provider event is not quarantined."""

    message = "This event is not quarantined."


class NoProviderToQuery(Conflict):
    """No provider knows the payment: it was recorded offline, or has no checkout page."""

    message = "There is nothing to ask a provider about this payment."


class ProviderNotResponding(Conflict):
    """The provider does not answer or is not configured; nothing changed."""

    message = "The provider does not answer, or is not configured here. Nothing changed."


def list_due_for_check(session: SystemSession, at: datetime, limit: int) -> Sequence[Payment]:
    """Pending payments whose next check is due, the oldest check first."""
    return session.scalars(
        select(Payment)
        .where(Payment.status.in_(PENDING_STATUSES), Payment.next_check_at <= at)
        .order_by(Payment.next_check_at)
        .limit(limit)
    ).all()


def expire_outdated_checkouts(at: datetime) -> None:
    """Close the pages of up to 200 canceled payments at their providers, then ask whether they were paid before that.

    Opens transactions of its own. An error of one does not stop the others.
    """
    with tenancy.system_session("payments.janitor") as session:
        outdated = session.scalars(
            select(Payment)
            .where(Payment.status == PaymentStatus.CANCELED, Payment.next_check_at <= at)
            .order_by(Payment.next_check_at)
            .limit(CHECK_BATCH_SIZE)
        ).all()
    for payment in outdated:
        try:
            is_closed = _close_page(payment)
        except Exception:
            log.exception("checkout_not_expired", payment_id=str(payment.id))
            is_closed = False
        _schedule_expiry(payment, None if is_closed or at - payment.created_at >= EXPIRE_AFTER else at)


def _close_page(payment: Payment) -> bool:
    reference = payment.provider_reference or ""
    try:
        selection.payment_provider(payment.provider).expire_checkout(reference)
        fault_point("payments.after_expire")
        return payments.settle_payment(payment.provider, reference) != SettlementOutcome.OPEN
    except (ProviderUnreachable, LookupError):
        return False


def _schedule_expiry(payment: Payment, at: datetime | None) -> None:
    checks = payment.checks + 1
    with tenancy.system_session("payments.janitor") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.status == PaymentStatus.CANCELED)
            .values(checks=checks, next_check_at=at and provider_checks.next_check_at(checks, at))
        )


def reconcile_pending(at: datetime) -> ReconciliationResult:
    """Ask the providers about up to 200 due payments. An error of one does not stop the others."""
    result = ReconciliationResult()
    with tenancy.system_session("payments.janitor") as session:
        due_payments = list_due_for_check(session, at, CHECK_BATCH_SIZE)
    for payment in due_payments:
        result.checked += 1
        try:
            _reconcile_payment(payment)
        except Exception:
            log.exception("payment_not_looked_after", payment_id=str(payment.id))
            result.failed.append(payment.id)
            _postpone(payment)
    return result


def _reconcile_payment(payment: Payment) -> None:
    if payment.payment_method_id and payment.status == PaymentStatus.CREATED:
        if automatic.charge(payment.organization_id, payment.id):
            _postpone(payment)
        else:
            _schedule_next_check(payment, "provider_unavailable")
        return
    if payment.checkout_url is None and payment.payment_method_id is None:
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
    if outcome == SettlementOutcome.OPEN:
        _schedule_next_check(payment, "expired")


def _schedule_next_check(payment: Payment, code: str) -> None:
    if clock.now() - payment.created_at >= EXPIRE_AFTER:
        payments.expire_payment(payment.organization_id, payment.id, code)
    else:
        _postpone(payment)


def _postpone(payment: Payment) -> None:
    checks = payment.checks + 1
    with tenancy.system_session("payments.janitor") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.status.in_(PENDING_STATUSES))
            .values(checks=checks, next_check_at=provider_checks.next_check_at(checks, clock.now()))
        )


def recheck_payment(payment_id: UUID, actor: Actor, reason: str) -> Payment:
    """Ask the provider about a payment now and apply its answer, also to a quarantined payment.

    Opens transactions of its own.
    raises: NotFound, NoProviderToQuery, ProviderNotResponding
    """
    before = _get_payment(payment_id)
    if before.provider_reference is None or before.provider == "offline":
        raise NoProviderToQuery
    with tenancy.system_session("payments.resolve") as session:
        _record_payment_action(session, before, actor, "payment.asked_about", {"reason": reason, "was": before.status})
    try:
        outcome = payments.settle_payment(before.provider, before.provider_reference)
    except (ProviderUnreachable, LookupError) as cause:
        raise ProviderNotResponding from cause
    with tenancy.system_session("payments.resolve") as session:
        payment = session.get_one(Payment, (before.organization_id, payment_id))
        data = {"reason": reason, "was": before.status, "is": payment.status, "outcome": outcome}
        _record_payment_action(session, payment, actor, "payment.answered", data)
        return payment


def resolve_payment(payment_id: UUID, actor: Actor, reason: str) -> Payment:
    """Cancel a quarantined payment, in a transaction of its own. The operator has cleared the money with the provider.

    raises: NotFound, PaymentNotQuarantined
    """
    organization_id = _get_payment(payment_id).organization_id
    with tenancy.system_session("payments.resolve") as session:
        key = (organization_id, payment_id)
        payment = session.get_one(Payment, key, with_for_update=True, populate_existing=True)
        if payment.status != PaymentStatus.QUARANTINED:
            raise PaymentNotQuarantined
        payment.status = PaymentStatus.CANCELED
        _record_payment_action(
            session, payment, actor, "payment.resolved", {"reason": reason, "was": payment.failure_code}
        )
        return payment


def retry_event(provider: str, event_id: str, actor: Actor, reason: str) -> None:
    """Process a quarantined event again, with a new count of attempts, in a transaction of its own.

    raises: NotFound, EventNotQuarantined
    """
    with tenancy.system_session("payments.resolve") as session:
        event = _lock_quarantined_event(session, provider, event_id)
        _record_event_action(
            session, event, actor, "payment_event.taken_up", {"reason": reason, "was": event.error_code}
        )
        session.execute(
            sa.update(ProviderEvent)
            .where(ProviderEvent.provider == provider, ProviderEvent.event_id == event_id)
            .values(
                status=ProviderEventStatus.QUEUED,
                attempts=0,
                interruptions=0,
                error_code=None,
                finished_at=None,
                next_at=sa.func.now(),
            )
        )
        queue.enqueue(session, INBOX_JOB)


def ignore_event(provider: str, event_id: str, actor: Actor, reason: str) -> None:
    """Mark a quarantined event as ignored, in a transaction of its own. No payment changes.

    raises: NotFound, EventNotQuarantined
    """
    with tenancy.system_session("payments.resolve") as session:
        event = _lock_quarantined_event(session, provider, event_id)
        event.status, event.finished_at = ProviderEventStatus.IGNORED, clock.now()
        _record_event_action(
            session, event, actor, "payment_event.resolved", {"reason": reason, "was": event.error_code}
        )


def _get_payment(payment_id: UUID) -> Payment:
    with tenancy.system_session("payments.resolve") as session:
        payment = payments.find_payment(session, payment_id)
    if payment is None:
        raise NotFound
    return payment


def _lock_quarantined_event(session: SystemSession, provider: str, event_id: str) -> ProviderEvent:
    event = session.get(ProviderEvent, (provider, event_id), with_for_update=True)
    if event is None:
        raise NotFound
    if event.status != ProviderEventStatus.QUARANTINED:
        raise EventNotQuarantined
    return event


def _record_payment_action(
    session: SystemSession, payment: Payment, actor: Actor, action: str, data: Mapping[str, str | None]
) -> None:
    audit.record_event(session, payment.organization_id, actor, action, ("payment", payment.id), data)


def _record_event_action(
    session: SystemSession, event: ProviderEvent, actor: Actor, action: str, data: dict[str, str | None]
) -> None:
    """A provider event has no organization, so only the audit log of the platform records it."""
    target = ("payment_event", f"{event.provider}:{event.event_id}")
    audit.record_event(session, None, actor, action, target, {**data, "reference": event.reference})
