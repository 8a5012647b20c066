"""When payments are asked about again, and what about an answer cannot be believed."""

from dataclasses import dataclass
from datetime import datetime, timedelta

IN_FLIGHT = ("created", "pending", "requires_action")
GIVEN_UP_AFTER = timedelta(days=7)
ABANDONED_AFTER = timedelta(hours=1)
_CHECKS = (timedelta(minutes=5), timedelta(hours=1), timedelta(hours=6))
_DAILY = timedelta(days=1)
_RETRIES = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(hours=24),
)
_EVENTS = {
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


@dataclass(frozen=True)
class Terms:
    """What a payment is about.

    reference: the provider's name for it
    """

    reference: str | None
    currency: str
    amount_minor: int


def next_check(checks: int, now: datetime) -> datetime:
    """When to ask about a payment again.

    checks: how often it was asked about already
    """
    return now + (_CHECKS[checks] if checks < len(_CHECKS) else _DAILY)


def retry_delay(attempt: int) -> timedelta | None:
    """How long an event waits after a try that decided nothing; None when it was the last.

    attempt: from 1
    """
    return _RETRIES[attempt - 1] if attempt <= len(_RETRIES) else None


def is_about_a_payment(provider: str, kind: str) -> bool:
    """Whether an event of a type is reason to ask the provider."""
    return kind in _EVENTS[provider]


def decided(kind: str, age: timedelta) -> str:
    """What an answer means now: a page that was left is open for a while, and nothing is open for ever.

    kind: as the provider says
    age: of the payment
    returns: "open", "succeeded", "failed" or "canceled"
    """
    if kind == "abandoned":
        kind = "canceled" if age >= ABANDONED_AFTER else "open"
    return "canceled" if kind == "open" and age >= GIVEN_UP_AFTER else kind


def mismatch(kind: str, told: Terms, asked: Terms) -> str | None:
    """Why an answer is not about the payment that was asked for; None when it is.

    kind: as the provider says
    """
    if kind == "unknown":
        return "unknown_reference"
    if told.reference != asked.reference:
        return "other_reference"
    if kind != "succeeded":
        return None
    if told.currency != asked.currency:
        return "other_currency"
    if told.amount_minor > asked.amount_minor:
        return "more_than_asked"
    return None if told.amount_minor > 0 else "no_amount"
