"""The interface of payment providers, its data and its errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson

SIGNATURE_HEADERS = {"stripe": "Stripe-Signature", "paystack": "X-Paystack-Signature", "mock": "X-Mock-Signature"}
_MAX_IDENTIFIER_LENGTH = 255


class ProviderUnreachable(Exception):
    """The provider gave no answer, or none that decides the outcome. The call can be repeated later."""


class ProviderRejected(Exception):
    """The provider refused the call.

    code: short, for users and logs
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class SignatureMismatch(Exception):
    """The signature is not the provider's, or its timestamp is outside the tolerance."""


class MalformedEvent(Exception):
    """A signed body is not an event."""


@dataclass(frozen=True)
class CheckoutRequest:
    """A payment to collect.

    payment_id: also the idempotency key
    """

    payment_id: UUID
    currency: str
    amount_minor: int
    description: str
    email: str
    return_url: str


@dataclass(frozen=True)
class CheckoutSession:
    """The provider's payment page, and its reference there."""

    reference: str
    url: str


@dataclass(frozen=True)
class CheckoutStatus:
    """The status of a checkout at its provider.

    kind: "open", "succeeded", "failed", "canceled", "abandoned" (can still be paid) or "unknown"
    amount_minor: captured, when it succeeded
    """

    kind: str
    reference: str
    currency: str = ""
    amount_minor: int = 0
    failure_code: str | None = None


@dataclass(frozen=True)
class SetupRequest:
    """A payment method to save on a page of the provider.

    method_id: also the idempotency key
    currency: of the payments to come
    """

    method_id: UUID
    currency: str
    description: str
    email: str
    return_url: str


@dataclass(frozen=True)
class SavedMethod:
    """A payment method that the provider keeps; it can be charged with these references only.

    brand, last_four, expiry_month, expiry_year: None where the provider names none
    """

    reference: str
    customer_reference: str | None = None
    brand: str | None = None
    last_four: str | None = None
    expiry_month: int | None = None
    expiry_year: int | None = None


@dataclass(frozen=True)
class SetupStatus:
    """The status of a setup at its provider.

    kind: "open", "succeeded", "canceled" or "unknown"
    method: when it succeeded
    """

    kind: str
    method: SavedMethod | None = None


@dataclass(frozen=True)
class ChargeRequest:
    """A payment to collect with a saved method.

    payment_id: also the idempotency key
    """

    payment_id: UUID
    currency: str
    amount_minor: int
    description: str
    method: SavedMethod


@dataclass(frozen=True)
class VerifiedEvent:
    """An event whose signature was verified.

    event_id: the same when the provider sends the event again
    reference: of its checkout or setup, or what `get_reversals` takes; None when the event is about neither
    """

    event_id: str
    kind: str
    reference: str | None


@dataclass(frozen=True)
class RefundRequest:
    """A refund to make.

    reference: of the checkout that was paid
    key: idempotency key
    """

    reference: str
    currency: str
    amount_minor: int
    key: str


@dataclass(frozen=True)
class RefundResult:
    """The status of a refund at its provider.

    kind: "pending", "succeeded" or "failed"
    """

    kind: str
    reference: str | None = None


@dataclass(frozen=True)
class Reversals:
    """Money of a payment that went back, without the refunds that were requested from here.

    reference: of the checkout; empty when the provider knows none
    refunds: minor units of succeeded refunds, by the provider's reference of each
    disputed_minor: withdrawn by disputes that are open or lost
    """

    reference: str
    refunds: Mapping[str, int]
    disputed_minor: int


class PaymentProvider(Protocol):
    """Collects payments on a page of its own, and with payment methods that were saved there."""

    def reference(self, payment_id: UUID) -> str | None:
        """Return the reference that a checkout will have; None when the provider assigns it."""

    def create_checkout(self, request: CheckoutRequest) -> CheckoutSession:
        """Create a payment page.

        raises: ProviderUnreachable, ProviderRejected
        """

    def get_status(self, reference: str) -> CheckoutStatus:
        """Return the status of a checkout.

        raises: ProviderUnreachable
        """

    def expire_checkout(self, reference: str) -> None:
        """Close the page of a checkout, as far as the provider can; `get_status` says whether it was paid before.

        raises: ProviderUnreachable
        """

    def create_setup(self, request: SetupRequest) -> CheckoutSession:
        """Create a page on which a payment method is saved.

        raises: ProviderUnreachable, ProviderRejected
        """

    def get_setup(self, reference: str) -> SetupStatus:
        """Return the status of a setup.

        raises: ProviderUnreachable
        """

    def forget_method(self, method: SavedMethod) -> None:
        """Let the provider charge a saved method no more; one that it does not know is no error.

        raises: ProviderUnreachable
        """

    def charge(self, request: ChargeRequest) -> str:
        """Charge a saved method once, however often this is called for a payment.

        returns: the reference under which `get_status` knows the payment, also of one that was declined
        raises: ProviderUnreachable, ProviderRejected when nothing was charged
        """

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify the signature of an event, then parse it.

        signature: value of the header, ASCII
        raises: SignatureMismatch, MalformedEvent
        """

    def get_reversals(self, reference: str) -> Reversals:
        """Return what went back of a payment.

        reference: of an event about a refund or a dispute
        raises: ProviderUnreachable
        """

    def refund(self, request: RefundRequest) -> RefundResult:
        """Refund a payment.

        raises: ProviderUnreachable, ProviderRejected
        """


def parse_event_body(body: bytes) -> dict[str, Any]:
    """Parse the JSON object of an event.

    raises: MalformedEvent
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise MalformedEvent("not JSON") from cause
    if not isinstance(value, dict):
        raise MalformedEvent("not an object")
    return value


def event_identifier(value: Any) -> str:
    """Check an id or a type of an event, which becomes part of a key of the inbox.

    raises: MalformedEvent
    """
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise MalformedEvent("no name")
    if len(value) > _MAX_IDENTIFIER_LENGTH:
        raise MalformedEvent("a name too long")
    return value
