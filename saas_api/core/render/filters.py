"""What people read of instants, money and numbers: with unit, currency and zone."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import g
from markupsafe import Markup

from saas_api.core import clock
from saas_api.core.access import allows
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text

NOTHING = "\u2013"
_RECENT = timedelta(hours=24)


def when(instant: datetime | None, zone: str = "UTC") -> str:
    """An instant by the minute in a zone; its title says it in UTC too."""
    if instant is None:
        return NOTHING
    local = instant.astimezone(clock.zone(zone))
    return _time(instant, zone, f"{local.day} {local:%b %Y, %H:%M}", attributes="")


def ago(instant: datetime | None, zone: str = "UTC") -> str:
    """An instant as the time since then or until then, within a day; else as `when`."""
    if instant is None:
        return "never"
    passed = clock.now() - instant
    if abs(passed) > _RECENT:
        return when(instant, zone)
    return _time(instant, zone, _span(passed), attributes=" data-ago")


def day(value: date | datetime | None, zone: str = "UTC") -> str:
    """A day of the calendar."""
    if value is None:
        return NOTHING
    if isinstance(value, datetime):
        value = value.astimezone(clock.zone(zone)).date()
    return f"{value.day} {value:%b %Y}"


def money(amount_minor: int | None, currency: str) -> str:
    """An amount in minor units, with its currency."""
    if amount_minor is None:
        return NOTHING
    text = minor_to_text(abs(amount_minor), currency)
    whole, point, cents = text.partition(".")
    sign = "\u2212" if amount_minor < 0 else ""
    return f"{sign}{int(whole):,}{point}{cents} {currency}"


def number(value: float | Decimal | None) -> str:
    """A number with its thousands apart."""
    return NOTHING if value is None else f"{value:,}"


def percent(share: float | Decimal | None) -> str:
    """A share of one, in per cent with one digit."""
    return NOTHING if share is None else f"{share * 100:.1f} %"


def wire(value: UUID, prefix: str) -> str:
    """An id as the API shows it."""
    return wire_id(prefix, value)


def plural(count: int, word: str, more: str | None = None) -> str:
    """A count with its word."""
    return f"{count:,} {word if count == 1 else more or word + 's'}"


def may(permission: str) -> bool:
    """Whether who is signed in may do something here."""
    principal = g.get("principal")
    return principal is not None and not principal.is_looking and allows(principal, permission)


def _time(instant: datetime, zone: str, text: str, attributes: str) -> Markup:
    utc = clock.rfc3339(instant)
    local = instant.astimezone(clock.zone(zone))
    title = f"{instant.astimezone(clock.zone('UTC')):%Y-%m-%d %H:%M:%S} UTC"
    if zone != "UTC":
        title += f", {local:%Y-%m-%d %H:%M:%S} {zone}"
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(utc, title, Markup(attributes), text)  # noqa: S704 - attributes are constants here


def _span(passed: timedelta) -> str:
    seconds = int(abs(passed).total_seconds())
    if seconds < 60:
        text = "less than a minute"
    elif seconds < 3600:
        text = f"{seconds // 60} min"
    else:
        text = f"{seconds // 3600} h"
    return f"in {text}" if passed < timedelta() else f"{text} ago"


FILTERS: dict[str, Callable[..., Any]] = {
    "when": when,
    "ago": ago,
    "day": day,
    "money": money,
    "number": number,
    "percent": percent,
    "wire": wire,
}
