"""Auto-pay: charges the default payment method of an organization for its new invoices, each once.

A payment is stored before its provider is asked, and its id is the provider's idempotency key. What a killed process
leaves behind, reconciliation charges again under the same key, so an invoice is never charged twice. An invoice whose
charge failed is the customer's to pay, and dunning's.
"""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import invoices
from saas_api.billing.models import Invoice
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.faults import fault_point
from saas_api.core.observability import get_logger
from saas_api.payments import checkout, payments, provider_checks
from saas_api.payments.models import Payment, PaymentMethod, PaymentMethodStatus, PaymentStatus
from saas_api.providers import selection
from saas_api.providers.payments import ChargeRequest, ProviderRejected, ProviderUnreachable

log = get_logger(__name__)

CHARGE_BATCH_SIZE = 200
INITIATED_BY = "auto"

# An invoice that has a payment under way is the customer's; one that was charged automatically is not charged again.
_DUE = sa.text("""
SELECT i.organization_id, i.id AS invoice_id, i.currency, i.due_minor, m.provider FROM payment_methods m
JOIN billing_profiles b ON b.organization_id = m.organization_id AND b.collection = 'charge_automatically'
JOIN invoices i ON i.organization_id = m.organization_id AND i.state = 'open' AND i.due_minor > 0
  AND i.finalized_at >= m.charges_from
WHERE m.is_default AND NOT EXISTS (
  SELECT FROM payments p WHERE p.organization_id = i.organization_id AND p.invoice_id = i.id
    AND (p.initiated_by = 'auto' OR p.state IN ('created', 'pending', 'requires_action')))
ORDER BY i.finalized_at""")
_STILL_DUE = sa.text(f"""SELECT * FROM ({_DUE.text}) due
  WHERE organization_id = :organization_id AND invoice_id = :invoice_id""")


@dataclass
class AutoPayResult:
    """Result of one execution: number of payments that were begun, and of invoices that raised an error."""

    begun: int = 0
    failed: int = 0


def charge_new_invoices() -> AutoPayResult:
    """Charge up to 200 open invoices, in transactions of its own. An error of one does not stop the others."""
    result = AutoPayResult()
    with tenancy.system_session("payments.automatic") as session:
        due = [row for row in session.execute(_DUE) if _is_chargeable(row)]
    for row in due[:CHARGE_BATCH_SIZE]:
        try:
            payment_id = _begin(row.organization_id, row.invoice_id)
            if payment_id:
                result.begun += 1
                fault_point("payments.before_charge")
                charge(row.organization_id, payment_id)
        except Exception:  # one invoice must not stop the others
            log.exception("auto_pay_failed", invoice_id=str(row.invoice_id))
            result.failed += 1
    return result


def charge(organization_id: UUID, payment_id: UUID) -> bool:
    """Charge the method of a stored payment and settle it, in transactions of its own. Idempotent.

    A method that was removed meanwhile is forgotten at the provider first: a charge that it had accepted before that
    still counts, and no other is made.

    returns: whether the provider answered; if not, reconciliation tries again
    """
    with tenancy.system_session("payments.automatic") as session:
        payment = session.get_one(Payment, (organization_id, payment_id))
        method = session.get_one(PaymentMethod, (organization_id, payment.payment_method_id))
        description = checkout.describe_payment(session, payment)
    if payment.status != PaymentStatus.CREATED:
        return True
    request = ChargeRequest(payment_id, payment.currency, payment.amount_minor, description, method.saved_method)
    try:
        provider = selection.payment_provider(payment.provider)
        if method.status != PaymentMethodStatus.ACTIVE:
            provider.forget_method(request.method)
        reference = provider.charge(request)
        fault_point("payments.after_charge")
        _store_reference(payment, reference)
        payments.settle_payment(payment.provider, reference)
    except ProviderRejected as rejection:
        payments.fail_payment(organization_id, payment_id, rejection.code)
    except (ProviderUnreachable, LookupError):
        log.warning("auto_pay_waits", payment_id=str(payment_id), provider=payment.provider)
        return False
    return True


def _is_chargeable(row: sa.Row[tuple[object, ...]]) -> bool:
    """Whether the provider of the default method is configured and takes the amount."""
    is_offered = row.provider in checkout.list_providers_of(row.currency)
    return is_offered and not provider_checks.is_below_minimum(row.provider, row.currency, row.due_minor)


def _begin(organization_id: UUID, invoice_id: UUID) -> UUID | None:
    """Store the payment of an invoice, unless it is no longer due."""
    with tenancy.system_session("payments.automatic") as session:
        invoice = invoices.lock_invoice(session, organization_id, invoice_id)
        values = {"organization_id": organization_id, "invoice_id": invoice_id}
        if session.execute(_STILL_DUE, values).first() is None:
            return None
        method = session.scalars(
            sa.select(PaymentMethod).where(PaymentMethod.organization_id == organization_id, PaymentMethod.is_default)
        ).one()
        return _insert_payment(session, invoice, method)


def _insert_payment(session: SystemSession, invoice: Invoice, method: PaymentMethod) -> UUID | None:
    payment_id, now = ids.new_id(), clock.now()
    values = {
        "organization_id": invoice.organization_id,
        "id": payment_id,
        "invoice_id": invoice.id,
        "payment_method_id": method.id,
        "provider": method.provider,
        "provider_reference": selection.payment_provider(method.provider).reference(payment_id),
        "initiated_by": INITIATED_BY,
        "currency": invoice.currency,
        "amount_minor": invoice.due_minor,
        "next_check_at": provider_checks.next_check_at(0, now),
        "created_at": now,
    }
    if session.scalar(insert(Payment).values(values).on_conflict_do_nothing().returning(Payment.id)) is None:
        return None
    data = {"provider": method.provider, "minor": invoice.due_minor}
    target = ("payment", payment_id)
    audit.record_event(session, invoice.organization_id, SYSTEM_ACTOR, "payment.initiated", target, data)
    return payment_id


def _store_reference(payment: Payment, reference: str) -> None:
    with tenancy.system_session("payments.automatic") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.status == PaymentStatus.CREATED)
            .values(status=PaymentStatus.PENDING, provider_reference=reference)
        )
