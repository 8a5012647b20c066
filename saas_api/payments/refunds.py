"""Refunds: money of a credit note or the wallet that goes back through the provider of its payment, or by hand."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import settlement, wallet
from saas_api.billing.models import CreditNote, GrantKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import ids, money
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.jobs import queue
from saas_api.core.observability import get_logger
from saas_api.payments import events, payments
from saas_api.payments.models import Payment, Refund, RefundStatus
from saas_api.providers import selection
from saas_api.providers.payments import ProviderRejected, ProviderUnreachable, RefundRequest, RefundResult

log = get_logger(__name__)


class RefundNotFailed(Conflict):
    """The refund has not failed, or what follows from its failure is decided already."""

    code, message = "REFUND_NOT_FAILED", "Only a failed refund can be decided on."


class NoRefundProvider(Conflict):
    """The payment was recorded by hand, so no provider can refund it."""

    code, message = "NO_REFUND_PROVIDER", "No provider took this payment; pay it back by hand, or into the wallet."


_CREDIT_NOTES_WITHOUT_REFUND = text("""
SELECT n.organization_id, n.id FROM credit_notes n
 WHERE n.to_refund_minor > (SELECT coalesce(sum(r.amount_minor), 0) FROM refunds r
   WHERE r.organization_id = n.organization_id AND r.credit_note_id = n.id)
   AND NOT EXISTS (SELECT FROM refunds r WHERE r.organization_id = n.organization_id AND r.credit_note_id = n.id)
 ORDER BY n.issued_at LIMIT 100
""")


def list_unrefunded_credit_notes(session: SystemSession) -> list[tuple[UUID, UUID]]:
    """Up to 100 credit notes without planned refunds, the oldest first: organization and id."""
    return [(organization_id, note_id) for organization_id, note_id in session.execute(_CREDIT_NOTES_WITHOUT_REFUND)]


def is_refunded(session: SystemSession, organization_id: UUID, note_id: UUID) -> bool:
    """Whether the refunds of a credit note are planned."""
    refund_ids = select(Refund.id).where(Refund.organization_id == organization_id, Refund.credit_note_id == note_id)
    return session.scalars(refund_ids.limit(1)).first() is not None


def list_pending_refunds(session: SystemSession) -> Sequence[Refund]:
    """Up to 100 pending refunds, the oldest first."""
    statement = select(Refund).where(Refund.status == RefundStatus.PENDING).order_by(Refund.created_at)
    return session.scalars(statement.limit(100)).all()


def get_refund(session: SystemSession, refund_id: UUID) -> Refund:
    """A refund of any organization.

    raises: NotFound
    """
    refund = session.scalars(select(Refund).where(Refund.id == refund_id)).one_or_none()
    if refund is None:
        raise NotFound
    return refund


def list_failed_refunds(session: SystemSession, limit: int) -> Sequence[Refund]:
    """Failed refunds that wait for a decision, the oldest first."""
    statement = select(Refund).where(Refund.status == RefundStatus.FAILED).order_by(Refund.created_at, Refund.id)
    return session.scalars(statement.limit(limit)).all()


def retry_refund(session: SystemSession, refund_id: UUID, operator: OperatorContext) -> Refund:
    """Ask the provider of a failed refund again, under a new idempotency key, with the next reconciliation.

    raises: NotFound, RefundNotFailed, NoRefundProvider
    """
    refund, payment = _lock_failed(session, refund_id)
    if payment.provider == payments.OFFLINE:
        raise NoRefundProvider
    refund.status, refund.attempt, refund.provider_reference = RefundStatus.PENDING, refund.attempt + 1, None
    _record_decision(session, refund, payment, operator, "refund.retried")
    queue.enqueue(session, payments.RECONCILIATION_JOB)
    return refund


def record_paid_back(session: SystemSession, refund_id: UUID, operator: OperatorContext, reference: str) -> Refund:
    """Record that the money of a failed refund was paid back by hand.

    reference: of the bank
    raises: NotFound, RefundNotFailed
    """
    refund, payment = _lock_failed(session, refund_id)
    refund.status, refund.provider_reference = RefundStatus.SUCCEEDED, reference
    _record_decision(session, refund, payment, operator, "refund.paid_by_hand", reference=reference)
    _add_to_refunded(session, payment, refund)
    return refund


def turn_into_credit(session: SystemSession, refund_id: UUID, operator: OperatorContext) -> Refund:
    """Put the money of a failed refund into the wallet instead, where it pays open invoices first.

    raises: NotFound, RefundNotFailed
    """
    refund, payment = _lock_failed(session, refund_id)
    refund.status = RefundStatus.CANCELED
    source = GrantSource(f"refund:{refund.id}", GrantKind.CREDIT_NOTE)
    wallet.add_grant(session, refund.organization_id, source, refund.amount_minor, payment.currency)
    _record_decision(session, refund, payment, operator, "refund.turned_into_credit")
    settlement.finish(session, refund.organization_id)
    return refund


def _lock_failed(session: SystemSession, refund_id: UUID) -> tuple[Refund, Payment]:
    refund = get_refund(session, refund_id)
    wallet.lock_wallet(session, refund.organization_id)
    payment = _lock_payment(session, refund)
    refund = _lock_refund(session, refund)
    if refund.status != RefundStatus.FAILED:
        raise RefundNotFailed
    return refund, payment


def _record_decision(
    session: SystemSession, refund: Refund, payment: Payment, operator: OperatorContext, action: str, **data: str
) -> None:
    amount = {"amount": money.format_minor(refund.amount_minor, payment.currency), "currency": payment.currency}
    operator.record(session, refund.organization_id, action, ("refund", refund.id), {**amount, **data})


def process_due_refunds() -> int:
    """Plan the refunds of new credit notes, then request every pending refund, in transactions of its own.

    returns: number of refunds that succeeded or failed
    """
    with tenancy.system_session("payments.refund") as session:
        notes = list_unrefunded_credit_notes(session)
    for organization_id, note_id in notes:
        _create_refunds_safely(organization_id, note_id)
    with tenancy.system_session("payments.refund") as session:
        pending = list_pending_refunds(session)
    return sum(_request_safely(refund) for refund in pending)


def _create_refunds_safely(organization_id: UUID, note_id: UUID) -> None:
    try:
        with tenancy.system_session("payments.refund") as session:
            _create_refunds(session, organization_id, note_id)
    except Exception:  # one credit note must not stop the others
        log.exception("refund_not_planned", credit_note_id=str(note_id))


def _create_refunds(session: SystemSession, organization_id: UUID, note_id: UUID) -> None:
    note = session.get_one(CreditNote, (organization_id, note_id), with_for_update=True)
    if is_refunded(session, organization_id, note_id):  # by a concurrent run
        return
    remaining = note.to_refund_minor
    for payment, refundable in payments.lock_refundable_payments(session, organization_id, note.invoice_id):
        amount = min(remaining, refundable)
        if amount <= 0:
            break
        refund = Refund(
            organization_id=organization_id,
            id=ids.new_id(),
            payment_id=payment.id,
            credit_note_id=note_id,
            amount_minor=amount,
        )
        session.add(refund)
        remaining -= amount
    if remaining:
        missing = f"{money.format_minor(remaining, note.currency)} {note.currency}"
        log.error("refund_without_payment", credit_note=note.number, missing=missing)


def _request_safely(refund: Refund) -> bool:
    try:
        return _request(refund)
    except (ProviderUnreachable, LookupError):
        log.warning("refund_waits", refund_id=str(refund.id))
    except Exception:  # one refund must not stop the others
        log.exception("refund_failed", refund_id=str(refund.id))
    return False


def _request(refund: Refund) -> bool:
    with tenancy.system_session("payments.refund") as session:
        payment = session.get_one(Payment, (refund.organization_id, refund.payment_id))
    if payment.provider == payments.OFFLINE:
        result = RefundResult("failed")
    else:
        try:
            provider = selection.payment_provider(payment.provider)
            reference = payment.provider_reference or ""
            key = refund.id.hex if refund.attempt == 1 else f"{refund.id.hex}-{refund.attempt}"
            result = provider.refund(RefundRequest(reference, payment.currency, refund.amount_minor, key))
        except ProviderRejected as rejection:
            log.warning("refund_refused", refund_id=str(refund.id), code=rejection.code)
            result = RefundResult("failed")
    with tenancy.system_session("payments.refund") as session:
        return _apply_result(session, refund, result)


def _apply_result(session: SystemSession, requested: Refund, result: RefundResult) -> bool:
    organization_id = requested.organization_id
    payment, refund = _lock_payment(session, requested), _lock_refund(session, requested)
    if refund.status != RefundStatus.PENDING or refund.attempt != requested.attempt:
        return False
    refund.provider_reference = result.reference
    if result.kind == RefundStatus.PENDING:
        return False
    refund.status = RefundStatus(result.kind)
    amount = money.format_minor(refund.amount_minor, payment.currency)
    data = {"amount": amount, "currency": payment.currency}
    target = ("refund", refund.id)
    audit.record_event(session, organization_id, SYSTEM_ACTOR, f"refund.{refund.status}", target, data)
    if refund.status == RefundStatus.SUCCEEDED:
        _add_to_refunded(session, payment, refund)
    else:
        label = events.payment_label(organization_id, payment.id)
        detail = (
            f"{amount} {payment.currency} of {label} did not go back. Ask the provider again, pay it back by hand, or "
            f"turn it into credit: {ids.format_id('rfd', refund.id)}."
        )
        operators.send_alert(session, "a refund failed", detail)
    return True


def _lock_payment(session: SystemSession, refund: Refund) -> Payment:
    key = (refund.organization_id, refund.payment_id)
    return session.get_one(Payment, key, with_for_update=True, populate_existing=True)


def _lock_refund(session: SystemSession, refund: Refund) -> Refund:
    key = (refund.organization_id, refund.id)
    return session.get_one(Refund, key, with_for_update=True, populate_existing=True)


def _add_to_refunded(session: SystemSession, payment: Payment, refund: Refund) -> None:
    step = payment.refunded_minor  # rises with each refund
    payment.refunded_minor += refund.amount_minor
    events.publish_payment_event(session, payment, "payment.refunded", step=step)
