"""A server with Paystack's API: transactions by the merchant's reference, refunds and signed events."""

import hashlib
import hmac
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.support.payment_providers import FakeProvider

SECRET_KEY = "sk_test_paystack_fake"
_OUTER = {"status": True, "message": "ok"}


class PaystackServer(FakeProvider):
    """Keeps its transactions in memory; like Paystack, an unpaid one is abandoned from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: dict[str, dict[str, Any]] = {}
        self.deactivated: set[str] = set()
        self.declines = False
        self.refunds: list[dict[str, Any]] = []
        self.disputes: list[dict[str, Any]] = []

    def process(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {SECRET_KEY}":
            return 401, {"status": False, "message": "Invalid key"}
        address = urlsplit(path)
        fields = orjson.loads(body) if body else {}
        if (method, address.path) == ("POST", "/transaction/initialize"):
            return self._initialize(fields)
        if "authorization_code" in fields:
            return self._saved_card(address.path, fields)
        if method == "GET" and address.path.startswith("/transaction/verify/"):
            return self._verify(address.path.rpartition("/")[2])
        if address.path == "/refund":
            return self._refund(method, fields, address.query)
        is_known = address.path == "/dispute"
        return (
            (200, {**_OUTER, "data": self.disputes}) if is_known else (404, {"status": False, "message": "Not found"})
        )

    def _verify(self, reference: str) -> tuple[int, Any]:
        if reference not in self.transactions:
            return 404, {"status": False, "message": "Transaction reference not found."}
        return 200, {**_OUTER, "data": self.transactions[reference]}

    def _refund(self, method: str, fields: dict[str, Any], query: str) -> tuple[int, Any]:
        if method == "GET":
            transaction = parse_qs(query)["transaction"][0]
            return 200, {**_OUTER, "data": [refund for refund in self.refunds if refund["transaction"] == transaction]}
        self.refunds.append({"id": len(self.refunds) + 1, "status": "processed", **fields})
        return 200, {**_OUTER, "data": self.refunds[-1]}

    def _initialize(self, fields: dict[str, Any]) -> tuple[int, Any]:
        reference = fields["reference"]
        if reference in self.transactions:
            return 400, {"status": False, "message": "Duplicate Transaction Reference"}
        self.transactions[reference] = {
            "id": 4_000_000 + len(self.transactions),
            "status": "abandoned",
            "reference": reference,
            "amount": int(fields["amount"]),
            "currency": fields["currency"],
            "gateway_response": "The transaction was not completed",
        }
        address = f"https://checkout.paystack.example/{reference}"
        return 200, {**_OUTER, "data": {"authorization_url": address, "access_code": "x", "reference": reference}}

    def _saved_card(self, path: str, fields: dict[str, Any]) -> tuple[int, Any]:
        if path == "/customer/deactivate_authorization":
            self.deactivated.add(fields["authorization_code"])
            return 200, {"status": True, "message": "Authorization has been deactivated"}
        if fields["authorization_code"] in self.deactivated:
            return 400, {"status": False, "message": "Authorization code is inactive"}
        status, answer = self._initialize(fields)
        if status == 200:
            self.finish(fields["reference"], "failed" if self.declines else "success")
            answer = {**_OUTER, "data": self.transactions[fields["reference"]]}
        return status, answer

    def save_card(self, reference: str) -> None:
        """Pay the small amount that saves a card, as the payer does."""
        card = {"brand": "visa", "last4": "4081", "exp_month": "12", "exp_year": "2030", "reusable": True}
        authorization = {"authorization_code": f"AUTH_{reference[:8]}", **card}
        self.finish(reference, authorization=authorization, customer={"email": "alice@acme.example"})

    def finish(self, reference: str, status: str = "success", **changes: Any) -> None:
        """End a transaction with a status."""
        self.transactions[reference].update(status=status, gateway_response=status.title(), **changes)


def event(kind: str, reference: str, number: int = 1) -> bytes:
    """Return the body of an event about a transaction."""
    return orjson.dumps({"event": kind, "data": {"id": number, "reference": reference, "status": "success"}})


def sign(body: bytes, *, secret: str = SECRET_KEY) -> str:
    """Return the signature header of a body."""
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()
