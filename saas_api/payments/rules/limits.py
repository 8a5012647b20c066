"""What each provider takes."""

SMALLEST_MINOR = {("stripe", "USD"): 50, ("stripe", "EUR"): 50, ("stripe", "GBP"): 30, ("stripe", "JPY"): 50}
CURRENCIES = {"paystack": frozenset({"NGN", "GHS", "ZAR", "KES", "USD"})}


def takes_currency(provider: str, currency: str) -> bool:
    """Whether a provider takes a currency at all."""
    return provider not in CURRENCIES or currency in CURRENCIES[provider]


def is_too_small(provider: str, currency: str, amount_minor: int) -> bool:
    """Whether a provider would refuse an amount as not worth its trouble."""
    return amount_minor < SMALLEST_MINOR.get((provider, currency), 1)
