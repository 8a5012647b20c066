"""Initiate, list, provider event addresses."""

from typing import Any

from flask import Blueprint, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from saas_api.accounts import audit
from saas_api.core import access, money
from saas_api.core.access import public_view, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import Page
from saas_api.core.errors import BadRequest, NotFound, PayloadTooLarge
from saas_api.core.web.endpoint import endpoint
from saas_api.payments import checkout, payments, provider_events
from saas_api.payments.checkout import (
    AlreadyPaid,
    AmountTooSmall,
    InvalidProvider,
    InvoiceNotPayable,
    PaymentAlreadyPending,
    PaymentRequest,
    ProviderUnavailable,
)
from saas_api.payments.models import Payment
from saas_api.payments.provider_checks import PENDING_STATUSES
from saas_api.payments.provider_events import InvalidSignature, MissingSignature
from saas_api.payments.schemas import (
    EventReceivedOut,
    InitiatedPaymentOut,
    InitiatePaymentIn,
    PaymentsOut,
    PaymentsQuery,
)
from saas_api.providers.payments import SIGNATURE_HEADERS

bp = Blueprint("payments", __name__)
MAX_EVENT_BYTES = 262_144
_SIGNATURE_HEADERS = (MissingSignature, InvalidSignature, BadRequest, PayloadTooLarge)


@bp.post("/billing/initiate-payment")
@require_permission("billing:write")
@endpoint(
    operation_id="initiate_payment",
    tag="payments",
    body=InitiatePaymentIn(),
    returns=InitiatedPaymentOut(),
    errors=(
        NotFound,
        AlreadyPaid,
        PaymentAlreadyPending,
        InvoiceNotPayable,
        InvalidProvider,
        AmountTooSmall,
        ProviderUnavailable,
    ),
)
def initiate(body: dict[str, Any]) -> dict[str, Any]:
    """Begin a payment of all that an invoice is due; the customer pays at `payment_url`."""
    access.require_verified_email(g.principal)
    wanted = PaymentRequest(body["invoice_id"], body["billing_cycle_id"], body["provider"])
    payment = checkout.initiate_payment(g.principal.organization_id, wanted, audit.actor_for(g.principal))
    return _initiated_body(payment)


@bp.get("/billing/payments")
@require_permission("billing:read")
@endpoint(operation_id="list_payments", tag="payments", query=PaymentsQuery(), returns=PaymentsOut)
def list_payments(query: dict[str, Any]) -> Page:
    """List payments, the newest first."""
    page = payments.list_payments(engine.session(), g.principal.organization_id, query)
    return Page([_payment_body(payment) for payment in page.items], page.next_cursor, page.limit)


@bp.post("/webhooks/payment")
@public_view
@endpoint(operation_id="receive_provider_event", tag="payments", returns=EventReceivedOut(), errors=_SIGNATURE_HEADERS)
def receive_event() -> dict[str, str]:
    """Take a payment provider's event; its signature header says whose it is. A repetition changes nothing."""
    sent = [name for name, header in SIGNATURE_HEADERS.items() if header in request.headers]
    return _receive(sent[0] if sent else None)


@bp.post("/webhooks/stripe")
@public_view
@endpoint(operation_id="receive_stripe_event", tag="payments", returns=EventReceivedOut(), errors=_SIGNATURE_HEADERS)
def receive_from_stripe() -> dict[str, str]:
    """Take an event of Stripe's."""
    return _receive("stripe")


@bp.post("/webhooks/paystack")
@public_view
@endpoint(operation_id="receive_paystack_event", tag="payments", returns=EventReceivedOut(), errors=_SIGNATURE_HEADERS)
def receive_from_paystack() -> dict[str, str]:
    """Take an event of Paystack's."""
    return _receive("paystack")


def _receive(provider: str | None) -> dict[str, str]:
    body = _read_raw_body()
    if provider is None:
        raise MissingSignature
    provider_events.receive_event(provider, body, request.headers.get(SIGNATURE_HEADERS[provider]))
    return {"status": "received"}


def _read_raw_body() -> bytes:
    request.max_content_length = MAX_EVENT_BYTES + 1  # a chunked body over the limit is cut silently
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge as cause:
        raise PayloadTooLarge from cause
    if len(body) > MAX_EVENT_BYTES:
        raise PayloadTooLarge
    return body


def _initiated_body(payment: Payment) -> dict[str, Any]:
    return {
        "payment_id": payment.id,
        "payment_url": payment.checkout_url,
        "amount": money.format_minor(payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "provider": payment.provider,
        "status": payment.state,
    }


def _payment_body(payment: Payment) -> dict[str, Any]:
    return {
        **_initiated_body(payment),
        "payment_url": payment.checkout_url if payment.state in PENDING_STATUSES else None,
        "invoice_id": payment.invoice_id,
        "captured": money.format_minor(payment.captured_minor, payment.currency),
        "refunded": money.format_minor(payment.refunded_minor, payment.currency),
        "failure_code": payment.failure_code,
        "created_at": payment.created_at,
        "settled_at": payment.settled_at,
    }
