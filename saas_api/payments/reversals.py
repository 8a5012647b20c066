"""Reversals: refunds that were made at a provider, and disputes, which take money of a payment back."""

from sqlalchemy import select

from saas_api.accounts import audit, operators
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import credit_notes, invoices, settlement, wallet
from saas_api.billing.credit_notes import CreditExceedsInvoice, CreditNoteInput
from saas_api.billing.models import CreditNote, CreditNoteReason, InvoiceStatus
from saas_api.core import ids, money
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.payments import events, payments
from saas_api.payments.models import Payment, PaymentStatus, Refund, RefundStatus
from saas_api.payments.payments import SettlementOutcome
from saas_api.providers import selection


def apply_reversals(provider: str, reference: str) -> SettlementOutcome:
    """Ask a provider what went back of a payment and book what is new, in a transaction of its own.

    reference: of the event; the provider knows the checkout
    returns: OPEN while the payment itself is not settled
    raises: ProviderUnreachable; LookupError if the provider is no longer configured
    """
    reversals = selection.payment_provider(provider).get_reversals(reference)
    with tenancy.system_session("payments.reverse") as session:
        payment = payments.find_by_reference(session, provider, reversals.reference)
        if payment is None:
            return SettlementOutcome.UNKNOWN
        payment = payments.lock_payment(session, payment.organization_id, payment.id)
        if payment.status != PaymentStatus.SUCCEEDED:
            return SettlementOutcome.OPEN
        for refund_reference, amount_minor in reversals.refunds.items():
            _book_refund(session, payment, refund_reference, amount_minor)
        _book_dispute(session, payment, reversals.disputed_minor)
    return SettlementOutcome.SETTLED


def _book_refund(session: SystemSession, payment: Payment, reference: str, amount_minor: int) -> None:
    """Book a refund that was made at the provider: wallet money of the payment first, then a credit note."""
    is_booked = select(Refund.id).where(
        Refund.organization_id == payment.organization_id,
        Refund.payment_id == payment.id,
        Refund.provider_reference == reference,
    )
    amount_minor = min(amount_minor, payment.captured_minor - payment.refunded_minor)
    if amount_minor <= 0 or session.scalar(is_booked) is not None:
        return
    left = amount_minor - _take_from_wallet(session, payment, reference, amount_minor)
    note, problem = None, ""
    if left:
        content = CreditNoteInput(
            CreditNoteReason.GOODWILL, amount_minor=left, memo=f"Refunded at {payment.provider}", is_refunded=True
        )
        operator = OperatorContext(SYSTEM_ACTOR, f"refund {reference} at {payment.provider}")
        try:
            note = credit_notes.create_credit_note(
                session, payment.organization_id, payment.invoice_id, content, operator
            )
        except CreditExceedsInvoice:
            problem = " It is more than what is left of the invoice: look into it."
    session.add(
        Refund(
            organization_id=payment.organization_id,
            id=ids.new_id(),
            payment_id=payment.id,
            credit_note_id=note and note.id,
            amount_minor=amount_minor,
            provider_reference=reference,
            status=RefundStatus.SUCCEEDED,
        )
    )
    step = payment.refunded_minor  # rises with each refund
    payment.refunded_minor += amount_minor
    events.publish_payment_event(session, payment, "payment.refunded", step=step)
    _report(session, payment, "payment.refunded_at_provider", amount_minor, f"was refunded at the provider.{problem}")


def _take_from_wallet(session: SystemSession, payment: Payment, reference: str, amount_minor: int) -> int:
    notes = select(CreditNote.id).where(
        CreditNote.organization_id == payment.organization_id, CreditNote.invoice_id == payment.invoice_id
    )
    keys = {f"payment:{payment.id}", *(f"credit_note:{note_id}" for note_id in session.scalars(notes))}
    left = amount_minor
    for grant in wallet.lock_money(session, payment.organization_id, payment.currency):
        part = min(grant.remaining_minor, left) if grant.source_key in keys else 0
        if part:
            left -= part
            wallet.take_payout(session, grant, part, reference)
    return amount_minor - left


def _book_dispute(session: SystemSession, payment: Payment, disputed_minor: int) -> None:
    """Reverse the disputed part of a payment: it is due again. A dispute that is won pays it again."""
    disputed_minor = min(disputed_minor, payment.allocated_minor + payment.disputed_minor)
    change = disputed_minor - payment.disputed_minor
    if change > 0:
        _reverse(session, payment, change)
    elif change < 0:
        _reinstate(session, payment, -change)


def _reverse(session: SystemSession, payment: Payment, amount_minor: int) -> None:
    payment.disputed_minor += amount_minor
    payment.allocated_minor -= amount_minor
    session.flush()  # the invoice may lose no more than its payments
    invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
    invoice.paid_minor -= amount_minor
    if invoice.status == InvoiceStatus.PAID:
        invoice.status, invoice.paid_at = InvoiceStatus.OPEN, None
    session.flush()
    session.expire(invoice, ["due_minor"])  # the database computes it
    settlement.finish(session, payment.organization_id, invoice)
    _report(session, payment, "payment.disputed", amount_minor, "is disputed; the invoice is due again.")


def _reinstate(session: SystemSession, payment: Payment, amount_minor: int) -> None:
    source = f"dispute:{payment.id}:{ids.new_id()}"
    allocation = settlement.apply_payment(session, payment.organization_id, payment.invoice_id, amount_minor, source)
    payment.disputed_minor -= amount_minor
    payment.allocated_minor += allocation.allocated_minor
    payment.excess_minor += allocation.excess_minor
    session.flush()
    invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
    settlement.finish(session, payment.organization_id, *([invoice] if allocation.allocated_minor else []))
    _report(session, payment, "payment.dispute_won", amount_minor, "is no longer disputed and counts again.")


def _report(session: SystemSession, payment: Payment, action: str, amount_minor: int, what: str) -> None:
    amount = f"{money.format_minor(amount_minor, payment.currency)} {payment.currency}"
    target, data = ("payment", payment.id), {"amount": amount}
    audit.record_event(session, payment.organization_id, SYSTEM_ACTOR, action, target, data)
    label = events.payment_label(payment.organization_id, payment.id)
    operators.send_alert(session, f"a payment changed at {payment.provider}", f"{amount} of {label} {what}")
