"""The bill of a period: base, usage, late usage and minimum, as lines that are each rounded once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice
from saas_api.core import money

CALCULATION_VERSION = 1
_MICROSECOND = timedelta(microseconds=1)


class LineKind(StrEnum):
    """What a line charges for; carry brings a negative total to zero, manual has no calculation."""

    BASE = "base"
    USAGE = "usage"
    LATE_USAGE = "late_usage"
    MINIMUM = "minimum"
    CARRY = "carry"
    MANUAL = "manual"


_MINIMUM_COVERS = (LineKind.BASE, LineKind.USAGE)


@dataclass(frozen=True)
class RatedPlanVersion:
    """A plan version with its prices by meter."""

    id: str
    name: str
    currency: str
    base_amount_minor: int
    min_spend_minor: int
    prices: Mapping[str, MeterPrice]

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
    """Usage of one meter under one plan version, in the meter's unit."""

    version_id: str
    meter: str
    quantity: Decimal


@dataclass(frozen=True)
class LateUsage:
    """Usage of a closed period that was recorded later.

    billed: quantity that the closed period has been charged for so far, in the meter's unit
    """

    period_id: UUID
    starts_at: datetime
    ends_at: datetime
    version_id: str
    meter: str
    billed: Decimal
    quantity: Decimal


@dataclass(frozen=True)
class BillInputs:
    """Everything a bill depends on.

    nominal_seconds: length of the whole month that the base is a price for
    versions: by id
    segments: in order and without gaps, within the period
    """

    starts_at: datetime
    ends_at: datetime
    nominal_seconds: int
    versions: Mapping[str, RatedPlanVersion]
    segments: tuple[ProratedSegment, ...]
    used: tuple[UsageQuantity, ...] = ()
    late: tuple[LateUsage, ...] = ()


@dataclass(frozen=True)
class BillLine:
    """A line of a bill.

    source_key: unique in the bill; says what the line charges for
    amount_minor: rounded
    calculation: every input and component of the amount, JSON-ready
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
    lines = [*_base_lines(inputs), *_usage_lines(inputs), *_late_usage_lines(inputs)]
    lines += _minimum_line(inputs, lines)
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
    return Bill(inputs.versions[inputs.segments[-1].version_id].currency, tuple(lines), -below_zero)


def _base_lines(inputs: BillInputs) -> Iterator[BillLine]:
    for version, used, starts_at, ends_at in _time_in_force(inputs):
        if not version.base_amount_minor:
            continue
        amount = money.prorate(version.base_amount_minor, used, inputs.nominal_seconds * 1_000_000)
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
                "nominal_us": str(inputs.nominal_seconds * 1_000_000),
            },
        )


def _time_in_force(inputs: BillInputs) -> Iterator[tuple[RatedPlanVersion, int, datetime, datetime]]:
    """Each version with its time in force in microseconds, the start of its first and the end of its last segment."""
    for version_id in dict.fromkeys(segment.version_id for segment in inputs.segments):
        own = [segment for segment in inputs.segments if segment.version_id == version_id]
        used = sum((segment.ends_at - segment.starts_at) // _MICROSECOND for segment in own)
        yield inputs.versions[version_id], used, own[0].starts_at, own[-1].ends_at


def _usage_lines(inputs: BillInputs) -> Iterator[BillLine]:
    for used in inputs.used:
        price = inputs.versions[used.version_id].prices.get(used.meter)
        if price is None or not used.quantity:
            continue
        yield BillLine(
            LineKind.USAGE,
            f"usage:{used.version_id}:{used.meter}",
            f"{used.meter} on {inputs.versions[used.version_id].name}",
            charges.rounded_charge(price, used.quantity),
            inputs.starts_at,
            inputs.ends_at,
            used.version_id,
            used.meter,
            quantity=used.quantity,
            calculation=_calculation(price, used.quantity),
        )


def _late_usage_lines(inputs: BillInputs) -> Iterator[BillLine]:
    for late in inputs.late:
        price = inputs.versions[late.version_id].prices.get(late.meter)
        if price is None or not late.quantity:
            continue
        yield BillLine(
            LineKind.LATE_USAGE,
            f"late:{late.period_id}:{late.version_id}:{late.meter}",
            f"{late.meter} recorded after its period was closed",
            charges.late_usage_charge(price, late.billed, late.quantity),
            late.starts_at,
            late.ends_at,
            late.version_id,
            late.meter,
            late.period_id,
            late.quantity,
            {
                "rule_version": CALCULATION_VERSION,
                "billed": _calculation(price, late.billed),
                "with_late": _calculation(price, late.billed + late.quantity),
            },
        )


def _calculation(price: MeterPrice, quantity: Decimal) -> dict[str, Any]:
    calculation: dict[str, Any] = {
        "rule_version": CALCULATION_VERSION,
        "quantity": money.format_unit_price(quantity),
        "included": money.format_unit_price(price.included_quantity),
        "components": [
            {
                "units": money.format_unit_price(part.units),
                "unit_price": money.format_unit_price(part.unit_price),
                "minor": money.format_unit_price(part.minor),
            }
            for part in charges.charge_components(price, quantity)
        ],
    }
    if price.max_amount_minor is not None:
        calculation["max_minor"] = str(price.max_amount_minor)
    return calculation


def _minimum_line(inputs: BillInputs, lines: list[BillLine]) -> Iterator[BillLine]:
    last = inputs.segments[-1].version_id
    for version, used, starts_at, ends_at in _time_in_force(inputs):
        if version.id != last or not version.min_spend_minor:
            continue
        minimum = money.prorate(version.min_spend_minor, used, inputs.nominal_seconds * 1_000_000)
        own = sum(line.amount_minor for line in lines if line.version_id == last and line.kind in _MINIMUM_COVERS)
        if minimum > own:
            yield BillLine(
                LineKind.MINIMUM,
                f"minimum:{last}",
                f"Minimum of the {version.name} plan",
                minimum - own,
                starts_at,
                ends_at,
                last,
                calculation={"rule_version": CALCULATION_VERSION, "minimum_minor": str(minimum), "own_minor": str(own)},
            )
