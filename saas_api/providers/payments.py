"""Who takes payments: what a provider is asked, what it answers, and which of them the settings name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson

from saas_api.core.settings import setting

SIGNATURE_HEADERS = {"stripe": "Stripe-Signature", "paystack": "X-Paystack-Signature", "mock": "X-Mock-Signature"}
_LONGEST_NAME = 255


class ProviderAway(Exception):
    """The provider gave no answer, or none that decides anything; asking again later is safe."""


class ProviderRefused(Exception):
    """The provider answered, and will not do it.

    code: for people and logs, short
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class Forged(Exception):
    """A signature that is not the provider's, or too old to be believed."""


class Unreadable(Exception):
    """A signed event that is none."""


@dataclass(frozen=True)
class Order:
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
class Checkout:
    """Where the customer pays, and the provider's name for it."""

    reference: str
    url: str


@dataclass(frozen=True)
class Truth:
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
class Notice:
    """A verified event.

    event_id: the same for every repetition
    reference: of the checkout it is about; None for an event about something else
    """

    event_id: str
    kind: str
    reference: str | None


@dataclass(frozen=True)
class Return:
    """Money that is to go back.

    reference: of the checkout that brought it
    key: under which asking twice is asking once
    """

    reference: str
    currency: str
    amount_minor: int
    key: str


@dataclass(frozen=True)
class Refunded:
    """What became of money that goes back.

    kind: "pending", "succeeded" or "failed"
    """

    kind: str
    reference: str | None = None


class PaymentProvider(Protocol):
    """Takes payments on a page of its own."""

    def reference(self, payment_id: UUID) -> str | None:
        """The name a checkout will have; None if only the provider knows."""

    def open(self, order: Order) -> Checkout:
        """Make a page to pay on.

        raises: ProviderAway, ProviderRefused
        """

    def ask(self, reference: str) -> Truth:
        """Ask what became of a checkout.

        raises: ProviderAway
        """

    def read(self, body: bytes, signature: str) -> Notice:
        """Verify an event over its bytes, then read it.

        signature: the header, ASCII
        raises: Forged, Unreadable
        """

    def refund(self, wanted: Return) -> Refunded:
        """Send money back.

        raises: ProviderAway, ProviderRefused
        """


def offered() -> list[str]:
    """Names of the providers that take payments here, the preferred one first."""
    is_mock_on = setting("APP_ENV") != "production" or setting("PAYMENTS_ALLOW_MOCK")
    asked = {
        "stripe": setting("STRIPE_SECRET_KEY"),
        "paystack": setting("PAYSTACK_SECRET_KEY"),
        "mock": is_mock_on,
    }
    return [name for name, is_on in asked.items() if is_on]


def named(name: str) -> PaymentProvider:
    """A provider that is offered.

    raises: LookupError
    """
    if name not in offered():
        raise LookupError(f"{name} takes no payments here")
    return _MAKERS[name]()


def document(body: bytes) -> dict[str, Any]:
    """The JSON object of a signed event.

    raises: Unreadable
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise Unreadable("not JSON") from cause
    if not isinstance(value, dict):
        raise Unreadable("not an object")
    return value


def name_of(value: Any) -> str:
    """An id or a type in an event, which goes into a key of the inbox.

    raises: Unreadable
    """
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
        raise Unreadable("no name")
    if len(value) > _LONGEST_NAME:
        raise Unreadable("a name too long")
    return value


def _stripe() -> PaymentProvider:
    from saas_api.providers import stripe  # noqa: PLC0415 - a provider's libraries load on first use

    return stripe.Stripe()


def _paystack() -> PaymentProvider:
    from saas_api.providers import paystack  # noqa: PLC0415 - the same

    return paystack.Paystack()


def _mock() -> PaymentProvider:
    from saas_api.providers import mock_checkout  # noqa: PLC0415 - the same

    return mock_checkout.MockCheckout()


_MAKERS: dict[str, Callable[[], PaymentProvider]] = {"stripe": _stripe, "paystack": _paystack, "mock": _mock}
