"""A mock payment provider, whose checkout page lets a person choose the outcome."""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from saas_api.core import clock, crypto, ids
from saas_api.core.db import tenancy
from saas_api.core.settings import setting
from saas_api.providers import payments
from saas_api.providers.payments import (
    ChargeRequest,
    CheckoutRequest,
    CheckoutSession,
    CheckoutStatus,
    MalformedEvent,
    ProviderRejected,
    RefundRequest,
    RefundResult,
    Reversals,
    SavedMethod,
    SetupRequest,
    SetupStatus,
    SignatureMismatch,
    VerifiedEvent,
)

DELAYED_SETTLEMENT_SECONDS = 30
MISMATCH_MINOR = 100
_REFERENCE = re.compile(r"[0-9a-f]{48}")
CHECKOUT_ACTIONS = ("pay", "decline", "pay_late", "pay_wrong", "cancel")
SETUP_ACTIONS = ("save", "save_declining", "cancel")
_EXPIRY_YEAR = 2099

_OPEN = sa.text("""
INSERT INTO mock_checkouts (reference, payment_id, currency, amount_minor, return_url, description)
VALUES (:reference, :payment_id, :currency, :amount, :return_url, :description) ON CONFLICT DO NOTHING
""")
_CHARGE = sa.text("""
INSERT INTO mock_checkouts (reference, payment_id, currency, amount_minor, return_url, description, state,
  captured_minor, failure_code)
VALUES (:reference, :payment_id, :currency, :amount, '', :description,
  CASE WHEN :is_declining THEN 'failed' ELSE 'paid' END,
  CASE WHEN :is_declining THEN 0 ELSE :amount END, CASE WHEN :is_declining THEN 'card_declined' END)
ON CONFLICT DO NOTHING
""")
_OPEN_SETUP = sa.text("""
INSERT INTO mock_setups (reference, return_url, description) VALUES (:reference, :return_url, :description)
ON CONFLICT DO NOTHING
""")
_FIND_SETUP = sa.text("SELECT * FROM mock_setups WHERE reference = :reference")
_ACT_ON_SETUP = sa.text("""
UPDATE mock_setups SET state = :state, is_declining = :is_declining WHERE reference = :reference AND state = 'open'
RETURNING reference
""")
_FIND = sa.text("SELECT * FROM mock_checkouts WHERE reference = :reference")
_ACT = sa.text("""
UPDATE mock_checkouts SET state = :state, captured_minor = :captured, failure_code = :failure, settles_at = :settles_at
 WHERE reference = :reference AND state = 'open' AND settles_at IS NULL RETURNING return_url
""")
_SETTLE_LATE = sa.text("""
UPDATE mock_checkouts SET state = 'paid', captured_minor = amount_minor
 WHERE reference = :reference AND state = 'open' AND settles_at <= :now
""")
_REFUND = sa.text("""
UPDATE mock_checkouts SET refunded_minor = refunded_minor + :amount
 WHERE reference = :reference AND state = 'paid' AND refunded_minor + :amount <= captured_minor RETURNING reference
""")

_REVERSE = sa.text("""
UPDATE mock_checkouts SET returned_minor = :returned, disputed_minor = :disputed WHERE reference = :reference
""")
_FORGET = sa.text("UPDATE mock_setups SET state = 'canceled' WHERE reference = :reference")


@dataclass(frozen=True)
class MockCheckoutPage:
    """The read model of the checkout page.

    state: "open", "paid", "failed" or "canceled"
    settles_at: when a delayed payment settles
    """

    reference: str
    currency: str
    amount_minor: int
    description: str
    return_url: str
    state: str
    settles_at: datetime | None


@dataclass(frozen=True)
class MockSetupPage:
    """The read model of the page that saves a card.

    state: "open", "saved" or "canceled"
    """

    description: str
    return_url: str
    state: str


@dataclass(frozen=True)
class SignedEvent:
    """A webhook of the mock provider: body and signature header."""

    body: bytes
    signature: str


class MockPaymentProvider:
    """A payment provider that moves no money."""

    def reference(self, payment_id: UUID) -> str | None:
        """Return a reference that cannot be guessed and is always the same for a payment."""
        return _reference(payment_id)

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        """Create a checkout; a payment has one, however often this is called."""
        reference = _reference(request.payment_id)
        values = {
            "reference": reference,
            "payment_id": request.payment_id,
            "currency": request.currency,
            "amount": request.amount_minor,
            "return_url": request.return_url,
            "description": request.description,
        }
        with tenancy.system_session("providers.checkout") as session:
            session.execute(_OPEN, values)
        return CheckoutSession(reference, f"{setting('APP_URL')}/payments/mock/{reference}")

    def get_status(self, reference: str) -> CheckoutStatus:
        """Return the status of a checkout."""
        row = _find(reference)
        if row is None:
            return CheckoutStatus("unknown", reference)
        kind = {"paid": "succeeded"}.get(row.state, row.state)
        return CheckoutStatus(kind, row.reference, row.currency, row.captured_minor, row.failure_code)

    def expire_checkout(self, reference: str) -> None:
        """Close an open checkout."""
        values = {"reference": reference, "state": "canceled", "captured": 0, "failure": "expired", "settles_at": None}
        with tenancy.system_session("providers.checkout") as session:
            session.execute(_ACT, values)

    def create_setup(self, request: SetupRequest) -> CheckoutSession:
        """Create a page that saves a card; a method has one, however often this is called."""
        reference = _reference(request.method_id)
        values = {"reference": reference, "return_url": request.return_url, "description": request.description}
        with tenancy.system_session("providers.checkout") as session:
            session.execute(_OPEN_SETUP, values)
        return CheckoutSession(reference, f"{setting('APP_URL')}/payments/mock/setups/{reference}")

    def get_setup(self, reference: str) -> SetupStatus:
        """Return the status of a setup."""
        row = _find_setup(reference)
        if row is None:
            return SetupStatus("unknown")
        if row.state != "saved":
            return SetupStatus(row.state)
        last_four = "0002" if row.is_declining else "4242"
        return SetupStatus("succeeded", SavedMethod(f"card_{reference}", None, "visa", last_four, 12, _EXPIRY_YEAR))

    def forget_method(self, method: SavedMethod) -> None:
        """Charge a card no more."""
        values = {"reference": method.reference.removeprefix("card_")}
        with tenancy.system_session("providers.checkout") as session:
            session.execute(_FORGET, values)

    def charge(self, request: ChargeRequest) -> str:
        """Charge a card; a payment has one charge, however often this is called."""
        reference = _reference(request.payment_id)
        if _find(reference):
            return reference
        setup = _find_setup(request.method.reference.removeprefix("card_"))
        if setup is None or setup.state != "saved":
            raise ProviderRejected("unknown_method")
        values = {
            "reference": reference,
            "payment_id": request.payment_id,
            "currency": request.currency,
            "amount": request.amount_minor,
            "description": request.description,
            "is_declining": setup.is_declining,
        }
        with tenancy.system_session("providers.checkout") as session:
            session.execute(_CHARGE, values)
        return reference

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify and read an event."""
        if not hmac.compare_digest(_sign(body), signature):
            raise SignatureMismatch
        event = payments.parse_event_body(body)
        data = event.get("data")
        if not isinstance(data, dict):
            raise MalformedEvent("no data")
        kind = payments.event_identifier(event.get("type"))
        reference = payments.event_identifier(data.get("reference")) if kind.startswith("checkout.") else None
        return VerifiedEvent(payments.event_identifier(event.get("id")), kind, reference)

    def get_reversals(self, reference: str) -> Reversals:
        """Return what `submit_reversal` set."""
        row = _find(reference)
        if row is None:
            return Reversals("", {}, 0)
        refunds = {f"mock-{reference}": row.returned_minor} if row.returned_minor else {}
        return Reversals(reference, refunds, row.disputed_minor)

    def refund(self, request: RefundRequest) -> RefundResult:
        """Refund a part of the captured amount, or all of it."""
        with tenancy.system_session("providers.checkout") as session:
            if (
                session.execute(_REFUND, {"reference": request.reference, "amount": request.amount_minor}).first()
                is None
            ):
                raise ProviderRejected("not_refundable")
        return RefundResult("succeeded", f"mock-{request.key}")


def find_checkout(reference: str) -> MockCheckoutPage | None:
    """Return a checkout, or None for an unknown reference."""
    row = _find(reference)
    if row is None:
        return None
    names = ("reference", "currency", "amount_minor", "description", "return_url", "state", "settles_at")
    return MockCheckoutPage(**{name: getattr(row, name) for name in names})


def submit_action(reference: str, action: str) -> SignedEvent | None:
    """Do what a customer chose on the page.

    action: one of CHECKOUT_ACTIONS
    returns: the event to deliver; None for a checkout that is unknown or ended
    """
    checkout = _find(reference)
    if checkout is None:
        return None
    state, captured, failure, delay = {
        "pay": ("paid", checkout.amount_minor, None, None),
        "pay_wrong": ("paid", checkout.amount_minor + MISMATCH_MINOR, None, None),
        "pay_late": ("open", 0, None, timedelta(seconds=DELAYED_SETTLEMENT_SECONDS) / setting("TIME_SCALE")),
        "decline": ("failed", 0, "card_declined", None),
        "cancel": ("canceled", 0, "canceled_by_customer", None),
    }[action]
    values = {
        "reference": reference,
        "state": state,
        "captured": captured,
        "failure": failure,
        "settles_at": clock.now() + delay if delay else None,
    }
    with tenancy.system_session("providers.checkout") as session:
        if session.execute(_ACT, values).first() is None:
            return None
    kind = {"decline": "failed", "cancel": "canceled"}.get(action, "completed")
    return new_event(f"checkout.{kind}", reference)


def find_setup(reference: str) -> MockSetupPage | None:
    """Return a page that saves a card, or None for an unknown reference."""
    row = _find_setup(reference)
    return MockSetupPage(row.description, row.return_url, row.state) if row else None


def submit_setup(reference: str, action: str) -> SignedEvent | None:
    """Do what a customer chose on the page that saves a card.

    action: one of SETUP_ACTIONS
    returns: the event to deliver; None for a setup that is unknown or ended
    """
    values = {
        "reference": reference,
        "state": "canceled" if action == "cancel" else "saved",
        "is_declining": action == "save_declining",
    }
    with tenancy.system_session("providers.checkout") as session:
        if session.execute(_ACT_ON_SETUP, values).first() is None:
            return None
    return new_event("checkout.canceled" if action == "cancel" else "checkout.completed", reference)


def submit_reversal(reference: str, *, returned_minor: int = 0, disputed_minor: int = 0) -> SignedEvent:
    """Do what happens at a provider: refund a part of a checkout there, or open, lower or end a dispute of it.

    returns: the event to deliver
    """
    values = {"reference": reference, "returned": returned_minor, "disputed": disputed_minor}
    with tenancy.system_session("providers.checkout") as session:
        session.execute(_REVERSE, values)
    return new_event("checkout.refunded" if returned_minor else "checkout.disputed", reference)


def new_event(kind: str, reference: str) -> SignedEvent:
    """Build a signed event about a checkout."""
    body = orjson.dumps({"id": f"evt_{ids.new_id().hex}", "type": kind, "data": {"reference": reference}})
    return SignedEvent(body, _sign(body))


def _reference(payment_id: UUID) -> str:
    return crypto.hmac_hex("payments.mock.reference", payment_id.hex)[:48]


def _sign(body: bytes) -> str:
    return crypto.hmac_hex("payments.mock.event", body.decode("latin-1"))


def _find_setup(reference: str) -> Any:
    if not _REFERENCE.fullmatch(reference):
        return None
    with tenancy.system_session("providers.checkout") as session:
        return session.execute(_FIND_SETUP, {"reference": reference}).first()


def _find(reference: str) -> Any:
    if not _REFERENCE.fullmatch(reference):
        return None
    with tenancy.system_session("providers.checkout") as session:
        session.execute(_SETTLE_LATE, {"reference": reference, "now": clock.now()})
        return session.execute(_FIND, {"reference": reference}).first()
