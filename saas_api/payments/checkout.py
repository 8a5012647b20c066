"""Checkout of an invoice: starts a payment at a provider and creates the page where it is paid."""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import invoices, wallet
from saas_api.billing.models import Invoice, InvoiceStatus
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import Conflict, NotFound, ServiceUnavailable, ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.payments import payments, provider_checks
from saas_api.payments.events import BILLING_CONTACT_ROLES
from saas_api.payments.models import Payment, PaymentStatus
from saas_api.providers import selection
from saas_api.providers.payments import CheckoutRequest, CheckoutSession, ProviderRejected, ProviderUnreachable

log = get_logger(__name__)

MAX_DESCRIPTION_LENGTH = 200


class AlreadyPaid(Conflict):
    """The invoice is settled by payments, wallet credit or credit notes."""

    code, message = "ALREADY_PAID", "This invoice is paid already."


class PaymentAlreadyPending(Conflict):
    """Another payment of the invoice is pending; `details.payment_url` is its checkout page."""

    code, message, constraint = (
        "PAYMENT_IN_FLIGHT",
        "A payment of this invoice is under way already.",
        "payments_one_in_flight",
    )


class InvoiceNotPayable(Conflict):
    """The invoice is a draft or void."""

    code, message = "INVOICE_NOT_PAYABLE", "Only an open invoice can be paid."


class InvalidProvider(ValidationFailed):
    """The provider is unknown, not configured, or does not support the currency of the invoice."""

    code, message = "INVALID_PROVIDER", "This provider takes no payment of this invoice here."


class AmountTooSmall(ValidationFailed):
    """The amount due is below the minimum of the provider."""

    code, message = "AMOUNT_TOO_SMALL", "What is due is less than this provider takes."


class ProviderUnavailable(ServiceUnavailable):
    """The payment provider did not create a checkout page; nothing was charged."""

    code, message = "PROVIDER_UNAVAILABLE", "The payment provider does not answer; try again shortly."


@dataclass(frozen=True)
class PaymentRequest:
    """An invoice to pay, by its id or its billing period, and the provider.

    provider: None for the preferred one
    """

    invoice_id: UUID | None = None
    period_id: UUID | None = None
    provider: str | None = None


def list_providers_for(invoice: Invoice) -> list[str]:
    """Names of the configured providers that support the invoice's currency, the preferred one first."""
    return list_providers_of(invoice.currency)


def list_providers_of(currency: str) -> list[str]:
    """Names of the configured providers that support a currency, the preferred one first."""
    enabled = selection.enabled_payment_providers()
    return [name for name in enabled if provider_checks.supports_currency(name, currency)]


def initiate_payment(organization_id: UUID, request: PaymentRequest, actor: Actor) -> Payment:
    """Start a payment of the amount due, or continue one without a checkout page, in transactions of its own.

    raises: NotFound, AlreadyPaid, PaymentAlreadyPending, InvoiceNotPayable, InvalidProvider, AmountTooSmall,
        ProviderUnavailable
    """
    with tenancy.tenant_session(organization_id) as session:
        wallet.lock_wallet(session, organization_id)  # what is due must not change before the payment is stored
        invoice = _payable_invoice(session, organization_id, request)
        payment = payments.find_pending_payment(session, organization_id, invoice.id) or _insert_payment(
            session, invoice, request, actor
        )
        if payment.checkout_url or request.provider not in (None, payment.provider):
            details = {"payment_url": payment.checkout_url, "payment_id": ids.format_id("pay", payment.id)}
            raise PaymentAlreadyPending(details=details)
    return create_checkout_page(organization_id, payment.id)


def create_checkout_page(organization_id: UUID, payment_id: UUID) -> Payment:
    """Create the checkout page of a payment at its provider, in transactions of its own. Idempotent.

    raises: ProviderUnavailable, also when the provider rejects the checkout; the payment fails then
    """
    with tenancy.tenant_session(organization_id) as session:
        payment = session.get_one(Payment, (organization_id, payment_id))
        request = _checkout_request(session, payment)
    try:
        checkout = selection.payment_provider(payment.provider).create_checkout(request)
    except (ProviderUnreachable, LookupError) as cause:
        raise ProviderUnavailable from cause
    except ProviderRejected as rejection:
        log.warning("payment_refused", payment_id=str(payment_id), provider=payment.provider, code=rejection.code)
        _fail_payment(payment, rejection.code)
        raise ProviderUnavailable from rejection
    fault_point("payments.after_open")
    return _store_checkout(payment, checkout)


def _payable_invoice(session: Session, organization_id: UUID, request: PaymentRequest) -> Invoice:
    invoice_id = request.invoice_id
    if request.period_id:
        invoice_id = payments.find_invoice_for_period(session, organization_id, request.period_id)
    if invoice_id is None:
        raise NotFound
    invoice = invoices.get_invoice(session, organization_id, invoice_id)
    if invoice.status == InvoiceStatus.PAID:
        raise AlreadyPaid
    if not invoice.is_payable:
        raise InvoiceNotPayable
    if not invoice.due_minor:
        raise AlreadyPaid
    return invoice


def _insert_payment(session: Session, invoice: Invoice, request: PaymentRequest, actor: Actor) -> Payment:
    provider, organization_id = _select_provider(invoice, request), invoice.organization_id
    due_minor = invoice.due_minor or 0
    payment_id, now = ids.new_id(), clock.now()
    values = {
        "organization_id": organization_id,
        "id": payment_id,
        "invoice_id": invoice.id,
        "provider": provider,
        "provider_reference": selection.payment_provider(provider).reference(payment_id),
        "initiated_by": "customer",
        "currency": invoice.currency,
        "amount_minor": due_minor,
        "next_check_at": provider_checks.next_check_at(0, now),
        "created_at": now,
    }
    if session.scalar(insert(Payment).values(values).on_conflict_do_nothing().returning(Payment.id)) is None:
        concurrent = payments.find_pending_payment(session, organization_id, invoice.id)
        if concurrent is None:
            raise PaymentAlreadyPending
        return concurrent
    target = ("payment", payment_id)
    audit.record_event(
        session, organization_id, actor, "payment.initiated", target, {"provider": provider, "minor": due_minor}
    )
    return session.get_one(Payment, (organization_id, payment_id))


def _select_provider(invoice: Invoice, request: PaymentRequest) -> str:
    providers = list_providers_for(invoice)
    if not providers or request.provider not in (None, *providers):
        raise InvalidProvider(details={"offered": providers})
    provider = request.provider or providers[0]
    if provider_checks.is_below_minimum(provider, invoice.currency, invoice.due_minor or 0):
        raise AmountTooSmall
    return provider


def _checkout_request(session: Session, payment: Payment) -> CheckoutRequest:
    contacts = members.list_recipients(
        session, payment.organization_id, BILLING_CONTACT_ROLES, includes_billing_email=True
    )
    return CheckoutRequest(
        payment_id=payment.id,
        currency=payment.currency,
        amount_minor=payment.amount_minor,
        description=describe_payment(session, payment),
        email=contacts[0].email,
        return_url=f"{setting('APP_URL')}/payments/return/{ids.format_id('pay', payment.id)}",
    )


def describe_payment(session: Session, payment: Payment) -> str:
    """What a payment is for, as its provider shows it to the payer."""
    invoice = invoices.get_invoice(session, payment.organization_id, payment.invoice_id)
    organization = organizations.get_organization(session, payment.organization_id)
    return f"Invoice {invoice.number}, {organization.name}"[:MAX_DESCRIPTION_LENGTH]


def _store_checkout(payment: Payment, checkout: CheckoutSession) -> Payment:
    with tenancy.tenant_session(payment.organization_id) as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.status == PaymentStatus.CREATED)
            .values(status=PaymentStatus.PENDING, provider_reference=checkout.reference, checkout_url=checkout.url)
        )
        stored = session.get_one(Payment, (payment.organization_id, payment.id), populate_existing=True)
    if stored.checkout_url is None:
        raise ProviderUnavailable
    return stored


def _fail_payment(payment: Payment, code: str) -> None:
    with tenancy.system_session("payments.initiate") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.status == PaymentStatus.CREATED)
            .values(status=PaymentStatus.FAILED, failure_code=code, next_check_at=None)
        )
