"""A server with Stripe's API: checkout sessions, payment intents, refunds, idempotency keys and signed events."""

import hashlib
import hmac
import re
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from tests.support.payment_providers import FakeProvider

SECRET_KEY, WEBHOOK_SECRET = "sk_test_fake", "whsec_fake"


class StripeServer(FakeProvider):
    """Keeps its sessions in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.detached: set[str] = set()
        self.declines_with: str | None = None
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: list[dict[str, Any]] = []
        self.refund_status = "succeeded"
        self._responses: dict[str, Any] = {}

    def process(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {SECRET_KEY}":
            return 401, _error("Invalid API key", "invalid_request_error")
        key = headers.get("Idempotency-Key")
        if method == "POST" and key in self._responses:
            return self._responses[key]
        response = self._route(method, urlsplit(path), dict(parse_qsl(body.decode())))
        if method == "POST" and key:
            self._responses[key] = response
        return response

    def _route(self, method: str, address: Any, form: dict[str, str]) -> tuple[int, Any]:
        if method == "POST" and address.path == "/v1/checkout/sessions":
            return 200, self._create_setup(form) if form["mode"] == "setup" else self._create(form)
        if address.path.startswith(("/v1/payment_intents", "/v1/payment_methods")):
            return self._saved_card(method, address, form)
        if method == "POST" and address.path == "/v1/refunds":
            return 200, self._refund(form)
        if method == "GET" and address.path in {"/v1/refunds", "/v1/disputes", "/v1/checkout/sessions"}:
            return 200, self._list(address.path, dict(parse_qsl(address.query))["payment_intent"])
        if match := re.fullmatch(r"/v1/checkout/sessions/(\w+)(/expire)?", address.path):
            return self._session(match[1], address, is_expired=bool(match[2]))
        return 404, _error("Unrecognized request URL", "invalid_request_error")

    def _session(self, name: str, address: Any, *, is_expired: bool) -> tuple[int, Any]:
        session = self.sessions.get(name)
        if session is None:
            return 404, _error(f"No such checkout.session: {name}", "invalid_request_error", "resource_missing")
        if is_expired:
            if session["status"] != "open":
                return 400, _error("Only open sessions can be expired.", "invalid_request_error")
            self.expire(name)
        is_expanded = "payment_intent" in dict(parse_qsl(address.query)).values()
        intent = session["payment_intent"]
        return 200, {**session, "payment_intent": intent if is_expanded or intent is None else intent["id"]}

    def _list(self, path: str, intent: str) -> dict[str, Any]:
        """What belongs to a payment intent."""
        resources = {"/v1/refunds": list(self.refunds.values()), "/v1/disputes": self.disputes}
        sessions = [session for session in self.sessions.values() if session["payment_intent"]]
        data = [one for one in resources.get(path, []) if one["payment_intent"] == intent]
        if path == "/v1/checkout/sessions":
            data = [{**one, "payment_intent": intent} for one in sessions if one["payment_intent"]["id"] == intent]
        return {"object": "list", "url": path, "has_more": False, "data": data}

    def refund_by_hand(self, name: str, amount: int, number: int = 1) -> bytes:
        """Refund a paid session as the merchant does on Stripe's pages; returns the body of the event."""
        refund = {"id": f"re_hand_{number}", "object": "refund", "amount": amount, "payment_intent": f"pi_{name}"}
        self.refunds[refund["id"]] = {**refund, "status": "succeeded", "metadata": {}}
        return _reversal_event("charge.refunded", name, f"evt_refund_{number}")

    def dispute(self, name: str, amount: int, status: str = "needs_response") -> bytes:
        """Open a dispute of a paid session, or change its status; returns the body of the event."""
        self.disputes = [
            {"id": "dp_1", "object": "dispute", "amount": amount, "payment_intent": f"pi_{name}", "status": status}
        ]
        return _reversal_event("charge.dispute.updated", name, f"evt_dispute_{status}")

    def _create(self, form: dict[str, str]) -> dict[str, Any]:
        name = f"cs_test_{len(self.sessions) + 1:08d}"
        line = "line_items[0][price_data]"
        self.sessions[name] = {
            "id": name,
            "object": "checkout.session",
            "amount_total": int(form[f"{line}[unit_amount]"]) * int(form["line_items[0][quantity]"]),
            "currency": form[f"{line}[currency]"],
            "client_reference_id": form["client_reference_id"],
            "mode": form["mode"],
            "status": "open",
            "payment_status": "unpaid",
            "payment_intent": None,
            "url": f"https://checkout.stripe.example/c/pay/{name}",
        }
        return self.sessions[name]

    def _create_setup(self, form: dict[str, str]) -> dict[str, Any]:
        name = f"cs_test_{len(self.sessions) + 1:08d}"
        self.sessions[name] = {
            "id": name,
            "object": "checkout.session",
            "mode": "setup",
            "status": "open",
            "customer": None,
            "customer_email": form["customer_email"],
            "payment_intent": None,
            "setup_intent": None,
            "url": f"https://checkout.stripe.example/c/setup/{name}",
        }
        return self.sessions[name]

    def save_card(self, name: str) -> None:
        """Save a card on the page of a setup session, as the payer does."""
        card = {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2030}
        method = {"id": f"pm_{name}", "object": "payment_method", "card": card}
        intent = {"id": f"seti_{name}", "object": "setup_intent", "status": "succeeded", "payment_method": method}
        self.sessions[name].update(status="complete", customer=f"cus_{name}", setup_intent=intent)

    def _saved_card(self, method: str, address: Any, form: dict[str, str]) -> tuple[int, Any]:
        if match := re.fullmatch(r"/v1/payment_methods/(\w+)/detach", address.path):
            self.detached.add(match[1])
            return 200, {"id": match[1], "object": "payment_method"}
        return self._intent(method, address, form)

    def _intent(self, method: str, address: Any, form: dict[str, str]) -> tuple[int, Any]:
        name = address.path.removeprefix("/v1/payment_intents").strip("/")
        if name:
            known = name in self.intents
            return (200, self.intents[name]) if known else (404, _error("No such intent", "x", "resource_missing"))
        if method == "GET":
            customer = dict(parse_qsl(address.query))["customer"]
            data = [one for one in self.intents.values() if one["customer"] == customer]
            return 200, {"object": "list", "url": address.path, "has_more": False, "data": data}
        if form["payment_method"] in self.detached:
            return 400, _error("The payment method is detached.", "invalid_request_error", "payment_method_detached")
        return self._charge(form)

    def _charge(self, form: dict[str, str]) -> tuple[int, Any]:
        name, code = f"pi_{len(self.intents) + 1}", self.declines_with
        self.intents[name] = {
            "id": name,
            "object": "payment_intent",
            "status": "requires_payment_method" if code else "succeeded",
            "amount_received": 0 if code else int(form["amount"]),
            "currency": form["currency"],
            "customer": form["customer"],
            "payment_method": form["payment_method"],
            "metadata": {"payment_id": form["metadata[payment_id]"]},
            "last_payment_error": {"code": code} if code else None,
        }
        if code:
            return 402, _error("Your card was declined.", "card_error", code)
        return 200, self.intents[name]

    def _refund(self, form: dict[str, str]) -> dict[str, Any]:
        name = f"re_{len(self.refunds) + 1}"
        metadata = {"refund": form.pop("metadata[refund]", "")}
        status = self.refund_status
        self.refunds[name] = {"id": name, "object": "refund", "status": status, "metadata": metadata, **form}
        return self.refunds[name]

    def forget_keys(self) -> None:
        """Forget every idempotency key, as Stripe does after a day."""
        self._responses.clear()

    def pay(self, name: str, *, amount: int | None = None, currency: str | None = None) -> None:
        """Pay a session as the payer does."""
        session = self.sessions[name]
        received = session["amount_total"] if amount is None else amount
        intent = {"id": f"pi_{name}", "object": "payment_intent", "status": "succeeded", "amount_received": received}
        session.update(status="complete", payment_status="paid", payment_intent=intent)
        session["currency"] = currency or session["currency"]

    def decline(self, name: str) -> None:
        """Fail a delayed payment method after the payer left."""
        error = {"code": "card_declined", "message": "Your card was declined."}
        intent = {"id": f"pi_{name}", "object": "payment_intent", "status": "requires_payment_method"}
        self.sessions[name].update(status="complete", payment_intent={**intent, "last_payment_error": error})

    def expire(self, name: str) -> None:
        """Expire a session."""
        self.sessions[name]["status"] = "expired"


def event(kind: str, session: str, event_id: str = "evt_1") -> bytes:
    """Return the body of an event about a session."""
    data = {"object": {"id": session, "object": "checkout.session"}}
    return orjson.dumps({"id": event_id, "object": "event", "type": kind, "data": data})


def _reversal_event(kind: str, session: str, event_id: str) -> bytes:
    data = {"object": {"id": "ch_1", "object": "charge", "payment_intent": f"pi_{session}"}}
    return orjson.dumps({"id": event_id, "object": "event", "type": kind, "data": data})


def sign(body: bytes, *, secret: str = WEBHOOK_SECRET, at: float | None = None) -> str:
    """Return the signature header of a body."""
    stamp = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def _error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, **({"code": code} if code else {})}}
