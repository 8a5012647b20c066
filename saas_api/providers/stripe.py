"""The Stripe adapter, over Stripe's SDK."""

import time
from contextlib import suppress
from functools import lru_cache
from typing import Any
from uuid import UUID

from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.providers import payments
from saas_api.providers.payments import (
    CheckoutRequest,
    CheckoutSession,
    CheckoutStatus,
    MalformedEvent,
    ProviderRejected,
    ProviderUnreachable,
    RefundRequest,
    RefundResult,
    Reversals,
    SignatureMismatch,
    VerifiedEvent,
)

log = get_logger(__name__)

TIMEOUT_SECONDS = (3, 10)
SIGNATURE_TOLERANCE_SECONDS = 300
_CHECKOUT_EVENT_PREFIX = "checkout.session."
_TAKING_DISPUTE_STATUSES = ("needs_response", "under_review", "lost")
"""Stripe has withdrawn the money of these; an inquiry (`warning_...`) takes none, and `won` gave it back."""
_FAILED_INTENT_STATUSES = ("requires_payment_method", "canceled")


class Stripe:
    """Collects card payments on Stripe's page."""

    def reference(self, payment_id: UUID) -> str | None:
        """Return None: Stripe assigns the references."""

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        """Create a Checkout Session; a payment always gets the same one."""
        line = {
            "quantity": 1,
            "price_data": {
                "currency": request.currency.lower(),
                "unit_amount": request.amount_minor,
                "product_data": {"name": request.description},
            },
        }
        parameters = {
            "mode": "payment",
            "line_items": [line],
            "client_reference_id": request.payment_id.hex,
            "customer_email": request.email,
            "metadata": {"payment_id": request.payment_id.hex},
            "success_url": request.return_url,
            "cancel_url": request.return_url,
        }
        options = _idempotency_key(request.payment_id.hex)
        session = _call("create", lambda sessions: sessions.create(parameters, options=options))
        if not session.url:
            raise ProviderUnreachable("a session without an address")
        return CheckoutSession(str(session.id), str(session.url))

    def get_status(self, reference: str) -> CheckoutStatus:
        """Return the status of a session and its payment intent."""
        try:
            session = _call("retrieve", lambda sessions: sessions.retrieve(reference, {"expand": ["payment_intent"]}))
        except ProviderRejected as refusal:
            if refusal.code == "resource_missing":
                return CheckoutStatus("unknown", reference)
            raise ProviderUnreachable(refusal.code) from refusal
        intent = None if isinstance(session.payment_intent, str) else session.payment_intent
        reference, currency = str(session.id), str(session.currency or "").upper()
        if session.status == "expired":
            return CheckoutStatus("canceled", reference, currency, failure_code="expired")
        if session.status == "complete" and session.payment_status == "paid":
            received = intent.amount_received if intent else session.amount_total
            return CheckoutStatus("succeeded", reference, currency, int(received))
        if session.status == "complete" and intent and intent.status in _FAILED_INTENT_STATUSES:
            error = getattr(intent, "last_payment_error", None)
            return CheckoutStatus(
                "failed", reference, currency, failure_code=str(getattr(error, "code", None) or "declined")
            )
        return CheckoutStatus("open", reference, currency)

    def expire_checkout(self, reference: str) -> None:
        """Expire a session; Stripe refuses that for one that is complete or expired."""
        with suppress(ProviderRejected):
            _call("expire", lambda sessions: sessions.expire(reference))

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify and parse an event. The SDK rejects old timestamps; those of the future are rejected here."""
        secret = setting("STRIPE_WEBHOOK_SECRET")
        if not secret:
            raise SignatureMismatch
        _verify(body, signature, secret)
        event = payments.parse_event_body(body)
        kind = payments.event_identifier(event.get("type"))
        return VerifiedEvent(
            payments.event_identifier(event.get("id")),
            kind,
            _session_id(event) if kind.startswith(_CHECKOUT_EVENT_PREFIX) else _intent_id(event),
        )

    def get_reversals(self, reference: str) -> Reversals:
        """Return refunds and disputes of a payment intent, whose session is the checkout."""
        try:
            sessions = _call("sessions", lambda sessions: sessions.list({"payment_intent": reference, "limit": 1}))
            refunds = _call_provider("refunds", lambda client: client.v1.refunds.list(_of_intent(reference)))
            disputes = _call_provider("disputes", lambda client: client.v1.disputes.list(_of_intent(reference)))
        except ProviderRejected as refusal:
            raise ProviderUnreachable(refusal.code) from refusal
        return Reversals(
            str(sessions.data[0].id) if sessions.data else "",
            {
                str(refund.id): int(refund.amount)
                for refund in refunds.data
                if refund.status == "succeeded" and not getattr(refund.metadata, "refund", None)
            },
            sum(int(one.amount) for one in disputes.data if str(one.status) in _TAKING_DISPUTE_STATUSES),
        )

    def refund(self, request: RefundRequest) -> RefundResult:
        """Refund the payment of a session once, even after Stripe has forgotten the idempotency key, which is a day."""
        session = _call("retrieve", lambda sessions: sessions.retrieve(request.reference))
        intent = str(session.payment_intent)
        refund = _find_refund(intent, request.key)
        if refund is None:
            parameters = {"payment_intent": intent, "amount": request.amount_minor, "metadata": {"refund": request.key}}
            refund = _call_provider(
                "refund", lambda client: client.v1.refunds.create(parameters, options=_idempotency_key(request.key))
            )
        kind = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}.get(str(refund.status), "pending")
        return RefundResult(kind, str(refund.id))


def _of_intent(intent: str) -> dict[str, Any]:
    return {"payment_intent": intent, "limit": 100}


def _find_refund(intent: str, key: str) -> Any:
    refunds = _call_provider("refunds", lambda client: client.v1.refunds.list(_of_intent(intent)))
    return next((refund for refund in refunds.data if getattr(refund.metadata, "refund", None) == key), None)


def _verify(body: bytes, signature: str, secret: str) -> None:
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, SIGNATURE_TOLERANCE_SECONDS)
        timestamps = [part.partition("=")[2] for part in signature.split(",") if part.startswith("t=")]
        is_recent = abs(time.time() - int(timestamps[0])) <= SIGNATURE_TOLERANCE_SECONDS
    except (stripe.SignatureVerificationError, ValueError, IndexError, TypeError) as cause:
        raise SignatureMismatch from cause
    if not is_recent:
        raise SignatureMismatch


def _intent_id(event: dict[str, Any]) -> str | None:
    data = event.get("data")
    thing = data.get("object") if isinstance(data, dict) else None
    intent = thing.get("payment_intent") if isinstance(thing, dict) else None
    return None if intent is None else payments.event_identifier(intent)


def _session_id(event: dict[str, Any]) -> str:
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    if not isinstance(session, dict):
        raise MalformedEvent("no session")
    return payments.event_identifier(session.get("id"))


def _idempotency_key(key: str) -> dict[str, Any]:
    return {"idempotency_key": key}


def _call(operation: str, call: Any) -> Any:
    return _call_provider(operation, lambda client: call(client.v1.checkout.sessions))


def _call_provider(operation: str, call: Any) -> Any:
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    try:
        return call(_client(setting("STRIPE_SECRET_KEY"), setting("STRIPE_API_BASE")))
    except (stripe.InvalidRequestError, stripe.CardError) as refusal:
        if refusal.http_status in {409, 429}:
            raise ProviderUnreachable(operation) from refusal
        raise ProviderRejected(str(refusal.code or "refused")) from refusal
    except stripe.StripeError as error:
        log.warning("stripe_away", call=operation, kind=type(error).__name__, status=error.http_status)
        raise ProviderUnreachable(operation) from error


@lru_cache(maxsize=4)
def _client(key: str, api_base: str) -> Any:
    import requests  # noqa: PLC0415 - a provider's libraries load on first use
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    stripe.enable_telemetry = False
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    http_client = stripe.RequestsClient(timeout=TIMEOUT_SECONDS, session=session)
    return stripe.StripeClient(key, base_addresses={"api": api_base}, max_network_retries=0, http_client=http_client)
