"""Which provider the settings name: message_provider, email_provider, enabled_payment_providers."""

from collections.abc import Callable

from saas_api.core.settings import setting
from saas_api.providers.mail import EmailProvider
from saas_api.providers.messages import MessageProvider
from saas_api.providers.payments import PaymentProvider


def message_provider(channel: str, mode: str) -> MessageProvider:
    """Who carries a channel; test mode never leaves the house.

    raises: LookupError for a channel nobody carries
    """
    from saas_api.providers.mock_messages import (
        CHANNELS,  # noqa: PLC0415 - a provider's libraries load on first use
        MockMessageProvider,  # noqa: PLC0415 - a provider's libraries load on first use
    )

    if channel not in CHANNELS:
        raise LookupError(f"nobody carries {channel} in {mode} mode")
    return MockMessageProvider()


def email_provider() -> EmailProvider:
    """SMTP when the settings name a server, else the mailbox."""
    if setting("SMTP_HOST"):
        from saas_api.providers.smtp import SmtpEmailProvider  # noqa: PLC0415 - a provider's libraries load on first use

        return SmtpEmailProvider()
    from saas_api.providers.mailbox import FileMailbox  # noqa: PLC0415 - the same

    return FileMailbox()


def enabled_payment_providers() -> list[str]:
    """Names of the providers that take payments here, the preferred one first."""
    is_mock_on = setting("APP_ENV") != "production" or setting("PAYMENTS_ALLOW_MOCK")
    asked = {
        "stripe": setting("STRIPE_SECRET_KEY"),
        "paystack": setting("PAYSTACK_SECRET_KEY"),
        "mock": is_mock_on,
    }
    return [name for name, is_on in asked.items() if is_on]


def payment_provider(name: str) -> PaymentProvider:
    """A provider that is offered.

    raises: LookupError
    """
    if name not in enabled_payment_providers():
        raise LookupError(f"{name} takes no payments here")
    return _PAYMENT_PROVIDERS[name]()


def _stripe() -> PaymentProvider:
    from saas_api.providers.stripe import Stripe  # noqa: PLC0415 - a provider's libraries load on first use

    return Stripe()


def _paystack() -> PaymentProvider:
    from saas_api.providers.paystack import Paystack  # noqa: PLC0415 - the same

    return Paystack()


def _mock() -> PaymentProvider:
    from saas_api.providers.mock_payments import MockPaymentProvider  # noqa: PLC0415 - the same

    return MockPaymentProvider()


_PAYMENT_PROVIDERS: dict[str, Callable[[], PaymentProvider]] = {"stripe": _stripe, "paystack": _paystack, "mock": _mock}
