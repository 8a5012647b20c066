"""HTTP API of payments: initiate and list them, and the addresses for events of providers."""

from typing import Any
from uuid import UUID

from flask import Blueprint, g, request

from saas_api.accounts import audit
from saas_api.core import access
from saas_api.core.access import EmailNotVerified, public_view, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.errors import BadRequest, EncodedBody, NotFound, PayloadTooLarge
from saas_api.core.web import http
from saas_api.core.web.endpoint import endpoint
from saas_api.payments import checkout, payment_methods, payments, provider_events
from saas_api.payments.checkout import (
    AlreadyPaid,
    AmountTooSmall,
    InvalidProvider,
    InvoiceNotPayable,
    PaymentAlreadyPending,
    PaymentRequest,
    ProviderUnavailable,
)
from saas_api.payments.models import Payment, PaymentMethod
from saas_api.payments.payment_methods import TooManyPaymentMethods
from saas_api.payments.provider_events import InvalidSignature, MissingSignature
from saas_api.payments.schemas import (
    AutoPay,
    EventReceivedOut,
    InitiatedPaymentOut,
    InitiatePaymentIn,
    PaymentMethodOut,
    PaymentMethodsOut,
    PaymentsOut,
    PaymentsQuery,
    ProviderIn,
)
from saas_api.providers.payments import SIGNATURE_HEADERS

bp = Blueprint("payments", __name__)
MAX_EVENT_BYTES = 262_144
_EVENT_ERRORS = (MissingSignature, InvalidSignature, BadRequest, PayloadTooLarge, EncodedBody)


@bp.post("/billing/initiate-payment")
@require_permission("billing:write")
@endpoint(
    operation_id="initiate_payment",
    tag="payments",
    body=InitiatePaymentIn(),
    returns=InitiatedPaymentOut(),
    errors=(
        EmailNotVerified,
        NotFound,
        AlreadyPaid,
        PaymentAlreadyPending,
        InvoiceNotPayable,
        InvalidProvider,
        AmountTooSmall,
        ProviderUnavailable,
    ),
)
def initiate(body: dict[str, Any]) -> Payment:
    """Start a payment of the amount due of an invoice; the organization pays at `payment_url`."""
    access.require_verified_email(g.principal)
    payment_request = PaymentRequest(body["invoice_id"], body["billing_cycle_id"], body["provider"])
    return checkout.initiate_payment(g.principal.organization_id, payment_request, audit.actor_for(g.principal))


@bp.get("/billing/payments")
@require_permission("billing:read")
@endpoint(operation_id="list_payments", tag="payments", reads_replica=True, query=PaymentsQuery(), returns=PaymentsOut)
def list_payments(query: dict[str, Any]) -> Page:
    """List payments, newest first."""
    page_request, filters = PageRequest.from_query(query)
    return payments.list_payments(engine.session(), g.principal.organization_id, page_request, **filters)


@bp.get("/billing/payment-methods")
@require_permission("billing:read")
@endpoint(operation_id="list_payment_methods", tag="payments", returns=PaymentMethodsOut())
def list_payment_methods() -> dict[str, Any]:
    """List the saved payment methods, the default one first, and whether auto-pay is on."""
    organization_id = g.principal.organization_id
    return {
        "auto_pay": payment_methods.is_auto_pay_on(engine.session(), organization_id),
        "payment_methods": payment_methods.list_methods(engine.session(), organization_id),
    }


@bp.post("/billing/payment-methods")
@require_permission("billing:write")
@endpoint(
    operation_id="add_payment_method",
    tag="payments",
    body=ProviderIn(),
    returns=PaymentMethodOut(),
    status=201,
    errors=(EmailNotVerified, InvalidProvider, TooManyPaymentMethods, ProviderUnavailable),
)
def add_payment_method(body: dict[str, Any]) -> PaymentMethod:
    """Begin to save a payment method: its card is entered at `setup_url`, on a page of the provider."""
    access.require_verified_email(g.principal)
    return payment_methods.begin_setup(g.principal, body["provider"])


@bp.post('/billing/payment-methods/<id("pmd"):method_id>/default')
@require_permission("billing:write")
@endpoint(operation_id="set_default_payment_method", tag="payments", returns=PaymentMethodOut(), errors=(NotFound,))
def set_default_payment_method(method_id: UUID) -> PaymentMethod:
    """Make a payment method the one that auto-pay charges."""
    principal = g.principal
    return payment_methods.make_default(
        engine.session(), principal.organization_id, method_id, audit.actor_for(principal)
    )


@bp.delete('/billing/payment-methods/<id("pmd"):method_id>')
@require_permission("billing:write")
@endpoint(operation_id="remove_payment_method", tag="payments", returns=PaymentMethodOut(), errors=(NotFound,))
def remove_payment_method(method_id: UUID) -> PaymentMethod:
    """Remove a payment method: it is charged no more, and its provider forgets it."""
    principal = g.principal
    return payment_methods.remove(engine.session(), principal.organization_id, method_id, audit.actor_for(principal))


@bp.put("/billing/auto-pay")
@require_permission("billing:write")
@endpoint(operation_id="set_auto_pay", tag="payments", body=AutoPay(), returns=AutoPay())
def set_auto_pay(body: dict[str, Any]) -> dict[str, bool]:
    """Switch auto-pay, which charges new invoices to the default payment method."""
    principal, is_on = g.principal, body["enabled"]
    actor = audit.actor_for(principal)
    payment_methods.set_auto_pay(engine.session(), principal.organization_id, actor, is_on=is_on)
    return {"enabled": is_on}


@bp.post("/webhooks/payment")
@public_view
@endpoint(operation_id="receive_provider_event", tag="payments", returns=EventReceivedOut(), errors=_EVENT_ERRORS)
def receive_event() -> dict[str, str]:
    """Receive an event of a payment provider, identified by its signature header. Idempotent."""
    signed_by = [name for name, header in SIGNATURE_HEADERS.items() if header in request.headers]
    return _receive(signed_by[0] if signed_by else None)


@bp.post("/webhooks/stripe")
@public_view
@endpoint(operation_id="receive_stripe_event", tag="payments", returns=EventReceivedOut(), errors=_EVENT_ERRORS)
def receive_from_stripe() -> dict[str, str]:
    """Receive an event of Stripe."""
    return _receive("stripe")


@bp.post("/webhooks/paystack")
@public_view
@endpoint(operation_id="receive_paystack_event", tag="payments", returns=EventReceivedOut(), errors=_EVENT_ERRORS)
def receive_from_paystack() -> dict[str, str]:
    """Receive an event of Paystack."""
    return _receive("paystack")


def _receive(provider: str | None) -> dict[str, str]:
    body = http.read_body(request, MAX_EVENT_BYTES)
    if provider is None:
        raise MissingSignature
    provider_events.receive_event(provider, body, request.headers.get(SIGNATURE_HEADERS[provider]))
    return {"status": "received"}
