"""When to ask a provider again, mismatch rules, minimum amounts; pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

PENDING_STATUSES = ("created", "pending", "requires_action")
EXPIRE_AFTER = timedelta(days=7)
ABANDON_AFTER = timedelta(hours=1)
_CHECKS = (timedelta(minutes=5), timedelta(hours=1), timedelta(hours=6))
_DAILY_CHECK = timedelta(days=1)
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
class ExpectedPayment:
    """What a payment is about.

    reference: the provider's name for it
    """

    reference: str | None
    currency: str
    amount_minor: int


def next_check_at(checks: int, now: datetime) -> datetime:
    """When to ask about a payment again.

    checks: how often it was asked about already
    """
    return now + (_CHECKS[checks] if checks < len(_CHECKS) else _DAILY_CHECK)


def event_retry_delay(attempt: int) -> timedelta | None:
    """How long an event waits after a try that decided nothing; None when it was the last.

    attempt: from 1
    """
    return _RETRIES[attempt - 1] if attempt <= len(_RETRIES) else None


def is_payment_event(provider: str, kind: str) -> bool:
    """Whether an event of a type is reason to ask the provider."""
    return kind in _EVENTS[provider]


def resolve_status(kind: str, age: timedelta) -> str:
    """What an answer means now: a page that was left is open for a while, and nothing is open for ever.

    kind: as the provider says
    age: of the payment
    returns: "open", "succeeded", "failed" or "canceled"
    """
    if kind == "abandoned":
        kind = "canceled" if age >= ABANDON_AFTER else "open"
    return "canceled" if kind == "open" and age >= EXPIRE_AFTER else kind


def find_mismatch(kind: str, told: ExpectedPayment, asked: ExpectedPayment) -> str | None:
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


MIN_AMOUNT_MINOR = {("stripe", "USD"): 50, ("stripe", "EUR"): 50, ("stripe", "GBP"): 30, ("stripe", "JPY"): 50}
PROVIDER_CURRENCIES = {"paystack": frozenset({"NGN", "GHS", "ZAR", "KES", "USD"})}


def supports_currency(provider: str, currency: str) -> bool:
    """Whether a provider takes a currency at all."""
    return provider not in PROVIDER_CURRENCIES or currency in PROVIDER_CURRENCIES[provider]


def is_below_minimum(provider: str, currency: str, amount_minor: int) -> bool:
    """Whether a provider would refuse an amount as not worth its trouble."""
    return amount_minor < MIN_AMOUNT_MINOR.get((provider, currency), 1)
