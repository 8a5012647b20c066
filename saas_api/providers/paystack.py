"""Paystack over HTTP."""

import hashlib
import hmac
import re
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
MAX_RESPONSE_BYTES = 1_048_576
_DEFAULT_FAILURE_CODE = re.compile(r"[^a-z0-9]+")
_STATUS_BY_PAYSTACK = {"success": "succeeded", "failed": "failed", "abandoned": "abandoned", "reversed": "canceled"}
_REFUNDS = {"processed": "succeeded", "failed": "failed"}


class Paystack:
    """Takes cards, transfers and mobile money on Paystack's page."""

    def reference(self, payment_id: UUID) -> str | None:
        """The payment's own id."""
        return payment_id.hex

    def create_checkout(self, order: CheckoutRequest) -> CheckoutSession:
        """Initialize a transaction; a reference that is taken is refused, so nobody pays twice."""
        asked = {
            "email": order.email,
            "amount": str(order.amount_minor),
            "currency": order.currency,
            "reference": order.payment_id.hex,
            "callback_url": order.return_url,
            "metadata": {"payment_id": order.payment_id.hex, "description": order.description},
        }
        made = _call("POST", "/transaction/initialize", asked)
        url = made.get("authorization_url")
        if made.get("reference") != order.payment_id.hex or not isinstance(url, str) or not url:
            raise ProviderUnreachable("an answer without an address")
        return CheckoutSession(order.payment_id.hex, url)

    def get_status(self, reference: str) -> CheckoutStatus:
        """Verify a transaction: its own status counts, not that of the answer."""
        try:
            found = _call("GET", f"/transaction/verify/{quote(reference, safe='')}")
        except ProviderRejected as refusal:
            if "not_found" in refusal.code:
                return CheckoutStatus("unknown", reference)
            raise ProviderUnreachable(refusal.code) from refusal
        kind = _STATUS_BY_PAYSTACK.get(str(found.get("status")), "open")
        amount = found.get("amount")
        if kind == "succeeded" and type(amount) is not int:
            raise ProviderUnreachable("a success without an amount")
        return CheckoutStatus(
            kind,
            str(found.get("reference")),
            str(found.get("currency") or ""),
            int(amount or 0),
            None if kind in ("succeeded", "open") else _code(found.get("gateway_response") or found.get("status")),
        )

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify and read; events carry no id, so what they say of what makes one."""
        key = setting("PAYSTACK_SECRET_KEY")
        if not key or not hmac.compare_digest(hmac.new(key.encode(), body, hashlib.sha512).hexdigest(), signature):
            raise SignatureMismatch
        event = payments.parse_event_body(body)
        kind, data = payments.event_identifier(event.get("event")), event.get("data")
        if not isinstance(data, dict) or type(data.get("id")) not in (int, str):
            raise MalformedEvent("no data")
        reference = payments.event_identifier(data.get("reference")) if kind.startswith("charge.") else None
        return VerifiedEvent(payments.event_identifier(f"{kind}:{data['id']}"), kind, reference)

    def refund(self, wanted: RefundRequest) -> RefundResult:
        """Refund a transaction unless that was done under this key: Paystack keeps no keys, its notes do."""
        for made in _list(f"/refund?transaction={quote(wanted.reference, safe='')}"):
            if isinstance(made, dict) and made.get("merchant_note") == wanted.key:
                return _refund_result(made)
        asked = {
            "transaction": wanted.reference,
            "amount": wanted.amount_minor,
            "currency": wanted.currency,
            "merchant_note": wanted.key,
        }
        return _refund_result(_call("POST", "/refund", asked))


def _refund_result(made: dict[str, Any]) -> RefundResult:
    return RefundResult(_REFUNDS.get(str(made.get("status")), "pending"), str(made.get("id")))


def _code(text: Any) -> str:
    return _DEFAULT_FAILURE_CODE.sub("_", str(text).lower()).strip("_")[:100] or "refused"


def _call(method: str, path: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
    data = _parse_response(method, path, asked)
    if not isinstance(data, dict):
        raise ProviderUnreachable("an answer without data")
    return data


def _list(path: str) -> list[Any]:
    data = _parse_response("GET", path, None)
    return data if isinstance(data, list) else []


def _parse_response(method: str, path: str, asked: dict[str, Any] | None) -> Any:
    session = _session(setting("PAYSTACK_SECRET_KEY"))
    address = setting("PAYSTACK_API_BASE") + path
    try:
        with session.request(
            method, address, json=asked, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
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
        raise ProviderRejected(_code(answer.get("message") or status))
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
