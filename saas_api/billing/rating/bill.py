"""The bill of a period: base, usage, minimum and late usage, as lines that are each rounded once."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from enum import StrEnum
from typing import Any
from uuid import UUID

from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice
from saas_api.core import money
from saas_api.core.money import DECIMAL_PRECISION

CALCULATION_VERSION = 1
_MICROSECOND, _SECOND_US = timedelta(microseconds=1), 1_000_000
_SMALLEST_QUANTITY = Decimal("0.000001")


PriceKey = tuple[str, str, str]
"""Plan version, meter and value of the price's dimension; "" for all values without a price of their own."""


class LineKind(StrEnum):
    """What a line charges for; carry brings a negative total to zero, manual has no calculation."""

    BASE = "base"
    USAGE = "usage"
    LATE_USAGE = "late_usage"
    MINIMUM = "minimum"
    CARRY = "carry"
    MANUAL = "manual"


@dataclass(frozen=True)
class RatedPlanVersion:
    """A plan version with its prices by meter.

    meter_names: of every meter by code, for the descriptions of lines
    """

    id: str
    name: str
    currency: str
    base_amount_minor: int
    min_spend_minor: int
    prices: Mapping[str, MeterPrice]
    meter_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def plan_code(self) -> str:
        """Code of the plan: "pro" of "pro@3"."""
        return self.id.rpartition("@")[0]


@dataclass(frozen=True)
class ProratedSegment:
    """A part of the period during which one plan version was in force."""

    version_id: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class UsageQuantity:
    """Usage of one meter under one plan version, in the meter's unit.

    dimension_value: value of the dimension by which the version prices the meter; "" for all without a price of
        their own
    aggregation: "sum" of a meter that adds up, otherwise "max", "unique" or "latest"
    """

    version_id: str
    meter: str
    quantity: Decimal
    dimension_value: str = ""
    aggregation: str = "sum"

    @property
    def key(self) -> PriceKey:
        """The key of its price."""
        return self.version_id, self.meter, self.dimension_value


@dataclass(frozen=True)
class LateQuantity:
    """Usage of one meter under one plan version in a closed period, in the meter's unit.

    billed: quantity that the period has been charged for so far
    quantity: what usage that was recorded later adds to it; below 0 for reversed usage, 0 if only other usage of the
        period was recorded later
    dimension_value, aggregation: as of `UsageQuantity`
    """

    version_id: str
    meter: str
    billed: Decimal
    quantity: Decimal
    dimension_value: str = ""
    aggregation: str = "sum"

    @property
    def key(self) -> PriceKey:
        """The key of its price."""
        return self.version_id, self.meter, self.dimension_value


@dataclass(frozen=True)
class LateUsage:
    """Usage of a closed period that was recorded later, with all usage that the period has been charged for.

    nominal_seconds, segments: of the closed period, as in `BillInputs`
    credited_minor: what credit notes have returned of the charges, by plan version, meter (None for the minimum) and
        value of the dimension, less what earlier bills have taken into account
    is_waived: the invoice of the closed period is void, so that nothing was paid that could be returned
    """

    period_id: UUID
    starts_at: datetime
    ends_at: datetime
    nominal_seconds: int
    segments: tuple[ProratedSegment, ...]
    quantities: tuple[LateQuantity, ...]
    credited_minor: Mapping[tuple[str, str | None, str], int] = field(default_factory=dict)
    is_waived: bool = False


@dataclass(frozen=True)
class BillInputs:
    """Everything a bill depends on.

    nominal_seconds: length of the whole month that the base is a price for
    versions: by id
    segments: in order, within the period; gaps are pauses, in which neither base nor minimum is charged
    """

    starts_at: datetime
    ends_at: datetime
    nominal_seconds: int
    versions: Mapping[str, RatedPlanVersion]
    segments: tuple[ProratedSegment, ...]
    used: tuple[UsageQuantity, ...] = ()
    late: tuple[LateUsage, ...] = ()

    @property
    def currency(self) -> str:
        """Currency of the bill; late usage of a period in another one is not charged."""
        return self.versions[self.segments[-1].version_id].currency


@dataclass(frozen=True)
class BillLine:
    """A line of a bill.

    source_key: unique in the bill; says what the line charges for
    amount_minor: rounded
    calculation: every input and component of the amount, JSON-ready; of usage with a price by dimension also
        `dimension` and `dimension_value`, of a meter that does not add up its `aggregation`
    """

    kind: LineKind
    source_key: str
    description: str
    amount_minor: int
    starts_at: datetime
    ends_at: datetime
    version_id: str | None = None
    meter: str | None = None
    late_for_period_id: UUID | None = None
    quantity: Decimal = Decimal(1)
    calculation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bill:
    """The calculation of a period before it is an invoice.

    carry_minor: amount by which the lines were below zero, >= 0; it becomes wallet credit
    """

    currency: str
    lines: tuple[BillLine, ...]
    carry_minor: int

    @property
    def total_minor(self) -> int:
        """Sum of the lines in minor units, >= 0."""
        return sum(line.amount_minor for line in self.lines)


def calculate_bill(inputs: BillInputs) -> Bill:
    """Calculate the bill of a period.

    raises: MalformedTiers
    """
    lines = [*_base_lines(inputs), *_usage_lines(inputs)]
    lines += [*_late_lines(inputs), *_minimum_lines(inputs)]
    below_zero = min(0, sum(line.amount_minor for line in lines))
    if below_zero:
        lines.append(
            BillLine(
                LineKind.CARRY,
                "carry",
                "Carried to the next invoice",
                -below_zero,
                inputs.starts_at,
                inputs.ends_at,
                calculation={"rule_version": CALCULATION_VERSION, "sum_minor": str(below_zero)},
            )
        )
    return Bill(inputs.currency, tuple(lines), -below_zero)


def _base_lines(inputs: BillInputs) -> Iterator[BillLine]:
    for version, used, starts_at, ends_at in _time_in_force(inputs):
        if not version.base_amount_minor or (not used and inputs.starts_at < inputs.ends_at):
            continue
        amount = money.prorate(version.base_amount_minor, used, _whole_us(inputs))
        yield BillLine(
            LineKind.BASE,
            f"base:{version.id}",
            f"{version.name} plan",
            amount,
            starts_at,
            ends_at,
            version.id,
            calculation={
                "rule_version": CALCULATION_VERSION,
                "base_minor": str(version.base_amount_minor),
                "used_us": str(used),
                "nominal_us": str(_whole_us(inputs)),
            },
        )


def _whole_us(inputs: BillInputs) -> int:
    """Length of the whole month in microseconds.

    `nominal_seconds` is rounded, so a period within a second of it is the whole month and pays the base exactly.
    """
    length, nominal = (inputs.ends_at - inputs.starts_at) // _MICROSECOND, inputs.nominal_seconds * _SECOND_US
    return length if abs(length - nominal) < _SECOND_US else nominal


def _time_in_force(inputs: BillInputs) -> Iterator[tuple[RatedPlanVersion, int, datetime, datetime]]:
    """Each version with its time in force in microseconds, the start of its first and the end of its last segment."""
    for version_id in dict.fromkeys(segment.version_id for segment in inputs.segments):
        own = [segment for segment in inputs.segments if segment.version_id == version_id]
        used = sum((segment.ends_at - segment.starts_at) // _MICROSECOND for segment in own)
        yield inputs.versions[version_id], used, own[0].starts_at, own[-1].ends_at


def period_prices(
    versions: Mapping[str, RatedPlanVersion], segments: Sequence[ProratedSegment], used: Iterable[UsageQuantity]
) -> dict[PriceKey, MeterPrice]:
    """Prices of a period.

    Included quantity and maximum of a price count once for a period and plan. Each of several versions of a plan adds
    its own in proportion to its time in force, and the versions use the sum up in the order in which they end, so that
    the version in force gets what is left. Each value of a dimension has its own.

    segments, used: of the period; versions that only one of them names are included
    """
    quantities = {usage.key: usage.quantity for usage in used}
    time_us: dict[str, int] = {}
    for segment in segments:  # in the order of the last segment of each
        time_us[segment.version_id] = time_us.pop(segment.version_id, 0) + (
            (segment.ends_at - segment.starts_at) // _MICROSECOND
        )
    for version_id, *_ in quantities:
        time_us.setdefault(version_id, 0)
    groups: defaultdict[tuple[str, str, str, str], dict[PriceKey, MeterPrice]] = defaultdict(dict)
    for version_id in time_us:
        plan_code = versions[version_id].plan_code
        for meter, default in versions[version_id].prices.items():
            for value, price in default.by_value.items():
                dimension = (default.dimension or "") if value else ""
                groups[plan_code, meter, dimension, value][version_id, meter, value] = price
    prices: dict[PriceKey, MeterPrice] = {}
    for own in groups.values():
        prices |= _share_allowances(own, time_us, quantities) if len(own) > 1 else own
    return prices


def _share_allowances(
    own: Mapping[PriceKey, MeterPrice], time_us: Mapping[str, int], quantities: Mapping[PriceKey, Decimal]
) -> Iterator[tuple[PriceKey, MeterPrice]]:
    """Prices of one meter and value under several versions of a plan, which share included quantity and maximum."""
    times = {key: time_us[key[0]] for key in own}
    whole_us = max(sum(times.values()), 1)
    with localcontext(prec=DECIMAL_PRECISION):
        weighted = [price.included_quantity * times[key] for key, price in own.items()]
        included = (sum(weighted, Decimal(0)) / whole_us).quantize(_SMALLEST_QUANTITY, ROUND_HALF_UP)
    maximum = sum(money.prorate(price.max_amount_minor or 0, times[key], whole_us) for key, price in own.items())
    for key, price in own.items():
        limit = None if price.max_amount_minor is None else min(price.max_amount_minor, maximum)
        shared_price = replace(price, included_quantity=included, max_amount_minor=limit)
        yield key, shared_price
        quantity = quantities.get(key, Decimal(0))
        included -= min(included, max(quantity, Decimal(0)))
        maximum -= 0 if limit is None else charges.rounded_charge(shared_price, quantity)


def version_prices(version: RatedPlanVersion, prices: Mapping[PriceKey, MeterPrice]) -> dict[str, MeterPrice]:
    """Prices of a version by meter, with the allowances that the prices of a period have left of theirs.

    prices: as `period_prices` returns them
    """
    result = {}
    for meter, price in version.prices.items():
        by = {value: prices.get((version.id, meter, value), own) for value, own in price.by.items()}
        result[meter] = replace(prices.get((version.id, meter, ""), price), by=by)
    return result


def _usage_lines(inputs: BillInputs) -> Iterator[BillLine]:
    prices = period_prices(inputs.versions, inputs.segments, inputs.used)
    for used in inputs.used:
        if not used.quantity:
            continue
        version, price = inputs.versions[used.version_id], prices.get(used.key)
        yield BillLine(
            LineKind.USAGE,
            ":".join(("usage", *_key_parts(used.key))),
            f"{_name(used.key, version)}, {version.name} plan{'' if price else ' (not priced)'}",
            charges.rounded_charge(price, used.quantity) if price else 0,
            inputs.starts_at,
            inputs.ends_at,
            used.version_id,
            used.meter,
            quantity=used.quantity,
            calculation={**_calculation(price, used.quantity), **_counting(used, version)},
        )


def _key_parts(key: PriceKey) -> tuple[str, ...]:
    """A price key for a source key; the value comes last, because only it may contain colons."""
    return key if key[2] else key[:2]


def _counting(usage: UsageQuantity | LateQuantity, version: RatedPlanVersion) -> dict[str, str]:
    """What a line counts, for its calculation: nothing for the sum of all usage of a meter."""
    counting = {} if usage.aggregation == "sum" else {"aggregation": usage.aggregation}
    price = version.prices.get(usage.meter)
    if price and price.dimension:
        counting |= {"dimension": price.dimension, "dimension_value": usage.dimension_value}
    return counting


def _name(key: PriceKey, version: RatedPlanVersion) -> str:
    """What a line counts, such as "Tokens, model small"."""
    _, meter, value = key
    name = version.meter_names.get(meter, meter)
    return f"{name}, {version.prices[meter].dimension} {value}" if value else name


def _calculation(price: MeterPrice | None, quantity: Decimal) -> dict[str, Any]:
    """The calculation of a quantity; without a price it costs nothing."""
    calculation: dict[str, Any] = {
        "rule_version": CALCULATION_VERSION,
        "quantity": money.format_unit_price(quantity),
    }
    if price is None:
        return {**calculation, "included": "0", "components": [], "is_priced": False}
    calculation["included"] = money.format_unit_price(price.included_quantity)
    calculation["components"] = [
        {
            "units": money.format_unit_price(part.units),
            "unit_price": money.format_unit_price(part.unit_price),
            "minor": money.format_unit_price(part.minor),
        }
        for part in charges.charge_components(price, quantity)
    ]
    if price.max_amount_minor is not None:
        calculation["max_minor"] = str(price.max_amount_minor)
    return calculation


@dataclass(frozen=True)
class _Minimum:
    """Minimum of a plan version for its time in a period, and what its base and usage come to; in minor units."""

    version: RatedPlanVersion
    minimum_minor: int
    own_minor: int
    starts_at: datetime
    ends_at: datetime

    @property
    def missing_minor(self) -> int:
        return max(0, self.minimum_minor - self.own_minor)


def _minimums(inputs: BillInputs) -> Iterator[_Minimum]:
    lines = [*_base_lines(inputs), *_usage_lines(inputs)]
    for version, used, starts_at, ends_at in _time_in_force(inputs):
        if version.min_spend_minor:
            minimum = money.prorate(version.min_spend_minor, used, _whole_us(inputs))
            own = sum(line.amount_minor for line in lines if line.version_id == version.id)
            yield _Minimum(version, minimum, own, starts_at, ends_at)


def _minimum_lines(inputs: BillInputs) -> Iterator[BillLine]:
    for minimum in _minimums(inputs):
        if minimum.missing_minor:
            yield BillLine(
                LineKind.MINIMUM,
                f"minimum:{minimum.version.id}",
                f"Minimum of the {minimum.version.name} plan",
                minimum.missing_minor,
                minimum.starts_at,
                minimum.ends_at,
                minimum.version.id,
                calculation={
                    "rule_version": CALCULATION_VERSION,
                    "minimum_minor": str(minimum.minimum_minor),
                    "own_minor": str(minimum.own_minor),
                },
            )


def late_charge_minor(inputs: BillInputs) -> int:
    """Sum of the lines for late usage of a period, in minor units; below 0 if more was reversed than added."""
    return sum(line.amount_minor for line in _late_lines(inputs))


def _late_lines(inputs: BillInputs) -> Iterator[BillLine]:
    """What each closed period would have cost with its late usage, less what it has cost, line by line."""
    for late in inputs.late:
        bounds = late.starts_at, late.ends_at, late.nominal_seconds, inputs.versions, late.segments
        billed = tuple(
            UsageQuantity(part.version_id, part.meter, part.billed, part.dimension_value) for part in late.quantities
        )
        total = tuple(
            replace(usage, quantity=part.billed + part.quantity)
            for usage, part in zip(billed, late.quantities, strict=True)
        )
        before, after = BillInputs(*bounds, billed), BillInputs(*bounds, total)
        if after.currency != inputs.currency:
            continue  # the period has cost nothing: an organization whose invoices cost something keeps its currency
        yield from _late_usage_lines(late, before, after)
        yield from _late_minimum_lines(late, before, after)


def _late_usage_lines(late: LateUsage, before: BillInputs, after: BillInputs) -> Iterator[BillLine]:
    prices, prices_after = (period_prices(one.versions, one.segments, one.used) for one in (before, after))
    for part in late.quantities:
        version, price, price_after = before.versions[part.version_id], prices.get(part.key), prices_after.get(part.key)
        total, difference, credited = part.billed + part.quantity, 0, 0
        if price and price_after:
            difference = charges.rounded_charge(price_after, total) - charges.rounded_charge(price, part.billed)
            credited = _credited_before(late, part.key, difference)
        if not (part.quantity or difference):
            continue
        yield BillLine(
            LineKind.LATE_USAGE,
            ":".join(("late", str(late.period_id), *_key_parts(part.key))),
            f"{_name(part.key, version)} recorded after its period was closed{'' if price else ' (not priced)'}",
            difference + credited,
            late.starts_at,
            late.ends_at,
            part.version_id,
            part.meter,
            late.period_id,
            part.quantity,
            {
                "rule_version": CALCULATION_VERSION,
                "billed": _calculation(price, part.billed),
                "with_late": _calculation(price_after, total),
                "credited_minor": str(credited),
                **_counting(part, version),
            },
        )


def _late_minimum_lines(late: LateUsage, before: BillInputs, after: BillInputs) -> Iterator[BillLine]:
    for old, new in zip(_minimums(before), _minimums(after), strict=True):
        difference = new.missing_minor - old.missing_minor
        if not difference:
            continue
        credited = _credited_before(late, (new.version.id, None, ""), difference)
        yield BillLine(
            LineKind.MINIMUM,
            f"minimum:{late.period_id}:{new.version.id}",
            f"Minimum of the {new.version.name} plan, with usage recorded after the period was closed",
            difference + credited,
            late.starts_at,
            late.ends_at,
            new.version.id,
            late_for_period_id=late.period_id,
            calculation={
                "rule_version": CALCULATION_VERSION,
                "minimum_minor": str(new.minimum_minor),
                "billed_minor": str(old.own_minor),
                "own_minor": str(new.own_minor),
                "credited_minor": str(credited),
            },
        )


def _credited_before(late: LateUsage, key: tuple[str, str | None, str], difference: int) -> int:
    """The part of a negative difference that must not be returned again, in minor units."""
    returned = max(0, -difference)
    return returned if late.is_waived else min(returned, late.credited_minor.get(key, 0))
