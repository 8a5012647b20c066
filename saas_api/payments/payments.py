"""Payments: reads, and settlement: applying the answer of a provider, or money received another way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from limits import parse as parse_limit
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.billing import events as billing_events
from saas_api.billing import invoices, settlement, wallet
from saas_api.billing.invoices import InvoiceNotOpen
from saas_api.billing.models import Invoice, InvoiceStatus
from saas_api.core import clock, ids, money
from saas_api.core.db import cells, pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.jobs import queue
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

RECONCILIATION_JOB = "payments.janitor"
OFFLINE = "offline"
"""In place of a provider: money that was received another way."""


class PaymentExists(Conflict):
    """A payment with this reference is recorded on the invoice."""

    code, message, constraint = (
        "PAYMENT_EXISTS",
        "A payment with this reference was booked before.",
        "payments_offline_reference",
    )


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

    reference: of the bank; it is recorded once for each invoice
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
            .where(Refund.organization_id == organization_id, Refund.status != RefundStatus.CANCELED)
            .group_by(Refund.payment_id)
        ).all()
    )
    refundable = [
        (payment, payment.captured_minor - payment.disputed_minor - int(refunded.get(payment.id, 0)))
        for payment in payments
    ]
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
        payment = lock_payment(session, payment.organization_id, payment.id)
        return _apply_status(session, payment, checkout)


def refresh_payment(payment_id: UUID) -> Payment | None:
    """A payment of any organization, settled first if it is pending and its provider answers.

    The provider is asked about a payment once in 10 seconds, because anybody who has the address may ask.
    """
    payment = cells.search(lambda: _find(payment_id))
    if payment is None:
        return None
    with cells.use(cells.cell_of(payment.organization_id)):
        return _refresh(payment)


def _refresh(payment: Payment) -> Payment | None:
    if not payment.is_pending or not payment.provider_reference:
        return payment
    if not limiter.limiter.limiter.hit(_ASKED_ON_RETURN, str(payment.id), "payment_return"):
        return payment
    try:
        settle_payment(payment.provider, payment.provider_reference)
    except (ProviderUnreachable, LookupError):
        log.warning("payment_not_asked", payment_id=str(payment.id))
    return _find(payment.id)


def expire_payment(organization_id: UUID, payment_id: UUID, code: str) -> None:
    """Cancel a pending payment, in a transaction of its own. A later answer of the provider still settles it."""
    with tenancy.system_session("payments.settle") as session:
        payment = lock_payment(session, organization_id, payment_id)
        if payment.is_pending:
            _close(session, payment, PaymentStatus.CANCELED, code)


def fail_payment(organization_id: UUID, payment_id: UUID, code: str) -> None:
    """Fail a pending payment that its provider refused to charge, in a transaction of its own."""
    with tenancy.system_session("payments.settle") as session:
        payment = lock_payment(session, organization_id, payment_id)
        if payment.is_pending:
            _close(session, payment, PaymentStatus.FAILED, code)


@settlement.on_due_change
def follow_invoice(session: SystemSession, invoice: Invoice) -> None:
    """Follow a change of what is due: in its dunning run, the standing of its organization and its pending payment."""
    dunning.follow_invoice(session, invoice)
    _cancel_outdated_payment(session, invoice)


def _cancel_outdated_payment(session: SystemSession, invoice: Invoice) -> None:
    """Cancel the pending payment of an invoice that asks for another amount than is due now.

    Reconciliation expires its page at the provider. Money that was paid on it meanwhile goes into the wallet. The
    charge of a saved method has no page that could be closed, and may have been accepted: it is settled first.
    """
    payment = find_pending_payment(session, invoice.organization_id, invoice.id)
    if payment is None or payment.payment_method_id or payment.amount_minor == invoice.amount_due_minor:
        return
    payment = lock_payment(session, payment.organization_id, payment.id)
    if payment.is_pending:
        _close(session, payment, PaymentStatus.CANCELED, "amount_changed")
        if payment.checkout_url:
            payment.next_check_at = clock.now()
            queue.enqueue(session, RECONCILIATION_JOB)


def record_offline_payment(
    organization_id: UUID, invoice_ids: Sequence[UUID], received: OfflinePayment, actor: Actor, reason: str
) -> list[Payment]:
    """Record money that was received without a provider, in a transaction of its own.

    It pays the invoices in their order; the last one also gets what is left, which goes into the wallet.

    invoice_ids: at least one
    returns: a payment for each invoice that got money
    raises: NotFound, InvoiceNotOpen for a draft, ValidationFailed for another currency, PaymentExists
    """
    with tenancy.system_session("payments.settle") as session:
        recorded, left = [], received.amount_minor
        for number, invoice_id in enumerate(dict.fromkeys(invoice_ids), start=1):
            invoice = _lock_recordable(session, organization_id, invoice_id, received)
            is_last = number == len(set(invoice_ids))
            amount = left if is_last else min(left, invoice.amount_due_minor)
            if amount:
                recorded.append(_record_offline(session, invoice, replace(received, amount_minor=amount)))
                left -= amount
        for payment in recorded:
            data = {"reason": reason, "reference": received.reference}
            audit.record_event(session, organization_id, actor, "payment.recorded", ("payment", payment.id), data)
        _complete(session, recorded)
        fault_point("payments.before_commit")
        return recorded


def _lock_recordable(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, received: OfflinePayment
) -> Invoice:
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.status == InvoiceStatus.DRAFT:
        raise InvoiceNotOpen
    if invoice.currency != received.currency:
        raise ValidationFailed.at_field("currency", f"{invoice.number} is in {invoice.currency}.")
    is_recorded = select(Payment.id).where(
        Payment.organization_id == organization_id,
        Payment.invoice_id == invoice_id,
        Payment.provider == OFFLINE,
        Payment.provider_reference == received.reference,
    )
    if session.scalar(is_recorded) is not None:
        raise PaymentExists(f"{received.reference} was booked before on {invoice.number}.")
    return invoice


def _record_offline(session: SystemSession, invoice: Invoice, received: OfflinePayment) -> Payment:
    payment_id, now = ids.new_id(), clock.now()
    amount, source = received.amount_minor, f"payment:{payment_id}"
    allocation = settlement.apply_payment(session, invoice.organization_id, invoice.id, amount, source)
    payment = Payment(
        organization_id=invoice.organization_id,
        id=payment_id,
        invoice_id=invoice.id,
        provider=OFFLINE,
        provider_reference=received.reference,
        initiated_by="operator",
        currency=received.currency,
        amount_minor=amount,
        captured_minor=amount,
        allocated_minor=allocation.allocated_minor,
        excess_minor=allocation.excess_minor,
        refunded_minor=0,
        status=PaymentStatus.SUCCEEDED,
        created_at=now,
        settled_at=now,
    )
    session.add(payment)
    return payment


def _find(payment_id: UUID) -> Payment | None:
    with tenancy.system_session("payments.settle") as session:
        return find_payment(session, payment_id)


def lock_payment(session: SystemSession, organization_id: UUID, payment_id: UUID) -> Payment:
    """Get a payment; lock the wallet of its organization and its row until the transaction ends."""
    wallet.lock_wallet(session, organization_id)
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
    allocation = settlement.apply_payment(session, payment.organization_id, payment.invoice_id, captured_minor, source)
    payment.captured_minor = captured_minor
    payment.allocated_minor, payment.excess_minor = allocation.allocated_minor, allocation.excess_minor
    payment.status, payment.settled_at = PaymentStatus.SUCCEEDED, clock.now()
    payment.failure_code = payment.next_check_at = None
    data = {"minor": captured_minor, "excess_minor": allocation.excess_minor}
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, "payment.succeeded", target, data)
    _complete(session, [payment])
    fault_point("payments.before_commit")


def _complete(session: SystemSession, settled: Sequence[Payment]) -> None:
    """Publish payments of one organization that were applied, and settle what follows from them."""
    session.flush()  # lock_invoice reads the rows again
    changed = []
    for payment in settled:
        invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
        payment_events.email_billing_contacts(session, "payment_received", payment, invoice)
        if payment.allocated_minor:
            changed.append(invoice)
    settlement.finish(session, settled[0].organization_id, *changed)
    for payment in settled:
        payment_events.publish_payment_event(session, payment, "payment.succeeded")


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
