"""Price, Tier, charges of a quantity."""

from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal, localcontext

from saas_api.core import money
from saas_api.core.money import DECIMAL_PRECISION

_SMALLEST = Decimal("0.000001")


class MalformedTiers(ValueError):
    """A price without a tier for some quantity; publishing refuses such prices."""


@dataclass(frozen=True)
class Tier:
    """One step of a graduated or volume price.

    up_to: inclusive; None on the last tier only
    unit_price: in major units
    """

    up_to: Decimal | None
    unit_price: Decimal
    flat_minor: int = 0


@dataclass(frozen=True)
class MeterPrice:
    """What a meter costs on a plan version.

    model: "per_unit", "graduated", "volume" or "package"
    exponent: decimals of the currency
    included_quantity: comes off first
    unit_price: in major units, of a per_unit price
    max_amount_minor: caps the charge
    """

    model: str
    exponent: int = 2
    included_quantity: Decimal = Decimal(0)
    unit_price: Decimal = Decimal(0)
    tiers: tuple[Tier, ...] = ()
    package_size: Decimal = Decimal(1)
    package_amount_minor: int = 0
    max_amount_minor: int | None = None


@dataclass(frozen=True)
class ChargeComponent:
    """A part of a charge that explains itself.

    minor: exact, not rounded
    """

    units: Decimal
    unit_price: Decimal
    minor: Decimal


def charge_components(price: MeterPrice, quantity: Decimal) -> list[ChargeComponent]:
    """The parts that a charge is the sum of; the cap is not among them.

    quantity: in the meter's unit; below 0 counts as 0
    raises: MalformedTiers
    source: graduated and volume tiers as Stripe defines them
    """
    billable = quantity - price.included_quantity
    if billable <= 0:
        return []
    match price.model:
        case "per_unit":
            return [_component(price, billable, price.unit_price)]
        case "graduated":
            return _graduated(price, billable)
        case "volume":
            return [_volume(price, billable)]
        case _:
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
    """Charge for one meter's quantity in one period, in minor units, unrounded.

    raises: MalformedTiers
    """
    with localcontext(prec=DECIMAL_PRECISION):
        total = sum((part.minor for part in charge_components(price, quantity)), Decimal(0))
    return total if price.max_amount_minor is None else min(total, Decimal(price.max_amount_minor))


def rounded_charge(price: MeterPrice, quantity: Decimal) -> int:
    """Charge for one meter's quantity in one period, rounded half up once.

    raises: MalformedTiers
    source: worked examples in tests/billing/test_worked_examples.py
    """
    return money.round_half_up(exact_charge(price, quantity))


def marginal_charge(price: MeterPrice, known: Decimal, units: Decimal) -> Decimal:
    """What more units add to the charge, in minor units, unrounded.

    known: the quantity before them
    raises: MalformedTiers
    """
    with localcontext(prec=DECIMAL_PRECISION):
        return exact_charge(price, known + units) - exact_charge(price, known)


def constant_marginal_range(
    price: MeterPrice, known: Decimal, units: Decimal
) -> tuple[Decimal | None, Decimal | None] | None:
    """For which other known quantities `marginal` says the same: above the first, up to the second.

    returns: bounds, None for none; or None where the units cross into another price, so that only `known` is sure
    """
    low, high = _tier_component(price, known)
    if (low, high) != _tier_component(price, known + units):
        return None
    if price.max_amount_minor is not None:
        uncapped, limit = replace(price, max_amount_minor=None), price.max_amount_minor
        if exact_charge(uncapped, known) >= limit:
            low = known - _SMALLEST
        elif exact_charge(uncapped, known + units) <= limit:
            high = known + units
        else:
            return None
    return low, None if high is None else high - units


def _tier_component(price: MeterPrice, quantity: Decimal) -> tuple[Decimal | None, Decimal | None]:
    """The range, its first bound left out, in which every unit adds the same."""
    billable, floor = quantity - price.included_quantity, price.included_quantity
    if billable <= 0:
        return None, floor
    if price.model == "package":
        with localcontext(prec=DECIMAL_PRECISION):
            end = (billable / price.package_size).to_integral_value(rounding=ROUND_CEILING) * price.package_size
            return floor + end - price.package_size, floor + end
    low = Decimal(0)
    for tier in price.tiers:
        if tier.up_to is None or billable <= tier.up_to:
            return floor + low, None if tier.up_to is None else floor + tier.up_to
        low = tier.up_to
    return floor, None


def late_usage_charge(price: MeterPrice, billed: Decimal, late: Decimal) -> int:
    """What late usage adds to a period that is billed already; negative for usage taken back.

    billed: everything the period has been charged for so far
    """
    return rounded_charge(price, billed + late) - rounded_charge(price, billed)


def list_price_cost(price: MeterPrice, units: Decimal) -> Decimal:
    """Units times the first unit price, in major units: what one call is said to cost."""
    if price.model == "package":
        with localcontext(prec=DECIMAL_PRECISION):
            return units * Decimal(price.package_amount_minor).scaleb(-price.exponent) / price.package_size
    return money.multiply_exact(units, price.tiers[0].unit_price if price.tiers else price.unit_price)
