"""Refunds of credit notes."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing.models import CreditNote
from saas_api.core import ids, money
from saas_api.core.db import tenancy
from saas_api.core.observability import get_logger
from saas_api.payments import events, payments
from saas_api.payments.models import Payment, Refund
from saas_api.providers import selection
from saas_api.providers.payments import ProviderRejected, ProviderUnreachable, RefundRequest, RefundResult

log = get_logger(__name__)

_UNREFUNDED = text("""
SELECT n.organization_id, n.id FROM credit_notes n
 WHERE n.to_refund_minor > (SELECT coalesce(sum(r.amount_minor), 0) FROM refunds r
   WHERE r.organization_id = n.organization_id AND r.credit_note_id = n.id)
   AND NOT EXISTS (SELECT FROM refunds r WHERE r.organization_id = n.organization_id AND r.credit_note_id = n.id)
 ORDER BY n.issued_at LIMIT 100
""")


def list_unrefunded_credit_notes(session: Session) -> list[tuple[UUID, UUID]]:
    """Credit notes whose refund nobody asked for yet: organization and id."""
    return [(owner, note_id) for owner, note_id in session.execute(_UNREFUNDED)]


def is_refunded(session: Session, organization_id: UUID, note_id: UUID) -> bool:
    """Whether a credit note's refunds are planned."""
    planned = select(Refund.id).where(Refund.organization_id == organization_id, Refund.credit_note_id == note_id)
    return session.scalars(planned.limit(1)).first() is not None


def list_pending_refunds(session: Session) -> Sequence[Refund]:
    """Refunds whose end is not known, the oldest first."""
    return session.scalars(select(Refund).where(Refund.state == "pending").order_by(Refund.created_at).limit(100)).all()


def process_due_refunds() -> int:
    """Ask for every refund that a credit note promises, and after those whose end is not known.

    returns: how many ended
    """
    with tenancy.system_session("payments.refund") as session:
        notes = list_unrefunded_credit_notes(session)
    for organization_id, note_id in notes:
        _create_refunds_safely(organization_id, note_id)
    with tenancy.system_session("payments.refund") as session:
        pending = list_pending_refunds(session)
    return sum(_send_safely(refund) for refund in pending)


def _create_refunds_safely(organization_id: UUID, note_id: UUID) -> None:
    try:
        with tenancy.system_session("payments.refund") as session:
            _create_refunds(session, organization_id, note_id)
    except Exception:  # one credit note's trouble must not hold up another
        log.exception("refund_not_planned", credit_note_id=str(note_id))


def _create_refunds(session: Session, organization_id: UUID, note_id: UUID) -> None:
    note = session.get_one(CreditNote, (organization_id, note_id), with_for_update=True)
    if is_refunded(session, organization_id, note_id):  # by a run beside this one
        return
    left = note.to_refund_minor
    for payment, refundable in payments.lock_refundable_payments(session, organization_id, note.invoice_id):
        amount = min(left, refundable)
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
        left -= amount
    if left:
        missing = f"{money.format_minor(left, note.currency)} {note.currency}"
        log.error("refund_without_payment", credit_note=note.number, missing=missing)


def _send_safely(refund: Refund) -> bool:
    try:
        return _send(refund)
    except (ProviderUnreachable, LookupError):
        log.warning("refund_waits", refund_id=str(refund.id))
    except Exception:  # one refund's trouble must not hold up another
        log.exception("refund_failed", refund_id=str(refund.id))
    return False


def _send(refund: Refund) -> bool:
    with tenancy.system_session("payments.refund") as session:
        payment = session.get_one(Payment, (refund.organization_id, refund.payment_id))
    if payment.provider == "offline":
        sent = RefundResult("failed")
    else:
        try:
            provider = selection.payment_provider(payment.provider)
            reference, key = payment.provider_reference or "", refund.id.hex
            sent = provider.refund(RefundRequest(reference, payment.currency, refund.amount_minor, key))
        except ProviderRejected as refusal:
            log.warning("refund_refused", refund_id=str(refund.id), code=refusal.code)
            sent = RefundResult("failed")
    with tenancy.system_session("payments.refund") as session:
        return _finish(session, refund, sent)


def _finish(session: Session, sent: Refund, outcome: RefundResult) -> bool:
    key = (sent.organization_id, sent.payment_id)
    payment = session.get_one(Payment, key, with_for_update=True, populate_existing=True)
    refund = session.get_one(Refund, (sent.organization_id, sent.id), with_for_update=True, populate_existing=True)
    if refund.state != "pending":
        return False
    refund.provider_reference = outcome.reference
    if outcome.kind == "pending":
        return False
    refund.state = outcome.kind
    shown = money.format_minor(refund.amount_minor, payment.currency)
    data = {"amount": shown, "currency": payment.currency}
    action = "refund.succeeded" if outcome.kind == "succeeded" else "refund.failed"
    audit.record_event(session, payment.organization_id, SYSTEM_ACTOR, action, ("refund", refund.id), data)
    if outcome.kind == "succeeded":
        step = payment.refunded_minor  # rises with every refund
        payment.refunded_minor += refund.amount_minor
        events.publish_payment_event(session, payment, "payment.refunded", step=step)
    else:
        detail = f"{shown} {payment.currency} of {events.payment_label(payment.organization_id, payment.id)} must go back by hand."
        events.email_operators(session, "a refund failed", detail)
    return True
