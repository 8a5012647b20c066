"""Prices of a meter and the charge for a quantity; exact until a charge is rounded once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, Decimal, localcontext
from enum import StrEnum

from saas_api.core import money
from saas_api.core.money import DECIMAL_PRECISION

_SMALLEST_QUANTITY = Decimal("0.000001")


class PriceModel(StrEnum):
    """How a quantity becomes a charge, as Stripe names the models."""

    PER_UNIT = "per_unit"
    GRADUATED = "graduated"
    VOLUME = "volume"
    PACKAGE = "package"


class MalformedTiers(ValueError):
    """No tier of the price covers the quantity; such a price cannot be published."""


@dataclass(frozen=True)
class Tier:
    """A tier of a graduated or volume price.

    up_to: inclusive; None on the last tier only
    unit_price: in major units
    """

    up_to: Decimal | None
    unit_price: Decimal
    flat_minor: int = 0


@dataclass(frozen=True)
class MeterPrice:
    """Price of a meter in a plan version.

    exponent: number of decimals of the currency
    included_quantity: subtracted before anything is charged
    unit_price: in major units; of a per-unit price only
    max_amount_minor: upper bound of the charge of a period
    dimension: property by whose values the price differs; None for one price
    by: prices of values of the dimension, by value; the price itself is for all other values together
    """

    model: PriceModel
    exponent: int = 2
    included_quantity: Decimal = Decimal(0)
    unit_price: Decimal = Decimal(0)
    tiers: tuple[Tier, ...] = ()
    package_size: Decimal = Decimal(1)
    package_amount_minor: int = 0
    max_amount_minor: int | None = None
    dimension: str | None = None
    by: Mapping[str, "MeterPrice"] = field(default_factory=dict)

    @property
    def by_value(self) -> "Mapping[str, MeterPrice]":
        """Prices by value of the dimension; "" stands for all values that have none of their own."""
        return {"": self, **self.by}

    @property
    def includes_some(self) -> bool:
        """Whether any value of the dimension has an included quantity."""
        return any(own.included_quantity for own in self.by_value.values())

    def value_for(self, properties: Mapping[str, str]) -> str:
        """The value of the dimension under which usage counts; "" without a price of its own."""
        value = properties.get(self.dimension, "") if self.dimension else ""
        return value if value in self.by else ""

    @property
    def units_per_package(self) -> Decimal | None:
        """Size of a package; None unless packages are sold."""
        return self.package_size if self.model == PriceModel.PACKAGE else None


@dataclass(frozen=True)
class ChargeComponent:
    """Part of a charge at one unit price.

    minor: in minor units, not rounded
    """

    units: Decimal
    unit_price: Decimal
    minor: Decimal


def charge_components(price: MeterPrice, quantity: Decimal) -> list[ChargeComponent]:
    """Parts whose sum is the charge before `max_amount_minor` applies.

    quantity: in the meter's unit; a negative one counts as 0
    raises: MalformedTiers
    source: graduated and volume tiers as Stripe defines them
    """
    billable = quantity - price.included_quantity
    if billable <= 0:
        return []
    match price.model:
        case PriceModel.PER_UNIT:
            return [_component(price, billable, price.unit_price)]
        case PriceModel.GRADUATED:
            return _graduated(price, billable)
        case PriceModel.VOLUME:
            return [_volume(price, billable)]
        case PriceModel.PACKAGE:
            with localcontext(prec=DECIMAL_PRECISION):
                packages = (billable / price.package_size).to_integral_value(rounding=ROUND_CEILING)
            return [_component(price, packages, Decimal(price.package_amount_minor).scaleb(-price.exponent))]


def _component(price: MeterPrice, units: Decimal, unit_price: Decimal, flat_minor: int = 0) -> ChargeComponent:
    minor = money.multiply_exact(units, unit_price, Decimal(10) ** price.exponent)
    with localcontext(prec=DECIMAL_PRECISION):
        return ChargeComponent(units, unit_price, minor + flat_minor)


def _graduated(price: MeterPrice, billable: Decimal) -> list[ChargeComponent]:
    parts, floor = [], Decimal(0)
    for tier in price.tiers:
        top = billable if tier.up_to is None else min(billable, tier.up_to)
        parts.append(_component(price, top - floor, tier.unit_price, tier.flat_minor))
        if top == billable:
            return parts
        floor = top
    raise MalformedTiers


def _volume(price: MeterPrice, billable: Decimal) -> ChargeComponent:
    for tier in price.tiers:
        if tier.up_to is None or billable <= tier.up_to:
            return _component(price, billable, tier.unit_price, tier.flat_minor)
    raise MalformedTiers


def exact_charge(price: MeterPrice, quantity: Decimal) -> Decimal:
    """Charge for a quantity of one meter in one period, in minor units, not rounded.

    raises: MalformedTiers
    """
    with localcontext(prec=DECIMAL_PRECISION):
        total = sum((part.minor for part in charge_components(price, quantity)), Decimal(0))
    return total if price.max_amount_minor is None else min(total, Decimal(price.max_amount_minor))


def rounded_charge(price: MeterPrice, quantity: Decimal) -> int:
    """Charge for a quantity of one meter in one period, in minor units, rounded half up once.

    raises: MalformedTiers
    source: docs/billing.md, whose examples tests/billing/test_worked_examples.py compares
    """
    return money.round_half_up(exact_charge(price, quantity))


def highest_charge(price: MeterPrice, quantity: Decimal) -> int:
    """The highest charge for any billable quantity up to this one, in minor units; volume prices can fall.

    raises: MalformedTiers
    """
    bounds = [tier.up_to for tier in price.tiers if tier.up_to is not None and tier.up_to < quantity]
    return max(rounded_charge(price, price.included_quantity + bound) for bound in [*bounds, quantity])


def marginal_charge(price: MeterPrice, known: Decimal, units: Decimal) -> Decimal:
    """Charge that additional units cause, in minor units, not rounded.

    known: quantity before them
    raises: MalformedTiers
    """
    with localcontext(prec=DECIMAL_PRECISION):
        return exact_charge(price, known + units) - exact_charge(price, known)


def constant_marginal_range(
    price: MeterPrice, known: Decimal, units: Decimal
) -> tuple[Decimal | None, Decimal | None] | None:
    """Range of known quantities, lower bound excluded, in which `marginal_charge` of these units is the same.

    returns: lower and upper bound, each None where there is none; None instead of a range when the units cross into
        another tier, package or the maximum, so that the charge holds for `known` only
    """
    low, high = _constant_price_range(price, known)
    if (low, high) != _constant_price_range(price, known + units):
        return None
    if price.max_amount_minor is not None:
        uncapped, limit = replace(price, max_amount_minor=None), price.max_amount_minor
        if exact_charge(uncapped, known) >= limit:
            low = known - _SMALLEST_QUANTITY
        elif exact_charge(uncapped, known + units) <= limit:
            high = known + units
        else:
            return None
    return low, None if high is None else high - units


def _constant_price_range(price: MeterPrice, quantity: Decimal) -> tuple[Decimal | None, Decimal | None]:
    """Range around a quantity, lower bound excluded, in which every unit adds the same amount."""
    billable, floor = quantity - price.included_quantity, price.included_quantity
    if billable <= 0:
        return None, floor
    if price.model == PriceModel.PACKAGE:
        with localcontext(prec=DECIMAL_PRECISION):
            end = (billable / price.package_size).to_integral_value(rounding=ROUND_CEILING) * price.package_size
            return floor + end - price.package_size, floor + end
    low = Decimal(0)
    for tier in price.tiers:
        if tier.up_to is None or billable <= tier.up_to:
            return floor + low, None if tier.up_to is None else floor + tier.up_to
        low = tier.up_to
    return floor, None


def list_price_cost(price: MeterPrice, units: Decimal) -> Decimal:
    """Cost of a call at the list price, in major units: units times the unit price of the first tier."""
    if price.model == PriceModel.PACKAGE:
        with localcontext(prec=DECIMAL_PRECISION):
            return units * Decimal(price.package_amount_minor).scaleb(-price.exponent) / price.package_size
    return money.multiply_exact(units, price.tiers[0].unit_price if price.tiers else price.unit_price)
