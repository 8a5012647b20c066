"""Rules for answers of payment providers: when to ask again, what mismatches, which amounts they take; pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

EXPIRE_AFTER = timedelta(days=7)
ABANDON_AFTER = timedelta(hours=1)
_CHECK_DELAYS = (timedelta(minutes=5), timedelta(hours=1), timedelta(hours=6))
_LAST_CHECK_DELAY = timedelta(days=1)
_RETRY_DELAYS = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(hours=24),
)
_PAYMENT_EVENT_TYPES = {
    "stripe": frozenset(
        {
            "checkout.session.completed",
            "checkout.session.expired",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
        }
    ),
    "paystack": frozenset({"charge.success", "charge.failed"}),
    "mock": frozenset({"checkout.completed", "checkout.failed", "checkout.canceled"}),
}
_REVERSAL_EVENT_TYPES = {
    "stripe": frozenset(
        {
            "charge.refunded",
            "refund.created",
            "refund.updated",
            "charge.dispute.created",
            "charge.dispute.updated",
            "charge.dispute.closed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.funds_reinstated",
        }
    ),
    "paystack": frozenset({"refund.processed", "charge.dispute.create", "charge.dispute.resolve"}),
    "mock": frozenset({"checkout.refunded", "checkout.disputed"}),
}
MIN_AMOUNT_MINOR = {("stripe", "USD"): 50, ("stripe", "EUR"): 50, ("stripe", "GBP"): 30, ("stripe", "JPY"): 50}
PROVIDER_CURRENCIES = {"paystack": frozenset({"NGN", "GHS", "ZAR", "KES", "USD"})}


@dataclass(frozen=True)
class PaymentTerms:
    """Reference, currency and amount of a payment, as we requested it or as the provider reports it.

    reference: the provider's id
    """

    reference: str | None
    currency: str
    amount_minor: int


def next_check_at(checks: int, now: datetime) -> datetime:
    """Time of the next check of a pending payment.

    checks: number of checks so far
    """
    return now + (_CHECK_DELAYS[checks] if checks < len(_CHECK_DELAYS) else _LAST_CHECK_DELAY)


def event_retry_delay(attempt: int) -> timedelta | None:
    """Delay before the next attempt to process an event; None after the last attempt.

    attempt: the one that failed, from 1
    """
    return _RETRY_DELAYS[attempt - 1] if attempt <= len(_RETRY_DELAYS) else None


def is_payment_event(provider: str, event_type: str) -> bool:
    """Whether an event of this type reports the outcome of a payment."""
    return event_type in _PAYMENT_EVENT_TYPES[provider]


def is_reversal_event(provider: str, event_type: str) -> bool:
    """Whether an event of this type reports a refund or a dispute."""
    return event_type in _REVERSAL_EVENT_TYPES[provider]


def resolve_status(kind: str, age: timedelta) -> str:
    """Result of a payment from the status of its checkout and its age.

    An abandoned checkout can still be paid for an hour; an open one is canceled after seven days.
    kind: of `CheckoutStatus`
    age: of the payment
    returns: "open", "succeeded", "failed" or "canceled"
    """
    if kind == "abandoned":
        kind = "canceled" if age >= ABANDON_AFTER else "open"
    return "canceled" if kind == "open" and age >= EXPIRE_AFTER else kind


def find_mismatch(kind: str, reported: PaymentTerms, requested: PaymentTerms) -> str | None:
    """Code of the first mismatch between the provider's answer and our request; None when they match.

    kind: of `CheckoutStatus`
    """
    if kind == "unknown":
        return "unknown_reference"
    if reported.reference != requested.reference:
        return "other_reference"
    if kind != "succeeded":
        return None
    if reported.currency != requested.currency:
        return "other_currency"
    if reported.amount_minor > requested.amount_minor:
        return "more_than_asked"
    return None if reported.amount_minor > 0 else "no_amount"


def supports_currency(provider: str, currency: str) -> bool:
    """Whether a provider supports a currency."""
    return provider not in PROVIDER_CURRENCIES or currency in PROVIDER_CURRENCIES[provider]


def is_below_minimum(provider: str, currency: str, amount_minor: int) -> bool:
    """Whether an amount is below the minimum of a provider."""
    return amount_minor < MIN_AMOUNT_MINOR.get((provider, currency), 1)
