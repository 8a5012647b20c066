"""Stripe over its SDK."""

import time
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
    SignatureMismatch,
    VerifiedEvent,
)

log = get_logger(__name__)

TIMEOUT_SECONDS = (3, 10)
SIGNATURE_TOLERANCE_SECONDS = 300
_CHECKOUT_EVENT_TYPES = "checkout.session."
_FAILED_INTENT_STATUSES = ("requires_payment_method", "canceled")


class Stripe:
    """Takes cards on Stripe's page."""

    def reference(self, payment_id: UUID) -> str | None:
        """Only Stripe names its sessions."""

    def create_checkout(self, order: CheckoutRequest) -> CheckoutSession:
        """Make a Checkout Session; the same payment always gets the same one."""
        line = {
            "quantity": 1,
            "price_data": {
                "currency": order.currency.lower(),
                "unit_amount": order.amount_minor,
                "product_data": {"name": order.description},
            },
        }
        asked = {
            "mode": "payment",
            "line_items": [line],
            "client_reference_id": order.payment_id.hex,
            "customer_email": order.email,
            "metadata": {"payment_id": order.payment_id.hex},
            "success_url": order.return_url,
            "cancel_url": order.return_url,
        }
        made = _call("create", lambda sessions: sessions.create(asked, options=_idempotency_key(order.payment_id.hex)))
        if not made.url:
            raise ProviderUnreachable("a session without an address")
        return CheckoutSession(str(made.id), str(made.url))

    def get_status(self, reference: str) -> CheckoutStatus:
        """Retrieve the session and its payment."""
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

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify by the SDK, with a look at both ends of the time it allows."""
        secret = setting("STRIPE_WEBHOOK_SECRET")
        if not secret:
            raise SignatureMismatch
        _verify(body, signature, secret)
        event = payments.parse_event_body(body)
        kind = payments.event_identifier(event.get("type"))
        return VerifiedEvent(
            payments.event_identifier(event.get("id")),
            kind,
            _session_of(event) if kind.startswith(_CHECKOUT_EVENT_TYPES) else None,
        )

    def refund(self, wanted: RefundRequest) -> RefundResult:
        """Refund the payment of a session, unless it bears the refund already: idempotency keys live for a day only."""
        session = _call("retrieve", lambda sessions: sessions.retrieve(wanted.reference))
        intent = str(session.payment_intent)
        made = _checkout_session(intent, wanted.key)
        if made is None:
            asked = {"payment_intent": intent, "amount": wanted.amount_minor, "metadata": {"refund": wanted.key}}
            made = _call_provider(
                "refund", lambda client: client.v1.refunds.create(asked, options=_idempotency_key(wanted.key))
            )
        kind = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}.get(str(made.status), "pending")
        return RefundResult(kind, str(made.id))


def _checkout_session(intent: str, key: str) -> Any:
    found = _call_provider("refunds", lambda client: client.v1.refunds.list({"payment_intent": intent, "limit": 100}))
    return next((one for one in found.data if getattr(one.metadata, "refund", None) == key), None)


def _verify(body: bytes, signature: str, secret: str) -> None:
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, SIGNATURE_TOLERANCE_SECONDS)
        stamps = [part.partition("=")[2] for part in signature.split(",") if part.startswith("t=")]
        is_present = abs(time.time() - int(stamps[0])) <= SIGNATURE_TOLERANCE_SECONDS
    except (stripe.SignatureVerificationError, ValueError, IndexError, TypeError) as cause:
        raise SignatureMismatch from cause
    if not is_present:
        raise SignatureMismatch


def _session_of(event: dict[str, Any]) -> str:
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    if not isinstance(session, dict):
        raise MalformedEvent("no session")
    return payments.event_identifier(session.get("id"))


def _idempotency_key(key: str) -> dict[str, Any]:
    return {"idempotency_key": key}


def _call(what: str, call: Any) -> Any:
    return _call_provider(what, lambda client: call(client.v1.checkout.sessions))


def _call_provider(what: str, call: Any) -> Any:
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    try:
        return call(_client(setting("STRIPE_SECRET_KEY"), setting("STRIPE_API_BASE")))
    except (stripe.InvalidRequestError, stripe.CardError) as refusal:
        if refusal.http_status in {409, 429}:
            raise ProviderUnreachable(what) from refusal
        raise ProviderRejected(str(refusal.code or "refused")) from refusal
    except stripe.StripeError as error:
        log.warning("stripe_away", call=what, kind=type(error).__name__, status=error.http_status)
        raise ProviderUnreachable(what) from error


@lru_cache(maxsize=4)
def _client(key: str, address: str) -> Any:
    import requests  # noqa: PLC0415 - a provider's libraries load on first use
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    stripe.enable_telemetry = False
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    carrier = stripe.RequestsClient(timeout=TIMEOUT_SECONDS, session=session)
    return stripe.StripeClient(key, base_addresses={"api": address}, max_network_retries=0, http_client=carrier)
