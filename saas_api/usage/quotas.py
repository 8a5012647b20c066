"""Counters of limits: what one call adds to a meter or to the spend of a period."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.core import money
from saas_api.core.limits.counters import MAX_COUNTER_VALUE
from saas_api.usage import live_quantities, open_holds
from saas_api.usage.ledger import MeteredUsage

MICRO_UNITS = 1_000_000
_QUOTA_PREFIX = "$quota:"


@dataclass(frozen=True)
class MeterQuota:
    """One counter of the limits, in millionths.

    name: as of `quota_counter_name`, or the name of a counter for the spend cap
    units: what this call adds
    limit: the most that the counter may reach, -1 for none
    last_value: the value according to PostgreSQL; Redis starts from it when it has none
    lower_bound, upper_bound: inclusive range of the value in Redis for which `units` was computed
    """

    name: str
    units: int
    limit: int
    last_value: int
    lower_bound: int = -MAX_COUNTER_VALUE
    upper_bound: int = MAX_COUNTER_VALUE


def quota_counter_name(meter: str) -> str:
    """Name of the counter for the quota of a meter."""
    return f"{_QUOTA_PREFIX}{meter}"


def to_micro_units(quantity: Decimal) -> int:
    """A quantity as millionths of its unit, the unit of counters, at most `MAX_COUNTER_VALUE`."""
    return min(MAX_COUNTER_VALUE, int(money.multiply_exact(quantity, Decimal(MICRO_UNITS))))


def quota_details(counter_name: str, limit: int, used: int) -> dict[str, str | int]:
    """Meter, limit and used quantity of an exceeded quota in the meter's unit, for the API.

    limit, used: in millionths
    returns: whole numbers as integers, others as decimal strings
    """
    return {
        "meter": counter_name.removeprefix(_QUOTA_PREFIX),
        "limit": _in_units(limit),
        "used": _in_units(used),
    }


def _in_units(value: int) -> str | int:
    whole, fraction = divmod(value, MICRO_UNITS)
    return money.format_unit_price(Decimal(value).scaleb(-6)) if fraction else whole


def quota_counters(
    usage: Sequence[MeteredUsage],
    counted: Mapping[str, Decimal],
    limits: Mapping[str, Decimal],
    exact_meters: Collection[str] = (),
) -> list[MeterQuota]:
    """Counters of the used meters that have a quota. Pure.

    usage: what the call uses
    counted: as of `count_towards_quotas`; empty where Redis has the counters
    limits: quotas of the plan and its overrides, by meter, in the meter's unit
    exact_meters: meters that do not add up; the call adds nothing to them, and is refused once they are above the limit
    """
    units: defaultdict[str, Decimal] = defaultdict(Decimal)
    for used in usage:
        if used.meter in limits:
            units[used.meter] += 0 if used.meter in exact_meters else used.quantity
    return [
        MeterQuota(
            quota_counter_name(meter),
            to_micro_units(amount),
            to_micro_units(limits[meter]),
            to_micro_units(counted.get(meter, Decimal(0))),
        )
        for meter, amount in sorted(units.items())
    ]


def count_towards_quotas(session: Session, organization_id: UUID, period_id: UUID) -> Mapping[str, Decimal]:
    """What counts towards quotas in a period, by meter in its unit: usage and open holds."""
    counted = defaultdict(Decimal, live_quantities.get_totals(session, organization_id, period_id))
    for hold in open_holds.list_held_quantities(session, organization_id):
        counted[hold.meter] += hold.quantity
    return counted
