"""Calculate_bill: base, usage, late usage, minimum."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice
from saas_api.core import money

CALCULATION_VERSION = 1
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class RatedPlanVersion:
    """A plan version with its prices by meter."""

    id: str
    name: str
    currency: str
    base_amount_minor: int
    min_spend_minor: int
    prices: Mapping[str, MeterPrice]


@dataclass(frozen=True)
class ProratedSegment:
    """A part of the period during which one plan version was in force."""

    version_id: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class UsageQuantity:
    """What one meter counted under one plan version."""

    version_id: str
    meter: str
    quantity: Decimal


@dataclass(frozen=True)
class LateUsage:
    """Usage of a period that is closed already.

    billed: what that period has been charged for so far, in the meter's unit
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

    stretches: without gaps, in order, within the period
    """

    starts_at: datetime
    ends_at: datetime
    nominal_seconds: int
    versions: Mapping[str, RatedPlanVersion]
    stretches: tuple[ProratedSegment, ...]
    used: tuple[UsageQuantity, ...] = ()
    late: tuple[LateUsage, ...] = ()


@dataclass(frozen=True)
class BillLine:
    """A line of a bill; `calculation` holds every input and component of its amount."""

    kind: str
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
    """A bill before it has a number.

    carry_minor: what goes to the next bill because this one came out below zero
    """

    currency: str
    lines: tuple[BillLine, ...]
    carry_minor: int

    @property
    def total_minor(self) -> int:
        """Sum of the lines, >= 0."""
        return sum(line.amount_minor for line in self.lines)


def calculate_bill(inputs: BillInputs) -> Bill:
    """The bill of a period as it would be written now.

    raises: MalformedTiers
    """
    lines = [*_base(inputs), *_usage(inputs), *_late_usage(inputs)]
    lines += _minimum(inputs, lines)
    below_zero = min(0, sum(line.amount_minor for line in lines))
    if below_zero:
        lines.append(
            BillLine(
                "carry",
                "carry",
                "Carried to the next invoice",
                -below_zero,
                inputs.starts_at,
                inputs.ends_at,
                calculation={"rule_version": CALCULATION_VERSION, "sum_minor": str(below_zero)},
            )
        )
    return Bill(inputs.versions[inputs.stretches[-1].version_id].currency, tuple(lines), -below_zero)


def _base(inputs: BillInputs) -> Iterator[BillLine]:
    for version, used, starts_at, ends_at in _version_at(inputs):
        if not version.base_amount_minor:
            continue
        amount = money.prorate(version.base_amount_minor, used, inputs.nominal_seconds * 1_000_000)
        yield BillLine(
            "base",
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


def _version_at(inputs: BillInputs) -> Iterator[tuple[RatedPlanVersion, int, datetime, datetime]]:
    for version_id in dict.fromkeys(stretch.version_id for stretch in inputs.stretches):
        own = [stretch for stretch in inputs.stretches if stretch.version_id == version_id]
        used = sum((stretch.ends_at - stretch.starts_at) // _MICROSECOND for stretch in own)
        yield inputs.versions[version_id], used, own[0].starts_at, own[-1].ends_at


def _usage(inputs: BillInputs) -> Iterator[BillLine]:
    for used in inputs.used:
        price = inputs.versions[used.version_id].prices.get(used.meter)
        if price is None or not used.quantity:
            continue
        yield BillLine(
            "usage",
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


def _late_usage(inputs: BillInputs) -> Iterator[BillLine]:
    for late in inputs.late:
        price = inputs.versions[late.version_id].prices.get(late.meter)
        if price is None or not late.quantity:
            continue
        yield BillLine(
            "late_usage",
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
    explained: dict[str, Any] = {
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
        explained["max_minor"] = str(price.max_amount_minor)
    return explained


def _minimum(inputs: BillInputs, lines: list[BillLine]) -> Iterator[BillLine]:
    last = inputs.stretches[-1].version_id
    for version, used, starts_at, ends_at in _version_at(inputs):
        if version.id != last or not version.min_spend_minor:
            continue
        spend = money.prorate(version.min_spend_minor, used, inputs.nominal_seconds * 1_000_000)
        own = sum(line.amount_minor for line in lines if line.version_id == last and line.kind in {"base", "usage"})
        if spend > own:
            yield BillLine(
                "minimum",
                f"minimum:{last}",
                f"Minimum of the {version.name} plan",
                spend - own,
                starts_at,
                ends_at,
                last,
                calculation={"rule_version": CALCULATION_VERSION, "minimum_minor": str(spend), "own_minor": str(own)},
            )
