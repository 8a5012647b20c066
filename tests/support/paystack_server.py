"""Paystack as its reference describes it: transactions under the merchant's references, refunds, signed events."""

import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.support.payment_providers import FakeProvider

SECRET_KEY = "sk_test_paystack_fake"
_OUTER = {"status": True, "message": "ok"}


class PaystackServer(FakeProvider):
    """Keeps its transactions in memory; one nobody has paid is called abandoned from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: dict[str, dict[str, Any]] = {}
        self.refunds: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {SECRET_KEY}":
            return 401, {"status": False, "message": "Invalid key"}
        address = urlsplit(path)
        asked = orjson.loads(body) if body else {}
        if (method, address.path) == ("POST", "/transaction/initialize"):
            return self._initialize(asked)
        if method == "GET" and address.path.startswith("/transaction/verify/"):
            return self._verify(address.path.rpartition("/")[2])
        if address.path == "/refund":
            return self._refund(method, asked, address.query)
        return 404, {"status": False, "message": "Not found"}

    def _verify(self, reference: str) -> tuple[int, Any]:
        if reference not in self.transactions:
            return 404, {"status": False, "message": "Transaction reference not found."}
        return 200, {**_OUTER, "data": self.transactions[reference]}

    def _refund(self, method: str, asked: dict[str, Any], query: str) -> tuple[int, Any]:
        if method == "GET":
            wanted = parse_qs(query)["transaction"][0]
            return 200, {**_OUTER, "data": [one for one in self.refunds if one["transaction"] == wanted]}
        self.refunds.append({"id": len(self.refunds) + 1, "status": "processed", **asked})
        return 200, {**_OUTER, "data": self.refunds[-1]}

    def _initialize(self, asked: dict[str, Any]) -> tuple[int, Any]:
        reference = asked["reference"]
        if reference in self.transactions:
            return 400, {"status": False, "message": "Duplicate Transaction Reference"}
        self.transactions[reference] = {
            "id": 4_000_000 + len(self.transactions),
            "status": "abandoned",
            "reference": reference,
            "amount": int(asked["amount"]),
            "currency": asked["currency"],
            "gateway_response": "The transaction was not completed",
        }
        address = f"https://checkout.paystack.example/{reference}"
        return 200, {**_OUTER, "data": {"authorization_url": address, "access_code": "x", "reference": reference}}

    def finish(self, reference: str, status: str = "success", **changes: Any) -> None:
        """Let the customer pay, or fail to."""
        self.transactions[reference].update(status=status, gateway_response=status.title(), **changes)


def event(kind: str, reference: str, number: int = 1) -> bytes:
    """The body of an event about a transaction."""
    return orjson.dumps({"event": kind, "data": {"id": number, "reference": reference, "status": "success"}})


def sign(body: bytes, *, secret: str = SECRET_KEY) -> str:
    """The header that Paystack sends with a body."""
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
