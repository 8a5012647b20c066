"""Refunds: money of a credit note that is returned through the provider of the payment."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing.models import CreditNote
from saas_api.core import ids, money
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.observability import get_logger
from saas_api.payments import events, payments
from saas_api.payments.models import Payment, Refund, RefundStatus
from saas_api.providers import selection
from saas_api.providers.payments import ProviderRejected, ProviderUnreachable, RefundRequest, RefundResult

log = get_logger(__name__)

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
    if payment.provider == "offline":
        result = RefundResult("failed")
    else:
        try:
            provider = selection.payment_provider(payment.provider)
            reference, key = payment.provider_reference or "", refund.id.hex
            result = provider.refund(RefundRequest(reference, payment.currency, refund.amount_minor, key))
        except ProviderRejected as rejection:
            log.warning("refund_refused", refund_id=str(refund.id), code=rejection.code)
            result = RefundResult("failed")
    with tenancy.system_session("payments.refund") as session:
        return _apply_result(session, refund, result)


def _apply_result(session: SystemSession, requested: Refund, result: RefundResult) -> bool:
    organization_id = requested.organization_id
    key = (organization_id, requested.payment_id)
    payment = session.get_one(Payment, key, with_for_update=True, populate_existing=True)
    key = (organization_id, requested.id)
    refund = session.get_one(Refund, key, with_for_update=True, populate_existing=True)
    if refund.status != RefundStatus.PENDING:
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
        step = payment.refunded_minor  # rises with each refund
        payment.refunded_minor += refund.amount_minor
        events.publish_payment_event(session, payment, "payment.refunded", step=step)
    else:
        label = events.payment_label(organization_id, payment.id)
        detail = f"{amount} {payment.currency} of {label} must go back by hand."
        operators.send_alert(session, "a refund failed", detail)
    return True
