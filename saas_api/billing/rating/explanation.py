"""The stored calculation of a line as steps that a reader can recompute by hand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any

from saas_api.billing.rating.bill import LineKind
from saas_api.core import formatting, money
from saas_api.core.money import DECIMAL_PRECISION

MULTIPLICATION_SIGN, MINUS_SIGN = "\u00d7", "\u2212"
_COUNTING = {
    "max": ", the highest quantity of any event",
    "latest": ", the quantity of the last event",
    "unique": ", each value once",
}
_TEN_DECIMALS = Decimal("0.0000000001")
_HOUR, _MICROSECOND = timedelta(hours=1), timedelta(microseconds=1)
_MILLI = Decimal("0.001")


@dataclass(frozen=True)
class ExplainedPart:
    """Units at one price; `amount` and `flat` in major units, exact.

    flat: amount that a tier adds once, independent of the units
    """

    units: Decimal
    unit_price: Decimal
    flat: Decimal
    amount: Decimal


@dataclass(frozen=True)
class ExplainedCharge:
    """A quantity and its charge; amounts in major units.

    exact: sum of the parts, not rounded
    cap: upper bound of the charge of a period
    """

    quantity: Decimal
    included: Decimal
    parts: tuple[ExplainedPart, ...]
    exact: Decimal
    cap: Decimal | None
    rounded_minor: int

    @property
    def billable(self) -> Decimal:
        """Quantity that is charged: all but the included quantity."""
        return max(Decimal(0), self.quantity - self.included)


@dataclass(frozen=True)
class ExplainedProration:
    """A monthly amount for the time a plan was in force.

    exact: in major units, cut after ten decimals
    """

    full_minor: int
    used: timedelta
    whole: timedelta
    exact: Decimal

    @property
    def months(self) -> Decimal:
        """The time as a part of the month, to three decimals."""
        return (Decimal(self.used // _MICROSECOND) / (self.whole // _MICROSECOND)).quantize(_MILLI)

    @property
    def is_partial(self) -> bool:
        """Whether the plan was in force for another time than the whole month."""
        return self.used != self.whole


@dataclass(frozen=True)
class LineBreakdown:
    """How the amount of a line was calculated.

    recomputed_minor: amount that follows from the stored calculation
    steps: the arithmetic in sentences, in order
    before: of late usage, the charge of its period without it; `rated` is the charge with it
    """

    recomputed_minor: int
    steps: tuple[str, ...]
    rated: ExplainedCharge | None = None
    before: ExplainedCharge | None = None
    proration: ExplainedProration | None = None


def explain_calculation(
    kind: LineKind, calculation: Mapping[str, Any], currency: str, unit: str | None
) -> LineBreakdown:
    """Explain a stored calculation; a manual line has no steps.

    unit: of the meter, such as "segment"
    """
    match kind:
        case LineKind.BASE:
            return _base(calculation, currency)
        case LineKind.USAGE:
            rated = _rated(calculation, currency)
            steps = (*_dimension_steps(calculation), *_usage_steps(rated, currency, unit, calculation))
            if _is_unpriced(calculation):
                steps = tuple(_unpriced_steps(rated, unit, calculation))
            return LineBreakdown(rated.rounded_minor, steps, rated)
        case LineKind.LATE_USAGE:
            return _late(calculation, currency, unit)
        case LineKind.MINIMUM:
            return _minimum(calculation, currency)
        case LineKind.CARRY:
            amount = -int(calculation["sum_minor"])
            credit = formatting.format_money(amount, currency)
            steps = (
                f"The other lines come to {formatting.format_money(-amount, currency)}, which is below zero.",
                f"{credit} bring this invoice to zero and go into your wallet as credit.",
            )
            return LineBreakdown(amount, steps)
        case LineKind.MANUAL:
            return LineBreakdown(int(calculation.get("minor", 0)), ())


def _base(calculation: Mapping[str, Any], currency: str) -> LineBreakdown:
    full, used, whole = (int(calculation[name]) for name in ("base_minor", "used_us", "nominal_us"))
    with localcontext(prec=DECIMAL_PRECISION):
        minor = Decimal(full) * used / whole
        exact = minor.scaleb(-money.currency_exponent(currency)).quantize(_TEN_DECIMALS, ROUND_DOWN)
    proration = ExplainedProration(full, timedelta(microseconds=used), timedelta(microseconds=whole), exact)
    amount = money.prorate(full, used, whole)
    price, ellipsis = formatting.format_money(full, currency), _ellipsis(full * used, whole, currency)
    used_seconds, whole_seconds = format_seconds(proration.used), format_seconds(proration.whole)
    if not proration.is_partial:
        steps = [f"The plan was in force for the whole period: {price}."]
    else:
        product = f"{price} {MULTIPLICATION_SIGN} {used_seconds} / {whole_seconds}"
        steps = [
            f"The plan was in force for {format_hours(proration.used)} ({used_seconds} s).",
            f"A whole month here has {format_hours(proration.whole)} ({whole_seconds} s) and costs {price}.",
            f"{product} = {formatting.format_unit_price(exact, currency)}{ellipsis}",
            f"Rounded half up, once: {formatting.format_money(amount, currency)}.",
        ]
    return LineBreakdown(amount, tuple(steps), proration=proration)


def _ellipsis(dividend: int, divisor: int, currency: str) -> str:
    """A mark that a quotient has more decimals than are shown."""
    scale = 10 ** (10 - money.currency_exponent(currency))
    return "…" if dividend * scale % divisor else ""


def _rated(calculation: Mapping[str, Any], currency: str) -> ExplainedCharge:
    places = money.currency_exponent(currency)
    parts = tuple(_part(part, places) for part in calculation["components"])
    with localcontext(prec=DECIMAL_PRECISION):
        exact = sum((part.amount for part in parts), Decimal(0))
        cap = Decimal(calculation["max_minor"]).scaleb(-places) if "max_minor" in calculation else None
        minor = (exact if cap is None else min(exact, cap)).scaleb(places)
    quantity, included = Decimal(calculation["quantity"]), Decimal(calculation["included"])
    return ExplainedCharge(quantity, included, parts, exact, cap, money.round_half_up(minor))


def _part(stored: Mapping[str, str], places: int) -> ExplainedPart:
    units, unit_price = Decimal(stored["units"]), Decimal(stored["unit_price"])
    with localcontext(prec=DECIMAL_PRECISION):
        amount = Decimal(stored["minor"]).scaleb(-places)
        return ExplainedPart(units, unit_price, amount - money.multiply_exact(units, unit_price), amount)


def _usage_steps(
    rated: ExplainedCharge, currency: str, unit: str | None, calculation: Mapping[str, Any]
) -> Iterator[str]:
    counted = _counted(rated, unit, calculation)
    if rated.included:
        included, charged = formatting.format_number(rated.included), formatting.format_number(rated.billable)
        yield f"{counted}; {included} are included, {charged} are charged."
    else:
        yield f"{counted}; none is included, all are charged."
    for part in rated.parts:
        yield format_part(part, currency)
    if len(rated.parts) > 1:
        parts = " + ".join(formatting.format_unit_price(part.amount, currency) for part in rated.parts)
        yield f"{parts} = {formatting.format_unit_price(rated.exact, currency)}"
    if rated.cap is not None and rated.exact > rated.cap:
        yield f"This price charges at most {formatting.format_unit_price(rated.cap, currency)} a period."
    yield f"Rounded half up, once: {formatting.format_money(rated.rounded_minor, currency)}."


def _is_unpriced(calculation: Mapping[str, Any]) -> bool:
    return not calculation.get("is_priced", True)


def _counted(rated: ExplainedCharge, unit: str | None, calculation: Mapping[str, Any]) -> str:
    """The quantity and how it was counted, such as "4 segments counted"."""
    counted = f"{formatting.format_number(rated.quantity)} {unit or 'unit'}{'' if rated.quantity == 1 else 's'} counted"
    return counted + _COUNTING.get(calculation.get("aggregation", ""), "")


def _unpriced_steps(rated: ExplainedCharge, unit: str | None, calculation: Mapping[str, Any]) -> Iterator[str]:
    yield f"{_counted(rated, unit, calculation)}."
    yield "The plan has no price for this meter: its usage is recorded and costs nothing."


def _dimension_steps(calculation: Mapping[str, Any]) -> Iterator[str]:
    """The step that says which usage a price by dimension is for."""
    if value := calculation.get("dimension_value"):
        yield f"Only usage with {calculation['dimension']} {value}."
    elif dimension := calculation.get("dimension"):
        yield f"All usage without a price of its own for its {dimension}."


def _late(calculation: Mapping[str, Any], currency: str, unit: str | None) -> LineBreakdown:
    if _is_unpriced(calculation["with_late"]):
        rated = _rated(calculation["with_late"], currency)
        return LineBreakdown(0, tuple(_unpriced_steps(rated, unit, calculation)), rated)
    before, rated = (_rated(calculation[name], currency) for name in ("billed", "with_late"))
    difference = rated.rounded_minor - before.rounded_minor
    texts = [
        formatting.format_money(minor, currency) for minor in (rated.rounded_minor, before.rounded_minor, difference)
    ]
    steps = (
        *_dimension_steps(calculation),
        "This usage was recorded after its own period had been invoiced.",
        "What that period has been charged already:",
        *_usage_steps(before, currency, unit, calculation),
        "What it comes to with this usage:",
        *_usage_steps(rated, currency, unit, calculation),
        f"The difference is charged: {texts[0]} {MINUS_SIGN} {texts[1]} = {texts[2]}.",
        *_credited_steps(calculation, currency),
    )
    return LineBreakdown(difference + _credited_minor(calculation), steps, rated, before)


def _credited_minor(calculation: Mapping[str, Any]) -> int:
    return int(calculation.get("credited_minor", 0))


def _credited_steps(calculation: Mapping[str, Any], currency: str) -> Iterator[str]:
    """The step that leaves out what was returned before."""
    if credited := _credited_minor(calculation):
        amount = formatting.format_money(credited, currency)
        yield f"{amount} of this were credited before, by a credit note or a void invoice: not again."


def _minimum(calculation: Mapping[str, Any], currency: str) -> LineBreakdown:
    if "billed_minor" in calculation:
        return _late_minimum(calculation, currency)
    minimum, own = int(calculation["minimum_minor"]), int(calculation["own_minor"])
    amount = max(0, minimum - own)
    texts = [formatting.format_money(minor, currency) for minor in (minimum, own, amount)]
    steps = (
        f"The plan's minimum for the time it was in force is {texts[0]}.",
        f"Its base and usage come to {texts[1]}.",
        f"{texts[0]} {MINUS_SIGN} {texts[1]} = {texts[2]}.",
    )
    return LineBreakdown(amount, steps)


def _late_minimum(calculation: Mapping[str, Any], currency: str) -> LineBreakdown:
    minimum, billed, own = (int(calculation[name]) for name in ("minimum_minor", "billed_minor", "own_minor"))
    before, after = max(0, minimum - billed), max(0, minimum - own)
    texts = [
        formatting.format_money(minor, currency) for minor in (minimum, billed, own, before, after, after - before)
    ]
    steps = (
        f"The plan's minimum for the time it was in force in that period is {texts[0]}.",
        f"Its base and usage came to {texts[1]}, and come to {texts[2]} with the usage that was recorded later.",
        f"Missing from the minimum were {texts[3]}, and are {texts[4]} now.",
        f"The difference is charged: {texts[4]} {MINUS_SIGN} {texts[3]} = {texts[5]}.",
        *_credited_steps(calculation, currency),
    )
    return LineBreakdown(after - before + _credited_minor(calculation), steps)


def format_part(part: ExplainedPart, currency: str) -> str:
    """Format a part in one line, such as 50 times 0.01 is 0.50."""
    flat = f" + {formatting.format_unit_price(part.flat, currency)}" if part.flat else ""
    units, price = formatting.format_number(part.units), formatting.format_unit_price(part.unit_price, currency)
    return f"{units} {MULTIPLICATION_SIGN} {price}{flat} = {formatting.format_unit_price(part.amount, currency)}"


def format_seconds(time: timedelta) -> str:
    """Format a duration in seconds, exact to the microsecond."""
    with localcontext(prec=DECIMAL_PRECISION):
        return money.format_unit_price(Decimal(time // timedelta(microseconds=1)).scaleb(-6))


def format_share(used: timedelta, whole: timedelta) -> str:
    """Format a part of a month to the hour, such as "11 of 30 days" or "11 days 17 hours of 30 days"."""
    (days, hours), (whole_days, whole_hours) = _round_to_hours(used), _round_to_hours(whole)
    if days and not hours and not whole_hours:
        return f"{days} of {_count(whole_days, 'day')}"
    return f"{format_hours(used)} of {format_hours(whole)}"


def format_hours(time: timedelta) -> str:
    """Format a duration rounded to the hour, such as "11 days 17 hours"."""
    days, hours = _round_to_hours(time)
    parts = [_count(count, name) for count, name in ((days, "day"), (hours, "hour")) if count]
    return " ".join(parts) or "less than an hour"


def _round_to_hours(time: timedelta) -> tuple[int, int]:
    return divmod((time + timedelta(minutes=30)) // _HOUR, 24)


def _count(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def format_duration(time: timedelta) -> str:
    """Format a duration in days, hours, minutes and seconds, without those that are zero."""
    minutes, rest = divmod(time.seconds, 60)
    fraction = money.format_unit_price(Decimal(rest) + Decimal(time.microseconds).scaleb(-6))
    parts = [(str(time.days), "day"), (str(minutes // 60), "hour"), (str(minutes % 60), "minute"), (fraction, "second")]
    named = [f"{value} {name}{'' if value == '1' else 's'}" for value, name in parts if value != "0"]
    return " ".join(named) or "0 seconds"
