"""The Paystack adapter, over HTTP."""

import hashlib
import hmac
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
import requests

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
MAX_RESPONSE_BYTES = 1_048_576
_VERIFICATION_MINOR = {"NGN": 5_000, "GHS": 10, "ZAR": 100, "KES": 300, "USD": 200}
"""What Paystack charges to save a card, by currency: its least amounts. It is refunded at once."""
_OWN_KEY = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
_NOT_IN_FAILURE_CODE = re.compile(r"[^a-z0-9]+")
_STATUS_BY_PAYSTACK = {"success": "succeeded", "failed": "failed", "abandoned": "abandoned", "reversed": "canceled"}
_REFUND_STATUS_BY_PAYSTACK = {"processed": "succeeded", "failed": "failed"}


class Paystack:
    """Collects cards, transfers and mobile money on Paystack's page."""

    def reference(self, payment_id: UUID) -> str | None:
        """Return the id of the payment."""
        return payment_id.hex

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        """Initialize a transaction. Paystack rejects a reference that exists, so a payment is not collected twice."""
        body = {
            "email": request.email,
            "amount": str(request.amount_minor),
            "currency": request.currency,
            "reference": request.payment_id.hex,
            "callback_url": request.return_url,
            "metadata": {"payment_id": request.payment_id.hex, "description": request.description},
        }
        transaction = _call("POST", "/transaction/initialize", body)
        url = transaction.get("authorization_url")
        if transaction.get("reference") != request.payment_id.hex or not isinstance(url, str) or not url:
            raise ProviderUnreachable("an answer without an address")
        return CheckoutSession(request.payment_id.hex, url)

    def get_status(self, reference: str) -> CheckoutStatus:
        """Return the status of a transaction, which is not the status of the response around it."""
        try:
            transaction = _call("GET", f"/transaction/verify/{quote(reference, safe='')}")
        except ProviderRejected as refusal:
            if "not_found" in refusal.code:
                return CheckoutStatus("unknown", reference)
            raise ProviderUnreachable(refusal.code) from refusal
        kind = _STATUS_BY_PAYSTACK.get(str(transaction.get("status")), "open")
        amount = transaction.get("amount")
        if kind == "succeeded" and type(amount) is not int:
            raise ProviderUnreachable("a success without an amount")
        reason = transaction.get("gateway_response") or transaction.get("status")
        return CheckoutStatus(
            kind,
            str(transaction.get("reference")),
            str(transaction.get("currency") or ""),
            int(amount or 0),
            None if kind in ("succeeded", "open") else _failure_code(reason),
        )

    def expire_checkout(self, reference: str) -> None:
        """Do nothing: Paystack cannot close a page. A payment on it still settles and goes into the wallet."""

    def create_setup(self, request: SetupRequest) -> CheckoutSession:
        """Initialize a transaction of a small amount: Paystack saves the card that pays it."""
        reference = request.method_id.hex
        body = {
            "email": request.email,
            "amount": str(_VERIFICATION_MINOR[request.currency]),
            "currency": request.currency,
            "reference": reference,
            "channels": ["card"],
            "callback_url": request.return_url,
            "metadata": {"payment_method_id": reference, "description": request.description},
        }
        url = _call("POST", "/transaction/initialize", body).get("authorization_url")
        if not isinstance(url, str) or not url:
            raise ProviderUnreachable("an answer without an address")
        return CheckoutSession(reference, url)

    def get_setup(self, reference: str) -> SetupStatus:
        """Return the card of a transaction, once the amount that saved it is being refunded."""
        status = self.get_status(reference)
        if status.kind != "succeeded":
            is_over = status.kind in ("failed", "canceled")
            return SetupStatus("canceled" if is_over else "unknown" if status.kind == "unknown" else "open")
        transaction = _call("GET", f"/transaction/verify/{quote(reference, safe='')}")
        self.refund(RefundRequest(reference, status.currency, status.amount_minor, reference))
        card, customer = transaction.get("authorization") or {}, transaction.get("customer") or {}
        if not card.get("reusable"):
            return SetupStatus("canceled")
        return SetupStatus(
            "succeeded",
            SavedMethod(
                str(card["authorization_code"]),
                str(customer["email"]),
                str(card.get("brand") or card.get("card_type") or "").strip() or None,
                str(card["last4"]),
                int(card["exp_month"]),
                int(card["exp_year"]),
            ),
        )

    def forget_method(self, method: SavedMethod) -> None:
        """Deactivate an authorization; Paystack refuses that for one that is inactive or unknown."""
        with suppress(ProviderRejected):
            _request("POST", "/customer/deactivate_authorization", {"authorization_code": method.reference})

    def charge(self, request: ChargeRequest) -> str:
        """Charge an authorization. Paystack rejects a reference that exists, so a payment is not collected twice."""
        reference = request.payment_id.hex
        if self.get_status(reference).kind != "unknown":
            return reference
        body = {
            "email": request.method.customer_reference,
            "amount": str(request.amount_minor),
            "currency": request.currency,
            "reference": reference,
            "authorization_code": request.method.reference,
            "metadata": {"payment_id": reference, "description": request.description},
        }
        try:
            _call("POST", "/transaction/charge_authorization", body)
        except ProviderRejected:
            if self.get_status(reference).kind == "unknown":
                raise
        return reference

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify and parse an event. Events carry no id, so type and object id make one."""
        key = setting("PAYSTACK_SECRET_KEY")
        if not key or not hmac.compare_digest(hmac.new(key.encode(), body, hashlib.sha512).hexdigest(), signature):
            raise SignatureMismatch
        event = payments.parse_event_body(body)
        kind, data = payments.event_identifier(event.get("event")), event.get("data")
        if not isinstance(data, dict) or type(data.get("id")) not in (int, str):
            raise MalformedEvent("no data")
        reference = _event_reference(kind, data)
        return VerifiedEvent(payments.event_identifier(f"{kind}:{data['id']}"), kind, reference)

    def get_reversals(self, reference: str) -> Reversals:
        """Return refunds and disputes of a transaction."""
        try:
            transaction = _call("GET", f"/transaction/verify/{quote(reference, safe='')}")
            refunds = _list(f"/refund?transaction={quote(reference, safe='')}")
            disputes = _list(f"/dispute?transaction={transaction.get('id')}")
        except ProviderRejected as refusal:
            raise ProviderUnreachable(refusal.code) from refusal
        return Reversals(
            reference,
            {
                str(refund.get("id")): int(refund["amount"])
                for refund in refunds
                if refund.get("status") == "processed" and not _OWN_KEY.fullmatch(str(refund.get("merchant_note")))
            },
            sum(int(one["refund_amount"] or 0) for one in disputes if one.get("resolution") != "declined"),
        )

    def refund(self, request: RefundRequest) -> RefundResult:
        """Refund a transaction once. Paystack has no idempotency keys, so the merchant note holds the key."""
        for refund in _list(f"/refund?transaction={quote(request.reference, safe='')}"):
            if isinstance(refund, dict) and refund.get("merchant_note") == request.key:
                return _refund_result(refund)
        body = {
            "transaction": request.reference,
            "amount": request.amount_minor,
            "currency": request.currency,
            "merchant_note": request.key,
        }
        return _refund_result(_call("POST", "/refund", body))


def _event_reference(kind: str, data: dict[str, Any]) -> str | None:
    """Reference of the transaction that an event is about."""
    if kind.startswith("charge.dispute."):
        transaction = data.get("transaction")
        return payments.event_identifier(transaction.get("reference") if isinstance(transaction, dict) else None)
    if kind.startswith("refund."):
        return payments.event_identifier(data.get("transaction_reference"))
    return payments.event_identifier(data.get("reference")) if kind.startswith("charge.") else None


def _refund_result(refund: dict[str, Any]) -> RefundResult:
    return RefundResult(_REFUND_STATUS_BY_PAYSTACK.get(str(refund.get("status")), "pending"), str(refund.get("id")))


def _failure_code(text: Any) -> str:
    return _NOT_IN_FAILURE_CODE.sub("_", str(text).lower()).strip("_")[:100] or "refused"


def _call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = _request(method, path, body)
    if not isinstance(data, dict):
        raise ProviderUnreachable("an answer without data")
    return data


def _list(path: str) -> list[Any]:
    data = _request("GET", path, None)
    return data if isinstance(data, list) else []


def _request(method: str, path: str, body: dict[str, Any] | None) -> Any:
    session = _session(setting("PAYSTACK_SECRET_KEY"))
    url = setting("PAYSTACK_API_BASE") + path
    try:
        with session.request(
            method, url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
        ) as response:
            status, raw = response.status_code, _read(response)
        answer = orjson.loads(raw)
    except (requests.RequestException, orjson.JSONDecodeError, OSError) as error:
        log.warning("paystack_away", path=path.partition("?")[0], kind=type(error).__name__)
        raise ProviderUnreachable(path) from error
    if not isinstance(answer, dict) or status >= 500 or status in (401, 403, 408, 429) or 300 <= status < 400:
        log.warning("paystack_away", path=path.partition("?")[0], status=status)
        raise ProviderUnreachable(path)
    if status >= 400 or answer.get("status") is not True:
        raise ProviderRejected(_failure_code(answer.get("message") or status))
    return answer.get("data")


def _read(response: requests.Response) -> bytes:
    raw = b""
    for part in response.iter_content(65_536):
        raw += part
        if len(raw) > MAX_RESPONSE_BYTES:
            raise ProviderUnreachable("an answer without an end")
    return raw


@lru_cache(maxsize=4)
def _session(key: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {key}"
    return session
