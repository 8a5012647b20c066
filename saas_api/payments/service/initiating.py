"""Beginning a payment: a row first, then the provider with no transaction open, then its page into the row.

The payment's id is the provider's key, so a call of unknown outcome is repeated under it and never charges twice.
"""

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.billing.models import Invoice
from saas_api.billing.queries.invoices import get_invoice
from saas_api.core import clock, observe, tenancy
from saas_api.core.errors import Conflict, Invalid, NotFound, Unavailable
from saas_api.core.ids import new_id, wire_id
from saas_api.core.settings import setting
from saas_api.organizations import queries as organization_queries
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.payments import queries
from saas_api.payments.models import Payment
from saas_api.payments.rules import checking, limits
from saas_api.providers import payments as providers

log = observe.get_logger(__name__)

_PAYABLE = ("open", "uncollectible")
_PAYERS = ("owner", "billing")


class AlreadyPaid(Conflict):
    """The invoice is paid, by money, credit or credit note."""

    code, message = "ALREADY_PAID", "This invoice is paid already."


class PaymentInFlight(Conflict):
    """Another payment of the invoice is under way; `details.payment_url` is where to go on with it."""

    code, message, constraint = (
        "PAYMENT_IN_FLIGHT",
        "A payment of this invoice is under way already.",
        "payments_one_in_flight",
    )


class InvoiceNotPayable(Conflict):
    """The invoice is a draft or void."""

    code, message = "INVOICE_NOT_PAYABLE", "Only an open invoice can be paid."


class InvalidProvider(Invalid):
    """The provider is unknown, not configured here, or does not take the invoice's currency."""

    code, message = "INVALID_PROVIDER", "This provider takes no payment of this invoice here."


class AmountTooSmall(Invalid):
    """What is due is less than the provider takes."""

    code, message = "AMOUNT_TOO_SMALL", "What is due is less than this provider takes."


class ProviderUnavailable(Unavailable):
    """The payment provider gave no answer, or none that helps; nothing was charged."""

    code, message = "PROVIDER_UNAVAILABLE", "The payment provider does not answer; try again shortly."


@dataclass(frozen=True)
class Wanted:
    """What is to be paid, and through whom.

    invoice_id: or the period that the invoice is for
    provider: None for the preferred one
    """

    invoice_id: UUID | None = None
    period_id: UUID | None = None
    provider: str | None = None


def initiate(organization_id: UUID, wanted: Wanted, actor: audit.Actor) -> Payment:
    """Begin a payment of all that is due, or go on with one whose page was never made.

    raises: NotFound, AlreadyPaid, PaymentInFlight, InvoiceNotPayable, InvalidProvider, AmountTooSmall,
        ProviderUnavailable
    """
    with tenancy.transaction(organization_id) as session:
        invoice = _invoice(session, organization_id, wanted)
        payment = queries.in_flight(session, organization_id, invoice.id) or _insert(session, invoice, wanted, actor)
        if payment.checkout_url or wanted.provider not in (None, payment.provider):
            details = {"payment_url": payment.checkout_url, "payment_id": wire_id("pay", payment.id)}
            raise PaymentInFlight(details=details)
    return open_page(organization_id, payment.id)


def open_page(organization_id: UUID, payment_id: UUID) -> Payment:
    """Ask the provider for the page of a payment that has none; asked twice, it is the same page.

    raises: ProviderUnavailable, also when the provider refuses, which ends the payment
    """
    with tenancy.transaction(organization_id) as session:
        payment = session.get_one(Payment, (organization_id, payment_id))
        order = _order(session, payment)
    try:
        checkout = providers.named(payment.provider).open(order)
    except (providers.ProviderAway, LookupError) as cause:
        raise ProviderUnavailable from cause
    except providers.ProviderRefused as refusal:
        log.warning("payment_refused", payment_id=str(payment_id), provider=payment.provider, code=refusal.code)
        _end(payment, refusal.code)
        raise ProviderUnavailable from refusal
    observe.fault("payments.after_open")
    return _show(payment, checkout)


def _invoice(session: Session, organization_id: UUID, wanted: Wanted) -> Invoice:
    invoice_id = wanted.invoice_id
    if wanted.period_id:
        invoice_id = queries.invoice_of_period(session, organization_id, wanted.period_id)
    if invoice_id is None:
        raise NotFound
    invoice = get_invoice(session, organization_id, invoice_id)
    if invoice.state == "paid":
        raise AlreadyPaid
    if invoice.state not in _PAYABLE:
        raise InvoiceNotPayable
    if not invoice.due_minor:
        raise AlreadyPaid
    return invoice


def _insert(session: Session, invoice: Invoice, wanted: Wanted, actor: audit.Actor) -> Payment:
    provider, due, organization_id = _provider(invoice, wanted), invoice.due_minor or 0, invoice.organization_id
    payment_id, now = new_id(), clock.now()
    values = {
        "organization_id": organization_id,
        "id": payment_id,
        "invoice_id": invoice.id,
        "provider": provider,
        "provider_reference": providers.named(provider).reference(payment_id),
        "initiated_by": "customer",
        "currency": invoice.currency,
        "amount_minor": due,
        "next_check_at": checking.next_check(0, now),
        "created_at": now,
    }
    if session.scalar(insert(Payment).values(values).on_conflict_do_nothing().returning(Payment.id)) is None:
        other = queries.in_flight(session, organization_id, invoice.id)
        if other is None:
            raise PaymentInFlight
        return other
    target = ("payment", payment_id)
    audit.record(session, organization_id, actor, "payment.initiated", target, {"provider": provider, "minor": due})
    return session.get_one(Payment, (organization_id, payment_id))


def offered_for(invoice: Invoice) -> list[str]:
    """Names of the providers that take an invoice's currency here, the preferred one first."""
    return [name for name in providers.offered() if limits.takes_currency(name, invoice.currency)]


def _provider(invoice: Invoice, wanted: Wanted) -> str:
    offered = offered_for(invoice)
    if not offered or wanted.provider not in (None, *offered):
        raise InvalidProvider(details={"offered": offered})
    provider = wanted.provider or offered[0]
    if limits.is_too_small(provider, invoice.currency, invoice.due_minor or 0):
        raise AmountTooSmall
    return provider


def _order(session: Session, payment: Payment) -> providers.Order:
    invoice = get_invoice(session, payment.organization_id, payment.invoice_id)
    readers = organization_queries.recipients(session, payment.organization_id, _PAYERS, is_bill=True)
    address = f"{setting('APP_URL')}/payments/return/{wire_id('pay', payment.id)}"
    name = organizations.get(session, payment.organization_id).name
    description = f"Invoice {invoice.number}, {name}"[:200]
    return providers.Order(payment.id, payment.currency, payment.amount_minor, description, readers[0].email, address)


def _show(payment: Payment, checkout: providers.Checkout) -> Payment:
    with tenancy.transaction(payment.organization_id) as session:
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


def _end(payment: Payment, code: str) -> None:
    with tenancy.as_system("payments.initiate") as session:
        session.execute(
            sa.update(Payment)
            .where(Payment.organization_id == payment.organization_id, Payment.id == payment.id)
            .where(Payment.state == "created")
            .values(state="failed", failure_code=code, next_check_at=None)
        )
