"""Payments: reads, and settlement: applying the answer of a provider, or money received another way."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from limits import parse as parse_limit
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.billing import events as billing_events
from saas_api.billing import invoices
from saas_api.billing.models import Invoice, InvoiceStatus
from saas_api.core import clock, ids, money
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.core.faults import fault_point
from saas_api.core.limits import limiter
from saas_api.core.observability import get_logger
from saas_api.payments import dunning, provider_checks
from saas_api.payments import events as payment_events
from saas_api.payments.models import PENDING_STATUSES, Payment, PaymentStatus, Refund, RefundStatus
from saas_api.payments.provider_checks import PaymentTerms
from saas_api.providers import selection
from saas_api.providers.payments import CheckoutStatus, ProviderUnreachable

log = get_logger(__name__)
_ASKED_ON_RETURN = parse_limit("1 per 10 seconds")


class SettlementOutcome(StrEnum):
    """Result of asking a provider about a payment.

    `SETTLED`: the payment has its final status. `OPEN`: not decided yet. `QUARANTINED`: the answer does not match.
    `UNKNOWN`: no payment has this reference.
    """

    SETTLED = "done"
    OPEN = "open"
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class OfflinePayment:
    """Money that was received without a provider, such as a bank transfer.

    reference: of the bank, unique; a reference is recorded once
    """

    amount_minor: int
    currency: str
    reference: str


def find_by_reference(session: SystemSession, provider: str, reference: str) -> Payment | None:
    """The payment that a provider knows under this reference."""
    return session.scalars(
        select(Payment).where(Payment.provider == provider, Payment.provider_reference == reference)
    ).one_or_none()


def find_payment(session: SystemSession, payment_id: UUID) -> Payment | None:
    """A payment of any organization."""
    return session.scalars(select(Payment).where(Payment.id == payment_id)).one_or_none()


def find_pending_payment(session: Session, organization_id: UUID, invoice_id: UUID) -> Payment | None:
    """The pending payment of an invoice; there is at most one."""
    return session.scalars(
        select(Payment).where(
            Payment.organization_id == organization_id,
            Payment.invoice_id == invoice_id,
            Payment.status.in_(PENDING_STATUSES),
        )
    ).one_or_none()


def find_invoice_for_period(session: Session, organization_id: UUID, period_id: UUID) -> UUID | None:
    """Id of the invoice of a billing period: the newest, void ones last."""
    return session.scalars(
        select(Invoice.id)
        .where(Invoice.organization_id == organization_id, Invoice.billing_period_id == period_id)
        .order_by(Invoice.status == InvoiceStatus.VOID, Invoice.created_at.desc(), Invoice.id.desc())
        .limit(1)
    ).first()


def lock_refundable_payments(
    session: SystemSession, organization_id: UUID, invoice_id: UUID
) -> list[tuple[Payment, int]]:
    """Succeeded payments of an invoice with their refundable amounts, the newest first. Locks the rows.

    returns: amounts in minor units, above zero
    """
    payments = session.scalars(
        select(Payment)
        .where(
            Payment.organization_id == organization_id,
            Payment.invoice_id == invoice_id,
            Payment.status == PaymentStatus.SUCCEEDED,
        )
        .order_by(Payment.settled_at.desc(), Payment.id.desc())
        .with_for_update()
    ).all()
    refunded = dict(
        session.execute(
            select(Refund.payment_id, func.sum(Refund.amount_minor))
            .where(Refund.organization_id == organization_id, Refund.status != RefundStatus.FAILED)
            .group_by(Refund.payment_id)
        ).all()
    )
    refundable = [(payment, payment.allocated_minor - int(refunded.get(payment.id, 0))) for payment in payments]
    return [(payment, minor) for payment, minor in refundable if minor > 0]


def list_newest(session: SystemSession, status: str | None, limit: int) -> Sequence[Payment]:
    """The newest payments of all organizations, newest first."""
    statement = select(Payment).order_by(Payment.created_at.desc(), Payment.id.desc()).limit(limit)
    return session.scalars(statement.where(Payment.status == status) if status else statement).all()


def list_payments(
    session: Session, organization_id: UUID, request: PageRequest, *, invoice_id: UUID | None = None
) -> Page:
    """A page of an organization's payments, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    statement = select(Payment).where(Payment.organization_id == organization_id)
    if invoice_id:
        statement = statement.where(Payment.invoice_id == invoice_id)
    keys = (Payment.created_at.desc(), Payment.id.desc())
    return pagination.paginate(session, statement, *keys, request=request)


def settle_payment(provider: str, reference: str) -> SettlementOutcome:
    """Ask the provider about a payment and apply its answer, in transactions of its own.

    raises: ProviderUnreachable; LookupError if the provider is no longer configured
    """
    with tenancy.system_session("payments.settle") as session:
        payment = find_by_reference(session, provider, reference)
    if payment is None:
        return SettlementOutcome.UNKNOWN
    checkout = selection.payment_provider(provider).get_status(reference)
    fault_point("payments.after_ask")
    with tenancy.system_session("payments.settle") as session:
        payment = _lock(session, payment.organization_id, payment.id)
        return _apply_status(session, payment, checkout)


def refresh_payment(payment_id: UUID) -> Payment | None:
    """A payment of any organization, settled first if it is pending and its provider answers.

    The provider is asked about a payment once in 10 seconds, because anybody who has the address may ask.
    """
    payment = _find(payment_id)
    if payment is None or not payment.is_pending or not payment.provider_reference:
        return payment
    if not limiter.limiter.limiter.hit(_ASKED_ON_RETURN, str(payment_id), "payment_return"):
        return payment
    try:
        settle_payment(payment.provider, payment.provider_reference)
    except (ProviderUnreachable, LookupError):
        log.warning("payment_not_asked", payment_id=str(payment_id))
    return _find(payment_id)


def expire_payment(organization_id: UUID, payment_id: UUID, code: str) -> None:
    """Cancel a pending payment, in a transaction of its own. A later answer of the provider still settles it."""
    with tenancy.system_session("payments.settle") as session:
        payment = _lock(session, organization_id, payment_id)
        if payment.is_pending:
            _close(session, payment, PaymentStatus.CANCELED, code)


def record_offline_payment(
    organization_id: UUID, invoice_id: UUID, received: OfflinePayment, actor: Actor, reason: str
) -> Payment:
    """Record a payment that was received without a provider, in a transaction of its own.

    raises: NotFound; IntegrityError for a reference that is recorded already
    """
    with tenancy.system_session("payments.settle") as session:
        invoice = invoices.lock_invoice(session, organization_id, invoice_id)
        if invoice.currency != received.currency or invoice.status == InvoiceStatus.DRAFT:
            raise NotFound
        payment_id, now = ids.new_id(), clock.now()
        allocation = invoices.apply_payment(
            session, organization_id, invoice_id, received.amount_minor, f"payment:{payment_id}"
        )
        payment = Payment(
            organization_id=organization_id,
            id=payment_id,
            invoice_id=invoice_id,
            provider="offline",
            provider_reference=received.reference,
            initiated_by="operator",
            currency=received.currency,
            amount_minor=received.amount_minor,
            captured_minor=received.amount_minor,
            allocated_minor=allocation.allocated_minor,
            excess_minor=allocation.excess_minor,
            refunded_minor=0,
            status=PaymentStatus.SUCCEEDED,
            created_at=now,
            settled_at=now,
        )
        session.add(payment)
        data = {"reason": reason, "reference": received.reference}
        audit.record_event(session, organization_id, actor, "payment.recorded", ("payment", payment_id), data)
        _complete(session, payment)
        return payment


def _find(payment_id: UUID) -> Payment | None:
    with tenancy.system_session("payments.settle") as session:
        return find_payment(session, payment_id)


def _lock(session: SystemSession, organization_id: UUID, payment_id: UUID) -> Payment:
    return session.get_one(Payment, (organization_id, payment_id), with_for_update=True, populate_existing=True)


def _apply_status(session: SystemSession, payment: Payment, checkout: CheckoutStatus) -> SettlementOutcome:
    if payment.status == PaymentStatus.SUCCEEDED:
        return SettlementOutcome.SETTLED
    reported = PaymentTerms(checkout.reference, checkout.currency, checkout.amount_minor)
    requested = PaymentTerms(payment.provider_reference, payment.currency, payment.amount_minor)
    mismatch = provider_checks.find_mismatch(checkout.kind, reported, requested)
    if mismatch:
        _quarantine(session, payment, mismatch, reported)
        return SettlementOutcome.QUARANTINED
    result = provider_checks.resolve_status(checkout.kind, clock.now() - payment.created_at)
    if result == "open":
        return SettlementOutcome.OPEN
    if result == "succeeded":
        _apply_capture(session, payment, checkout.amount_minor)
    elif payment.is_pending:
        _close(session, payment, PaymentStatus(result), checkout.failure_code or "expired")
    return SettlementOutcome.SETTLED


def _apply_capture(session: SystemSession, payment: Payment, captured_minor: int) -> None:
    source = f"payment:{payment.id}"
    allocation = invoices.apply_payment(session, payment.organization_id, payment.invoice_id, captured_minor, source)
    payment.captured_minor = captured_minor
    payment.allocated_minor, payment.excess_minor = allocation.allocated_minor, allocation.excess_minor
    payment.status, payment.settled_at = PaymentStatus.SUCCEEDED, clock.now()
    payment.failure_code = payment.next_check_at = None
    data = {"minor": captured_minor, "excess_minor": allocation.excess_minor}
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, "payment.succeeded", target, data)
    _complete(session, payment)
    fault_point("payments.before_commit")


def _complete(session: SystemSession, payment: Payment) -> None:
    payment_events.publish_payment_event(session, payment, "payment.succeeded")
    invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
    payment_events.email_billing_contacts(session, "payment_received", payment, invoice)
    dunning.stop_if_settled(session, payment.organization_id, payment.invoice_id)


def _close(session: SystemSession, payment: Payment, status: PaymentStatus, code: str) -> None:
    payment.status, payment.failure_code, payment.next_check_at = status, code, None
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, f"payment.{status}", target, {"failure_code": code})
    payment_events.publish_payment_event(session, payment, "payment.failed")
    if status == PaymentStatus.FAILED:
        invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
        if invoice.is_payable:
            billing_events.publish_invoice_event(session, invoice, "invoice.payment_failed", attempt=1)
        payment_events.email_billing_contacts(session, "payment_failed", payment, invoice)


def _quarantine(session: SystemSession, payment: Payment, mismatch: str, reported: PaymentTerms) -> None:
    if payment.status == PaymentStatus.QUARANTINED and payment.failure_code == mismatch:
        return
    payment.status, payment.failure_code, payment.next_check_at = PaymentStatus.QUARANTINED, mismatch, None
    data = {"problem": mismatch, "told_minor": reported.amount_minor, "told_currency": reported.currency}
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, "payment.quarantined", target, data)
    label = payment_events.payment_label(payment.organization_id, payment.id)
    amount = money.format_minor(payment.amount_minor, payment.currency)
    detail = (
        f"{label}: {mismatch}; {amount} {payment.currency} were asked for, {payment.provider} says "
        f"{reported.amount_minor} {reported.currency} in minor units. Nothing was booked."
    )
    operators.send_alert(session, "a payment is quarantined", detail)
