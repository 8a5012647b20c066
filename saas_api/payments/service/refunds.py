"""Refunds: what a credit note sends back goes through the payments that brought it, once under each refund's id."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.models import CreditNote
from saas_api.core import observe
from saas_api.core.ids import new_id
from saas_api.core.money import minor_to_text
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import audit
from saas_api.payments import queries
from saas_api.payments.models import Payment, Refund
from saas_api.payments.service.telling import alert, name_of, tell
from saas_api.providers import payments as providers

log = observe.get_logger(__name__)


def refund_due() -> int:
    """Ask for every refund that a credit note promises, and after those whose end is not known.

    returns: how many ended
    """
    with as_system("payments.refund") as session:
        notes = queries.to_refund(session)
    for organization_id, note_id in notes:
        _plan_safely(organization_id, note_id)
    with as_system("payments.refund") as session:
        pending = queries.pending_refunds(session)
    return sum(_send_safely(refund) for refund in pending)


def _plan_safely(organization_id: UUID, note_id: UUID) -> None:
    try:
        with as_system("payments.refund") as session:
            _plan(session, organization_id, note_id)
    except Exception:  # one credit note's trouble must not hold up another
        log.exception("refund_not_planned", credit_note_id=str(note_id))


def _plan(session: Session, organization_id: UUID, note_id: UUID) -> None:
    note = session.get_one(CreditNote, (organization_id, note_id), with_for_update=True)
    if queries.is_refunded(session, organization_id, note_id):  # by a run beside this one
        return
    left = note.to_refund_minor
    for payment, refundable in queries.refundable(session, organization_id, note.invoice_id):
        amount = min(left, refundable)
        if amount <= 0:
            break
        refund = Refund(
            organization_id=organization_id,
            id=new_id(),
            payment_id=payment.id,
            credit_note_id=note_id,
            amount_minor=amount,
        )
        session.add(refund)
        left -= amount
    if left:
        missing = f"{minor_to_text(left, note.currency)} {note.currency}"
        log.error("refund_without_payment", credit_note=note.number, missing=missing)


def _send_safely(refund: Refund) -> bool:
    try:
        return _send(refund)
    except (providers.ProviderAway, LookupError):
        log.warning("refund_waits", refund_id=str(refund.id))
    except Exception:  # one refund's trouble must not hold up another
        log.exception("refund_failed", refund_id=str(refund.id))
    return False


def _send(refund: Refund) -> bool:
    with as_system("payments.refund") as session:
        payment = session.get_one(Payment, (refund.organization_id, refund.payment_id))
    if payment.provider == "offline":
        sent = providers.Refunded("failed")
    else:
        try:
            provider = providers.named(payment.provider)
            reference, key = payment.provider_reference or "", refund.id.hex
            sent = provider.refund(providers.Return(reference, payment.currency, refund.amount_minor, key))
        except providers.ProviderRefused as refusal:
            log.warning("refund_refused", refund_id=str(refund.id), code=refusal.code)
            sent = providers.Refunded("failed")
    with as_system("payments.refund") as session:
        return _end(session, refund, sent)


def _end(session: Session, sent: Refund, outcome: providers.Refunded) -> bool:
    key = (sent.organization_id, sent.payment_id)
    payment = session.get_one(Payment, key, with_for_update=True, populate_existing=True)
    refund = session.get_one(Refund, (sent.organization_id, sent.id), with_for_update=True, populate_existing=True)
    if refund.state != "pending":
        return False
    refund.provider_reference = outcome.reference
    if outcome.kind == "pending":
        return False
    refund.state = outcome.kind
    shown = minor_to_text(refund.amount_minor, payment.currency)
    data = {"amount": shown, "currency": payment.currency}
    action = "refund.succeeded" if outcome.kind == "succeeded" else "refund.failed"
    audit.record(session, payment.organization_id, audit.SYSTEM, action, ("refund", refund.id), data)
    if outcome.kind == "succeeded":
        step = payment.refunded_minor  # rises with every refund
        payment.refunded_minor += refund.amount_minor
        tell(session, payment, "payment.refunded", step=step)
    else:
        detail = f"{shown} {payment.currency} of {name_of(payment.organization_id, payment.id)} must go back by hand."
        alert(session, "a refund failed", detail)
    return True
