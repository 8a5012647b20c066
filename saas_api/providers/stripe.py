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
    ChargeRequest,
    CheckoutRequest,
    CheckoutSession,
    CheckoutStatus,
    MalformedEvent,
    ProviderRejected,
    ProviderUnreachable,
    RefundRequest,
    RefundResult,
    Reversals,
    SavedMethod,
    SetupRequest,
    SetupStatus,
    SignatureMismatch,
    VerifiedEvent,
)

log = get_logger(__name__)

TIMEOUT_SECONDS = (3, 10)
SIGNATURE_TOLERANCE_SECONDS = 300
_CHECKOUT_EVENT_PREFIX = "checkout.session."
_INTENT_PREFIX = "pi_"
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
        """Return the status of a session and its payment intent, or of an intent that charged a saved method."""
        if reference.startswith(_INTENT_PREFIX):
            return _intent_status(reference)
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
            return CheckoutStatus("failed", reference, currency, failure_code=_failure_code(intent))
        return CheckoutStatus("open", reference, currency)

    def expire_checkout(self, reference: str) -> None:
        """Expire a session; Stripe refuses that for one that is complete or expired."""
        with suppress(ProviderRejected):
            _call("expire", lambda sessions: sessions.expire(reference))

    def create_setup(self, request: SetupRequest) -> CheckoutSession:
        """Create a Checkout Session that saves a card with a customer of its own; a method always gets the same one."""
        parameters = {
            "mode": "setup",
            "payment_method_types": ["card"],
            "customer_creation": "always",
            "customer_email": request.email,
            "client_reference_id": request.method_id.hex,
            "success_url": request.return_url,
            "cancel_url": request.return_url,
        }
        options = _idempotency_key(request.method_id.hex)
        session = _call("setup", lambda sessions: sessions.create(parameters, options=options))
        if not session.url:
            raise ProviderUnreachable("a session without an address")
        return CheckoutSession(str(session.id), str(session.url))

    def get_setup(self, reference: str) -> SetupStatus:
        """Return the status of a session that saves a card."""
        expand = {"expand": ["setup_intent.payment_method"]}
        try:
            session = _call("retrieve", lambda sessions: sessions.retrieve(reference, expand))
        except ProviderRejected as refusal:
            if refusal.code == "resource_missing":
                return SetupStatus("unknown")
            raise ProviderUnreachable(refusal.code) from refusal
        if session.status != "complete":
            return SetupStatus("canceled" if session.status == "expired" else "open")
        method = session.setup_intent.payment_method
        card = method.card
        return SetupStatus(
            "succeeded",
            SavedMethod(
                str(method.id), str(session.customer), str(card.brand), str(card.last4), card.exp_month, card.exp_year
            ),
        )

    def forget_method(self, method: SavedMethod) -> None:
        """Detach a card; Stripe refuses that for one that is detached or unknown."""
        with suppress(ProviderRejected):
            _call_provider("detach", lambda client: client.v1.payment_methods.detach(method.reference))

    def charge(self, request: ChargeRequest) -> str:
        """Confirm a payment intent once, even after Stripe has forgotten the idempotency key, which is a day."""
        customer, payment_id = request.method.customer_reference, request.payment_id.hex
        if intent := _find_intent(customer, payment_id):
            return str(intent.id)
        parameters = {
            "amount": request.amount_minor,
            "currency": request.currency.lower(),
            "customer": customer,
            "payment_method": request.method.reference,
            "payment_method_types": ["card"],
            "confirm": True,
            "off_session": True,
            "description": request.description,
            "metadata": {"payment_id": payment_id},
        }
        options = _idempotency_key(payment_id)
        try:
            intent = _call_provider(
                "charge", lambda client: client.v1.payment_intents.create(parameters, options=options)
            )
        except ProviderRejected:  # a declined card leaves an intent, which says why
            intent = _find_intent(customer, payment_id)
            if intent is None:
                raise
        return str(intent.id)

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
            str(sessions.data[0].id) if sessions.data else reference,
            {
                str(refund.id): int(refund.amount)
                for refund in refunds.data
                if refund.status == "succeeded" and not getattr(refund.metadata, "refund", None)
            },
            sum(int(one.amount) for one in disputes.data if str(one.status) in _TAKING_DISPUTE_STATUSES),
        )

    def refund(self, request: RefundRequest) -> RefundResult:
        """Refund the payment of a session once, even after Stripe has forgotten the idempotency key, which is a day."""
        intent = _paid_intent(request.reference)
        refund = _find_refund(intent, request.key)
        if refund is None:
            parameters = {"payment_intent": intent, "amount": request.amount_minor, "metadata": {"refund": request.key}}
            refund = _call_provider(
                "refund", lambda client: client.v1.refunds.create(parameters, options=_idempotency_key(request.key))
            )
        kind = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}.get(str(refund.status), "pending")
        return RefundResult(kind, str(refund.id))


def _intent_status(reference: str) -> CheckoutStatus:
    try:
        intent = _call_provider("intent", lambda client: client.v1.payment_intents.retrieve(reference))
    except ProviderRejected as refusal:
        if refusal.code == "resource_missing":
            return CheckoutStatus("unknown", reference)
        raise ProviderUnreachable(refusal.code) from refusal
    reference, currency = str(intent.id), str(intent.currency or "").upper()
    if intent.status == "succeeded":
        return CheckoutStatus("succeeded", reference, currency, int(intent.amount_received))
    if intent.status in (*_FAILED_INTENT_STATUSES, "requires_action"):  # nobody is there to act
        return CheckoutStatus("failed", reference, currency, failure_code=_failure_code(intent))
    return CheckoutStatus("open", reference, currency)


def _failure_code(intent: Any) -> str:
    error = getattr(intent, "last_payment_error", None)
    return str(getattr(error, "code", None) or "declined")


def _find_intent(customer: str | None, payment_id: str) -> Any:
    """The intent of a payment, among the newest of its customer, who has one card only."""
    filters = {"customer": customer, "limit": 100}
    intents = _call_provider("intents", lambda client: client.v1.payment_intents.list(filters))
    return next((one for one in intents.data if getattr(one.metadata, "payment_id", None) == payment_id), None)


def _paid_intent(reference: str) -> str:
    """Id of the payment intent of a checkout session; one that charged a saved method is its own."""
    if reference.startswith(_INTENT_PREFIX):
        return reference
    return str(_call("retrieve", lambda sessions: sessions.retrieve(reference)).payment_intent)


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
