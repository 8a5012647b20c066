"""Numbers, money, days and times for people, as CLDR writes them: on pages, in mails and in documents.

The texts are English. The locale decides about separators, currency symbols, the order of days and the clock.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from babel import Locale, dates, numbers

from saas_api.core import money, time_zones

LOCALES = (
    *("en-US", "en-AU", "en-AT", "en-BE", "en-CA", "en-DK", "en-FI", "en-FR", "en-DE", "en-GH", "en-IN", "en-IE"),
    *("en-IL", "en-IT", "en-KE", "en-MY", "en-NL", "en-NZ", "en-NG", "en-PK", "en-PH", "en-SG", "en-ZA", "en-ES"),
    *("en-SE", "en-CH", "en-AE", "en-GB", "en-150", "en-001"),
)
"""Locales that an organization can choose: English, as each region writes numbers and times; the default first."""
DEFAULT_LOCALE = LOCALES[0]
EMPTY_VALUE = "\u2013"
_RANGE = " \u2013 "
_NO_BREAK_SPACE, _NARROW_NO_BREAK_SPACE = "\u00a0", "\u202f"
_COMPACT_FROM = 1000
_UNITS = (86_400, 3_600, 60, 1)
_BABEL_LOCALES = {locale: Locale.parse(locale, sep="-") for locale in LOCALES}
_locale: ContextVar[Locale] = ContextVar("locale", default=_BABEL_LOCALES[DEFAULT_LOCALE])


@contextmanager
def localized(locale: str) -> Iterator[None]:
    """Format by another locale until the end of the block.

    locale: one of LOCALES
    """
    token = _locale.set(_BABEL_LOCALES[locale])
    try:
        yield
    finally:
        _locale.reset(token)


def set_locale(locale: str) -> None:
    """Format by a locale from now on, in this thread; each request begins with the default one.

    locale: one of LOCALES
    """
    _locale.set(_BABEL_LOCALES[locale])


def describe_locale(locale: str) -> str:
    """The region of a locale and a sample, such as "United States: $1,234.56, Nov 30, 2026, 5:31 PM"."""
    region = _BABEL_LOCALES[locale].get_territory_name("en") or locale
    with localized(locale):
        sample = f"{format_money(123_456, 'USD')}, {format_time(datetime(2026, 11, 30, 17, 31, tzinfo=UTC), 'UTC')}"
    return f"{region[0].upper()}{region[1:]}: {sample}"


def format_money(amount_minor: int | None, currency: str) -> str:
    """An amount in minor units with the symbol of its currency, such as "$1,234.50"."""
    if amount_minor is None:
        return EMPTY_VALUE
    return _format_currency(Decimal(amount_minor).scaleb(-money.currency_exponent(currency)), currency, is_exact=False)


def format_compact_money(amount_minor: int, currency: str) -> str:
    """An amount in minor units with at most three or four digits, such as "$940" or "$1.2K"."""
    amount = Decimal(amount_minor).scaleb(-money.currency_exponent(currency))
    if abs(amount) < _COMPACT_FROM:
        amount = Decimal(money.round_half_up(amount))
    return _plain(numbers.format_compact_currency(amount, currency, locale=_locale.get(), fraction_digits=1))


def format_cost(amount: Decimal, currency: str) -> str:
    """An exact amount in major units, rounded half up to the decimals of its currency."""
    return format_money(money.round_half_up(amount.scaleb(money.currency_exponent(currency))), currency)


def format_unit_price(price: Decimal | str, currency: str) -> str:
    """The price of a unit with all its decimals, at least those of the currency, such as "$0.0025"."""
    return _format_currency(Decimal(money.format_exact_amount(Decimal(price), currency)), currency, is_exact=True)


def format_number(value: float | Decimal | str | None) -> str:
    """A number with separators between thousands, with all its decimals and without trailing zeros.

    value: a str as plan documents have it
    """
    if value is None:
        return EMPTY_VALUE
    number = Decimal(money.format_unit_price(Decimal(value))) if isinstance(value, Decimal | str) else value
    return _write_number(number or 0, _locale.get())  # 0 also for -0, which equals it


def format_percent(share: float | Decimal | None, decimals: int = 1) -> str:
    """A fraction as a percentage.

    decimals: at most so many
    """
    if share is None:
        return EMPTY_VALUE
    return numbers.format_percent(share, f"#,##0.{'#' * decimals}%", locale=_locale.get())


def format_date(value: date | datetime | None, zone: str = "UTC") -> str:
    """A day with its year, such as "Nov 30, 2026".

    value: a day, or an instant, of which the day in the zone counts
    """
    if value is None:
        return EMPTY_VALUE
    return _write_date(_day(value, zone), _locale.get())


def format_day(value: date | datetime, zone: str = "UTC") -> str:
    """A day without its year, as charts and periods name it, such as "Nov 30"."""
    return _write_day(_day(value, zone), _locale.get())


def format_month(first: date) -> str:
    """A month, such as "Nov 2026"."""
    return _plain(dates.format_skeleton("yMMM", first, locale=_locale.get()))


def format_days(first: date, last: date) -> str:
    r"""A range of days, both included, such as "Nov 1 \u2013 Nov 30, 2026"."""
    if first == last:
        return format_date(first)
    start = format_day(first) if first.year == last.year else format_date(first)
    return f"{start}{_RANGE}{format_date(last)}"


def format_period(starts_at: datetime, ends_at: datetime, zone: str) -> str:
    """A period: its days where it begins and ends at midnight, otherwise its instants.

    ends_at: not included
    """
    start, end = (at.astimezone(time_zones.get_zone(zone)) for at in (starts_at, ends_at))
    if _is_midnight(start) and _is_midnight(end):
        return format_days(start.date(), end.date() - timedelta(days=1))
    return f"{format_time(starts_at, zone)}{_RANGE}{format_time(ends_at, zone)}"


def format_time(instant: datetime, zone: str, *, has_seconds: bool = False) -> str:
    """An instant with its day, to the minute or second, such as "Nov 30, 2026, 5:31 PM"."""
    return f"{format_date(instant, zone)}, {format_clock_time(instant, zone, has_seconds=has_seconds)}"


def format_clock_time(instant: datetime, zone: str, *, has_seconds: bool = False) -> str:
    """The time of day of an instant, such as "5:31 PM"."""
    length = "medium" if has_seconds else "short"
    return _plain(dates.format_time(instant, length, tzinfo=time_zones.get_zone(zone), locale=_locale.get()))


def format_elapsed(elapsed: timedelta) -> str:
    """The time since an instant, or until it where negative, such as "5 minutes ago" or "in 2 hours"."""
    seconds = int(abs(elapsed).total_seconds())
    unit = next(unit for unit in _UNITS if seconds >= unit or unit == 1)
    rounded = timedelta(seconds=seconds - seconds % unit)
    direction = 1 if elapsed < timedelta() else -1
    return dates.format_timedelta(rounded * direction, add_direction=True, threshold=1, locale=_locale.get())


def _format_currency(amount: Decimal, currency: str, *, is_exact: bool) -> str:
    return _write_amount(amount or Decimal(0), currency, is_exact, _locale.get())


# Pages with a chart write the same numbers and days hundreds of times, which took a sixth of their time.
_remember = functools.lru_cache(maxsize=4096, typed=True)


@_remember
def _write_number(number: float | Decimal, locale: Locale) -> str:
    return numbers.format_decimal(number, locale=locale, decimal_quantization=False)


@_remember
def _write_date(day: date, locale: Locale) -> str:
    return _plain(dates.format_date(day, "medium", locale=locale))


@_remember
def _write_day(day: date, locale: Locale) -> str:
    return _plain(dates.format_skeleton("MMMd", day, locale=locale))


@_remember
def _write_amount(amount: Decimal, currency: str, is_exact: bool, locale: Locale) -> str:
    text = numbers.format_currency(amount, currency, locale=locale, decimal_quantization=not is_exact)
    symbol = numbers.get_currency_symbol(currency, locale)
    if symbol[-1].isalpha():
        text = text.replace(symbol, symbol + _NO_BREAK_SPACE, 1)  # CLDR's currencySpacing, which Babel leaves out
    return text


def _day(value: date | datetime, zone: str) -> date:
    return value.astimezone(time_zones.get_zone(zone)).date() if isinstance(value, datetime) else value


def _is_midnight(local: datetime) -> bool:
    return (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)


def _plain(text: str) -> str:
    """Without the narrow space that CLDR has before "PM" and many fonts lack."""
    return text.replace(_NARROW_NO_BREAK_SPACE, _NO_BREAK_SPACE)
