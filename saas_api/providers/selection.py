"""Selection of providers by the settings."""

from collections.abc import Callable

from saas_api.core.access import KeyMode
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.providers.mail import EmailProvider
from saas_api.providers.messages import MessageProvider
from saas_api.providers.payments import PaymentProvider

log = get_logger(__name__)


def has_message_provider(mode: str) -> bool:
    """Whether messages of a mode have a provider.

    In production the mock is none for live messages, unless MESSAGES_ALLOW_MOCK is set.
    """
    return mode == KeyMode.TEST or setting("APP_ENV") != "production" or bool(setting("MESSAGES_ALLOW_MOCK"))


def message_provider(channel: str, mode: str) -> MessageProvider:
    """Return the provider of a channel; messages of test mode are never sent.

    raises: LookupError for a channel without a provider, and as `has_message_provider` says
    """
    from saas_api.providers import mock_messages  # noqa: PLC0415 - a provider's libraries load on first use

    if channel not in mock_messages.CHANNELS or not has_message_provider(mode):
        raise LookupError(f"no provider for {channel} in {mode} mode")
    return mock_messages.MockMessageProvider()


def email_provider() -> EmailProvider:
    """Return SMTP when a server is set, otherwise the file mailbox, which is logged in production."""
    if setting("SMTP_HOST"):
        from saas_api.providers.smtp import SmtpEmailProvider  # noqa: PLC0415 - a provider's libraries load on first use

        return SmtpEmailProvider()
    if setting("APP_ENV") == "production":
        log.warning("mail_is_not_sent", hint="set SMTP_HOST")
    from saas_api.providers.mailbox import FileMailbox  # noqa: PLC0415 - the same

    return FileMailbox()


def enabled_payment_providers() -> list[str]:
    """Return the names of the enabled payment providers, the preferred one first."""
    is_mock_on = setting("APP_ENV") != "production" or setting("PAYMENTS_ALLOW_MOCK")
    is_enabled = {
        "stripe": setting("STRIPE_SECRET_KEY"),
        "paystack": setting("PAYSTACK_SECRET_KEY"),
        "mock": is_mock_on,
    }
    return [name for name, value in is_enabled.items() if value]


def payment_provider(name: str) -> PaymentProvider:
    """Return an enabled payment provider.

    raises: LookupError when it is not enabled
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
