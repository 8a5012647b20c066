"""`POST /billing/initiate-payment`, the list of payments, and the addresses that providers send events to."""

from typing import Any

from flask import Blueprint, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from saas_api.core.access import check_verified, public, require
from saas_api.core.db import session
from saas_api.core.errors import Malformed, NotFound, TooLarge
from saas_api.core.fields import Page
from saas_api.core.http import endpoint
from saas_api.core.money import minor_to_text
from saas_api.organizations.service.audit import actor_of
from saas_api.payments import queries
from saas_api.payments import service as payments
from saas_api.payments.models import Payment
from saas_api.payments.rules.checking import IN_FLIGHT
from saas_api.payments.schemas import InitiatePaymentIn, PaymentOut, PaymentsOut, PaymentsQuery, ReceivedOut
from saas_api.payments.service import (
    AlreadyPaid,
    AmountTooSmall,
    InvalidProvider,
    InvalidSignature,
    InvoiceNotPayable,
    MissingSignature,
    PaymentInFlight,
    ProviderUnavailable,
    Wanted,
)
from saas_api.providers.payments import SIGNATURE_HEADERS

bp = Blueprint("api", __name__)
EVENT_LIMIT_BYTES = 262_144
_SIGNED = (MissingSignature, InvalidSignature, Malformed, TooLarge)


@bp.post("/billing/initiate-payment")
@require("billing:write")
@endpoint(
    operation_id="initiate_payment",
    tag="payments",
    body=InitiatePaymentIn(),
    returns=PaymentOut(),
    errors=(
        NotFound,
        AlreadyPaid,
        PaymentInFlight,
        InvoiceNotPayable,
        InvalidProvider,
        AmountTooSmall,
        ProviderUnavailable,
    ),
)
def initiate(body: dict[str, Any]) -> dict[str, Any]:
    """Begin a payment of all that an invoice is due; the customer pays at `payment_url`."""
    check_verified(g.principal)
    wanted = Wanted(body["invoice_id"], body["billing_cycle_id"], body["provider"])
    payment = payments.initiate(g.principal.organization_id, wanted, actor_of(g.principal))
    return _begun(payment)


@bp.get("/billing/payments")
@require("billing:read")
@endpoint(operation_id="list_payments", tag="payments", query=PaymentsQuery(), returns=PaymentsOut)
def list_payments(query: dict[str, Any]) -> Page:
    """List payments, the newest first."""
    page = queries.history(session(), g.principal.organization_id, query)
    return Page([_shown(payment) for payment in page.items], page.next_cursor, page.limit)


@bp.post("/webhooks/payment")
@public
@endpoint(operation_id="receive_provider_event", tag="payments", returns=ReceivedOut(), errors=_SIGNED)
def receive() -> dict[str, str]:
    """Take a payment provider's event; its signature header says whose it is. A repetition changes nothing."""
    sent = [name for name, header in SIGNATURE_HEADERS.items() if header in request.headers]
    return _receive(sent[0] if sent else None)


@bp.post("/webhooks/stripe")
@public
@endpoint(operation_id="receive_stripe_event", tag="payments", returns=ReceivedOut(), errors=_SIGNED)
def receive_from_stripe() -> dict[str, str]:
    """Take an event of Stripe's."""
    return _receive("stripe")


@bp.post("/webhooks/paystack")
@public
@endpoint(operation_id="receive_paystack_event", tag="payments", returns=ReceivedOut(), errors=_SIGNED)
def receive_from_paystack() -> dict[str, str]:
    """Take an event of Paystack's."""
    return _receive("paystack")


def _receive(provider: str | None) -> dict[str, str]:
    body = _raw()
    if provider is None:
        raise MissingSignature
    payments.receive(provider, body, request.headers.get(SIGNATURE_HEADERS[provider]))
    return {"status": "received"}


def _raw() -> bytes:
    request.max_content_length = EVENT_LIMIT_BYTES + 1  # a chunked body over the limit is cut silently
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge as cause:
        raise TooLarge from cause
    if len(body) > EVENT_LIMIT_BYTES:
        raise TooLarge
    return body


def _begun(payment: Payment) -> dict[str, Any]:
    return {
        "payment_id": payment.id,
        "payment_url": payment.checkout_url,
        "amount": minor_to_text(payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "provider": payment.provider,
        "status": payment.state,
    }


def _shown(payment: Payment) -> dict[str, Any]:
    return {
        **_begun(payment),
        "payment_url": payment.checkout_url if payment.state in IN_FLIGHT else None,
        "invoice_id": payment.invoice_id,
        "captured": minor_to_text(payment.captured_minor, payment.currency),
        "refunded": minor_to_text(payment.refunded_minor, payment.currency),
        "failure_code": payment.failure_code,
        "created_at": payment.created_at,
        "settled_at": payment.settled_at,
    }
