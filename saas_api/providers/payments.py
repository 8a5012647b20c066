"""PaymentProvider protocol, CheckoutRequest, CheckoutStatus, ProviderEvent, RefundRequest and their errors."""

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson

SIGNATURE_HEADERS = {"stripe": "Stripe-Signature", "paystack": "X-Paystack-Signature", "mock": "X-Mock-Signature"}
_MAX_IDENTIFIER_LENGTH = 255


class ProviderUnreachable(Exception):
    """The provider gave no answer, or none that decides anything; asking again later is safe."""


class ProviderRejected(Exception):
    """The provider answered, and will not do it.

    code: for people and logs, short
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class SignatureMismatch(Exception):
    """A signature that is not the provider's, or too old to be believed."""


class MalformedEvent(Exception):
    """A signed event that is none."""


@dataclass(frozen=True)
class CheckoutRequest:
    """What a customer is to pay.

    payment_id: also the key under which asking twice is asking once
    """

    payment_id: UUID
    currency: str
    amount_minor: int
    description: str
    email: str
    return_url: str


@dataclass(frozen=True)
class CheckoutSession:
    """Where the customer pays, and the provider's name for it."""

    reference: str
    url: str


@dataclass(frozen=True)
class CheckoutStatus:
    """What became of a checkout, as its provider says.

    kind: "open", "succeeded", "failed", "canceled", "abandoned" (left, and may still be paid) or "unknown"
    amount_minor: captured, of a success
    """

    kind: str
    reference: str
    currency: str = ""
    amount_minor: int = 0
    failure_code: str | None = None


@dataclass(frozen=True)
class VerifiedEvent:
    """A verified event.

    event_id: the same for every repetition
    reference: of the checkout it is about; None for an event about something else
    """

    event_id: str
    kind: str
    reference: str | None


@dataclass(frozen=True)
class RefundRequest:
    """Money that is to go back.

    reference: of the checkout that brought it
    key: under which asking twice is asking once
    """

    reference: str
    currency: str
    amount_minor: int
    key: str


@dataclass(frozen=True)
class RefundResult:
    """What became of money that goes back.

    kind: "pending", "succeeded" or "failed"
    """

    kind: str
    reference: str | None = None


class PaymentProvider(Protocol):
    """Takes payments on a page of its own."""

    def reference(self, payment_id: UUID) -> str | None:
        """The name a checkout will have; None if only the provider knows."""

    def create_checkout(self, order: CheckoutRequest) -> CheckoutSession:
        """Make a page to pay on.

        raises: ProviderAway, ProviderRefused
        """

    def get_status(self, reference: str) -> CheckoutStatus:
        """Ask what became of a checkout.

        raises: ProviderAway
        """

    def verify_event(self, body: bytes, signature: str) -> VerifiedEvent:
        """Verify an event over its bytes, then read it.

        signature: the header, ASCII
        raises: Forged, Unreadable
        """

    def refund(self, wanted: RefundRequest) -> RefundResult:
        """Send money back.

        raises: ProviderAway, ProviderRefused
        """


def parse_event_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a signed event.

    raises: Unreadable
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise MalformedEvent("not JSON") from cause
    if not isinstance(value, dict):
        raise MalformedEvent("not an object")
    return value


def event_identifier(value: Any) -> str:
    """An id or a type in an event, which goes into a key of the inbox.

    raises: Unreadable
    """
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise MalformedEvent("no name")
    if len(value) > _MAX_IDENTIFIER_LENGTH:
        raise MalformedEvent("a name too long")
    return value
