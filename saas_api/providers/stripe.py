"""Stripe by its own SDK: Checkout Sessions, refunds and signed events.

The SDK is loaded by the first payment; whoever takes none never waits for it.
"""

import time
from functools import lru_cache
from typing import Any
from uuid import UUID

from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.providers.payments import (
    Checkout,
    Forged,
    Notice,
    Order,
    ProviderAway,
    ProviderRefused,
    Refunded,
    Return,
    Truth,
    Unreadable,
    document,
    name_of,
)

log = get_logger(__name__)

TIMEOUT_SECONDS = (3, 10)
TOLERANCE_SECONDS = 300
_ABOUT_CHECKOUTS = "checkout.session."
_BROKEN_INTENTS = ("requires_payment_method", "canceled")


class Stripe:
    """Takes cards on Stripe's page."""

    def reference(self, payment_id: UUID) -> str | None:
        """Only Stripe names its sessions."""

    def open(self, order: Order) -> Checkout:
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
        made = _call("create", lambda sessions: sessions.create(asked, options=_once(order.payment_id.hex)))
        if not made.url:
            raise ProviderAway("a session without an address")
        return Checkout(str(made.id), str(made.url))

    def ask(self, reference: str) -> Truth:
        """Retrieve the session and its payment."""
        try:
            session = _call("retrieve", lambda sessions: sessions.retrieve(reference, {"expand": ["payment_intent"]}))
        except ProviderRefused as refusal:
            if refusal.code == "resource_missing":
                return Truth("unknown", reference)
            raise ProviderAway(refusal.code) from refusal
        intent = None if isinstance(session.payment_intent, str) else session.payment_intent
        reference, currency = str(session.id), str(session.currency or "").upper()
        if session.status == "expired":
            return Truth("canceled", reference, currency, failure_code="expired")
        if session.status == "complete" and session.payment_status == "paid":
            received = intent.amount_received if intent else session.amount_total
            return Truth("succeeded", reference, currency, int(received))
        if session.status == "complete" and intent and intent.status in _BROKEN_INTENTS:
            error = getattr(intent, "last_payment_error", None)
            return Truth("failed", reference, currency, failure_code=str(getattr(error, "code", None) or "declined"))
        return Truth("open", reference, currency)

    def read(self, body: bytes, signature: str) -> Notice:
        """Verify by the SDK, with a look at both ends of the time it allows."""
        secret = setting("STRIPE_WEBHOOK_SECRET")
        if not secret:
            raise Forged
        _verify(body, signature, secret)
        event = document(body)
        kind = name_of(event.get("type"))
        return Notice(name_of(event.get("id")), kind, _session_of(event) if kind.startswith(_ABOUT_CHECKOUTS) else None)

    def refund(self, wanted: Return) -> Refunded:
        """Refund the payment of a session, unless it bears the refund already: idempotency keys live for a day only."""
        session = _call("retrieve", lambda sessions: sessions.retrieve(wanted.reference))
        intent = str(session.payment_intent)
        made = _made(intent, wanted.key)
        if made is None:
            asked = {"payment_intent": intent, "amount": wanted.amount_minor, "metadata": {"refund": wanted.key}}
            made = _guarded("refund", lambda client: client.v1.refunds.create(asked, options=_once(wanted.key)))
        kind = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}.get(str(made.status), "pending")
        return Refunded(kind, str(made.id))


def _made(intent: str, key: str) -> Any:
    found = _guarded("refunds", lambda client: client.v1.refunds.list({"payment_intent": intent, "limit": 100}))
    return next((one for one in found.data if getattr(one.metadata, "refund", None) == key), None)


def _verify(body: bytes, signature: str, secret: str) -> None:
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
        stamps = [part.partition("=")[2] for part in signature.split(",") if part.startswith("t=")]
        is_present = abs(time.time() - int(stamps[0])) <= TOLERANCE_SECONDS
    except (stripe.SignatureVerificationError, ValueError, IndexError, TypeError) as cause:
        raise Forged from cause
    if not is_present:
        raise Forged


def _session_of(event: dict[str, Any]) -> str:
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    if not isinstance(session, dict):
        raise Unreadable("no session")
    return name_of(session.get("id"))


def _once(key: str) -> dict[str, Any]:
    return {"idempotency_key": key}


def _call(what: str, call: Any) -> Any:
    return _guarded(what, lambda client: call(client.v1.checkout.sessions))


def _guarded(what: str, call: Any) -> Any:
    import stripe  # noqa: PLC0415 - 31 MB that only payments need

    try:
        return call(_client(setting("STRIPE_SECRET_KEY"), setting("STRIPE_API_BASE")))
    except (stripe.InvalidRequestError, stripe.CardError) as refusal:
        if refusal.http_status in {409, 429}:
            raise ProviderAway(what) from refusal
        raise ProviderRefused(str(refusal.code or "refused")) from refusal
    except stripe.StripeError as error:
        log.warning("stripe_away", call=what, kind=type(error).__name__, status=error.http_status)
        raise ProviderAway(what) from error


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
