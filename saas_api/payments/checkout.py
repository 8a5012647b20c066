"""Initiate_payment, create_checkout_page."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import invoices
from saas_api.billing.models import Invoice
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import Conflict, NotFound, ServiceUnavailable, ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.payments import payments, provider_checks
from saas_api.payments.models import Payment
from saas_api.providers import selection
from saas_api.providers.payments import CheckoutRequest, CheckoutSession, ProviderRejected, ProviderUnreachable

log = get_logger(__name__)

BILLING_CONTACT_ROLES = ("owner", "billing")


class AlreadyPaid(Conflict):
    """The invoice is paid, by money, credit or credit note."""

    code, message = "ALREADY_PAID", "This invoice is paid already."


class PaymentAlreadyPending(Conflict):
    """Another payment of the invoice is under way; `details.payment_url` is where to go on with it."""

    code, message, constraint = (
        "PAYMENT_IN_FLIGHT",
        "A payment of this invoice is under way already.",
        "payments_one_in_flight",
    )


class InvoiceNotPayable(Conflict):
    """The invoice is a draft or void."""

    code, message = "INVOICE_NOT_PAYABLE", "Only an open invoice can be paid."


class InvalidProvider(ValidationFailed):
    """The provider is unknown, not configured here, or does not take the invoice's currency."""

    code, message = "INVALID_PROVIDER", "This provider takes no payment of this invoice here."


class AmountTooSmall(ValidationFailed):
    """What is due is less than the provider takes."""

    code, message = "AMOUNT_TOO_SMALL", "What is due is less than this provider takes."


class ProviderUnavailable(ServiceUnavailable):
    """The payment provider gave no answer, or none that helps; nothing was charged."""

    code, message = "PROVIDER_UNAVAILABLE", "The payment provider does not answer; try again shortly."


@dataclass(frozen=True)
class PaymentRequest:
    """What is to be paid, and through whom.

    invoice_id: or the period that the invoice is for
    provider: None for the preferred one
    """

    invoice_id: UUID | None = None
    period_id: UUID | None = None
    provider: str | None = None


def initiate_payment(organization_id: UUID, wanted: PaymentRequest, actor: Actor) -> Payment:
    """Begin a payment of all that is due, or go on with one whose page was never made.

    raises: NotFound, AlreadyPaid, PaymentInFlight, InvoiceNotPayable, InvalidProvider, AmountTooSmall,
        ProviderUnavailable
    """
    with tenancy.tenant_session(organization_id) as session:
        invoice = _invoice(session, organization_id, wanted)
        payment = payments.find_pending_payment(session, organization_id, invoice.id) or _insert(
            session, invoice, wanted, actor
        )
        if payment.checkout_url or wanted.provider not in (None, payment.provider):
            details = {"payment_url": payment.checkout_url, "payment_id": ids.format_id("pay", payment.id)}
            raise PaymentAlreadyPending(details=details)
    return create_checkout_page(organization_id, payment.id)


def create_checkout_page(organization_id: UUID, payment_id: UUID) -> Payment:
    """Ask the provider for the page of a payment that has none; asked twice, it is the same page.

    raises: ProviderUnavailable, also when the provider refuses, which ends the payment
    """
    with tenancy.tenant_session(organization_id) as session:
        payment = session.get_one(Payment, (organization_id, payment_id))
        order = _checkout_request(session, payment)
    try:
        checkout = selection.payment_provider(payment.provider).create_checkout(order)
    except (ProviderUnreachable, LookupError) as cause:
        raise ProviderUnavailable from cause
    except ProviderRejected as refusal:
        log.warning("payment_refused", payment_id=str(payment_id), provider=payment.provider, code=refusal.code)
        _fail_payment(payment, refusal.code)
        raise ProviderUnavailable from refusal
    fault_point("payments.after_open")
    return _store_checkout(payment, checkout)


def _invoice(session: Session, organization_id: UUID, wanted: PaymentRequest) -> Invoice:
    invoice_id = wanted.invoice_id
    if wanted.period_id:
        invoice_id = payments.find_invoice_for_period(session, organization_id, wanted.period_id)
    if invoice_id is None:
        raise NotFound
    invoice = invoices.get_invoice(session, organization_id, invoice_id)
    if invoice.status == "paid":
        raise AlreadyPaid
    if not invoice.is_payable:
        raise InvoiceNotPayable
    if not invoice.due_minor:
        raise AlreadyPaid
    return invoice


def _insert(session: Session, invoice: Invoice, wanted: PaymentRequest, actor: Actor) -> Payment:
    provider, due, organization_id = _provider(invoice, wanted), invoice.due_minor or 0, invoice.organization_id
    payment_id, now = ids.new_id(), clock.now()
    values = {
        "organization_id": organization_id,
        "id": payment_id,
        "invoice_id": invoice.id,
        "provider": provider,
        "provider_reference": selection.payment_provider(provider).reference(payment_id),
        "initiated_by": "customer",
        "currency": invoice.currency,
        "amount_minor": due,
        "next_check_at": provider_checks.next_check_at(0, now),
        "created_at": now,
    }
    if session.scalar(insert(Payment).values(values).on_conflict_do_nothing().returning(Payment.id)) is None:
        other = payments.find_pending_payment(session, organization_id, invoice.id)
        if other is None:
            raise PaymentAlreadyPending
        return other
    target = ("payment", payment_id)
    audit.record_event(
        session, organization_id, actor, "payment.initiated", target, {"provider": provider, "minor": due}
    )
    return session.get_one(Payment, (organization_id, payment_id))


def list_providers_for(invoice: Invoice) -> list[str]:
    """Names of the providers that take an invoice's currency here, the preferred one first."""
    return [
        name
        for name in selection.enabled_payment_providers()
        if provider_checks.supports_currency(name, invoice.currency)
    ]


def _provider(invoice: Invoice, wanted: PaymentRequest) -> str:
    offered = list_providers_for(invoice)
    if not offered or wanted.provider not in (None, *offered):
        raise InvalidProvider(details={"offered": offered})
    provider = wanted.provider or offered[0]
    if provider_checks.is_below_minimum(provider, invoice.currency, invoice.due_minor or 0):
        raise AmountTooSmall
    return provider


def _checkout_request(session: Session, payment: Payment) -> CheckoutRequest:
    invoice = invoices.get_invoice(session, payment.organization_id, payment.invoice_id)
    readers = members.list_recipients(session, payment.organization_id, BILLING_CONTACT_ROLES, includes_billing_email=True)
    address = f"{setting('APP_URL')}/payments/return/{ids.format_id('pay', payment.id)}"
    name = organizations.get(session, payment.organization_id).name
    description = f"Invoice {invoice.number}, {name}"[:200]
    return CheckoutRequest(payment.id, payment.currency, payment.amount_minor, description, readers[0].email, address)


def _store_checkout(payment: Payment, checkout: CheckoutSession) -> Payment:
    with tenancy.tenant_session(payment.organization_id) as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.state == "created")
            .values(state="pending", provider_reference=checkout.reference, checkout_url=checkout.url)
        )
        shown = session.get_one(Payment, (payment.organization_id, payment.id), populate_existing=True)
    if shown.checkout_url is None:
        raise ProviderUnavailable
    return shown


def _fail_payment(payment: Payment, code: str) -> None:
    with tenancy.system_session("payments.initiate") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.state == "created")
            .values(state="failed", failure_code=code, next_check_at=None)
        )
