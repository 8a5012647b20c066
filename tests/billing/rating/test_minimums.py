"""Minimums, shared allowances and late usage over any chain of plan changes, against a model in fractions."""

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import (
    BillInputs,
    LateQuantity,
    LateUsage,
    ProratedSegment,
    RatedPlanVersion,
    UsageQuantity,
)
from saas_api.billing.rating.charges import MeterPrice, Tier

START = datetime(2026, 4, 1, tzinfo=UTC)
END = datetime(2026, 5, 1, tzinfo=UTC)
MONTH_SECONDS = 30 * 86_400
PRICES = (
    MeterPrice("per_unit", included_quantity=Decimal(1000), unit_price=Decimal("0.0125")),
    MeterPrice("per_unit", included_quantity=Decimal(10), unit_price=Decimal("0.3"), max_amount_minor=5_000),
    MeterPrice("per_unit", unit_price=Decimal("0.01"), max_amount_minor=2_501),
    MeterPrice("package", included_quantity=Decimal(100), package_size=Decimal(7), package_amount_minor=33),
    MeterPrice(
        "graduated",
        included_quantity=Decimal(500),
        tiers=(Tier(Decimal(100), Decimal("0.05"), 25), Tier(None, Decimal("0.021"))),
    ),
    MeterPrice("volume", tiers=(Tier(Decimal(100), Decimal("0.5")), Tier(None, Decimal("0.15")))),
)
VERSION_IDS = ("small@1", "small@2", "small@3", "large@1", "large@2")
VALUES = ("", "a", "b")
Key = tuple[str, str]
"""A plan version, and a value of the dimension by which it may price the meter."""
Usage = Mapping[Key, Decimal]


@dataclass(frozen=True)
class Month:
    """A month with a chain of plan versions, its usage by version and value, and the usage recorded in later months."""

    versions: Mapping[str, RatedPlanVersion]
    segments: tuple[ProratedSegment, ...]
    used: Usage
    recorded_later: tuple[Usage, ...]


@st.composite
def prices(draw: st.DrawFn) -> MeterPrice:
    """A price for all usage, or also one for each of some values of a dimension."""
    by = {value: draw(st.sampled_from(PRICES)) for value in draw(st.sampled_from([(), (), ("a",), ("a", "b")]))}
    return replace(draw(st.sampled_from(PRICES)), dimension="model" if by else None, by=by)


@st.composite
def months(draw: st.DrawFn) -> Month:
    versions = {
        version_id: RatedPlanVersion(
            version_id,
            version_id,
            "USD",
            draw(st.sampled_from([0, 2_900, 9_999])),
            draw(st.sampled_from([0, 10_000, 33_333])),
            {"sms": draw(prices())},
        )
        for version_id in VERSION_IDS
    }
    cuts = sorted(draw(st.sets(st.integers(1, MONTH_SECONDS - 1), max_size=5)))
    instants = [START + timedelta(seconds=second) for second in (0, *cuts, MONTH_SECONDS)]
    chain = draw(st.lists(st.sampled_from(VERSION_IDS), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    segments = tuple(map(ProratedSegment, chain, instants, instants[1:]))
    keys = [(name, value) for name in sorted(set(chain)) for value in versions[name].prices["sms"].by_value]
    amounts = st.integers(0, 20_000).map(Decimal)
    used = {key: draw(amounts) for key in keys}
    total, later = dict(used), []
    for _ in range(draw(st.integers(0, 3))):
        changes = {}
        for key in draw(st.sets(st.sampled_from(keys), min_size=1)):
            changes[key] = draw(amounts) - draw(st.just(Decimal(0)) | st.just(total[key]))
            total[key] += changes[key]
        later.append(changes)
    return Month(versions, segments, used, tuple(later))


def bill_month(month: Month) -> int:
    used = tuple(UsageQuantity(name, "sms", quantity, value) for (name, value), quantity in month.used.items())
    return bill.calculate_bill(BillInputs(START, END, MONTH_SECONDS, month.versions, month.segments, used)).total_minor


def bill_later(month: Month, billed: Usage, changes: Usage) -> int:
    """What a later month on a plan that costs nothing charges, or returns, for the usage recorded in it."""
    parts = tuple(
        LateQuantity(key[0], "sms", quantity, changes.get(key, Decimal(0)), key[1]) for key, quantity in billed.items()
    )
    late = LateUsage(uuid.UUID(int=1), START, END, MONTH_SECONDS, month.segments, parts)
    free = RatedPlanVersion("free@1", "Free", "USD", 0, 0, {})
    segment = ProratedSegment(free.id, END, END + timedelta(days=31))
    versions = {**month.versions, free.id: free}
    later = bill.calculate_bill(BillInputs(END, segment.ends_at, 31 * 86_400, versions, (segment,), late=(late,)))
    return later.total_minor - later.carry_minor


def rounded(amount: Fraction) -> int:
    """Half up, away from zero; amounts of the model are never below zero."""
    return (2 * amount + 1).__floor__() // 2


def charge(price: MeterPrice, billable: Fraction) -> Fraction:
    """The charge for a quantity beyond the included one, in minor units, before a maximum."""
    if billable <= 0:
        return Fraction(0)
    if price.model == "per_unit":
        return billable * Fraction(price.unit_price) * 100
    if price.model == "package":
        return -(-billable // Fraction(price.package_size)) * Fraction(price.package_amount_minor)
    low, high = price.tiers
    bound = Fraction(low.up_to or 0)
    if price.model == "volume":
        return billable * Fraction((low if billable <= bound else high).unit_price) * 100
    first = min(billable, bound) * Fraction(low.unit_price) * 100 + low.flat_minor
    return first if billable <= bound else first + (billable - bound) * Fraction(high.unit_price) * 100


def model_cost(month: Month, used: Usage) -> int:
    """Base, usage and minimum of every version, if all usage had been recorded in time."""
    seconds: defaultdict[str, Fraction] = defaultdict(Fraction)
    last_end = {}
    for segment in month.segments:
        seconds[segment.version_id] += Fraction(int((segment.ends_at - segment.starts_at).total_seconds()))
        last_end[segment.version_id] = segment.ends_at
    own = sorted(seconds, key=last_end.__getitem__)
    usage: defaultdict[str, int] = defaultdict(int)
    for plan in ("small", "large"):
        for value in VALUES:
            named = [name for name in own if name.startswith(plan) and value in price_of(month, name).by_value]
            for name, cost in model_charges(month, used, {name: seconds[name] for name in named}, value):
                usage[name] += cost
    total = 0
    for name in own:
        share = seconds[name] / MONTH_SECONDS
        base = rounded(month.versions[name].base_amount_minor * share)
        total += max(base + usage[name], rounded(month.versions[name].min_spend_minor * share))
    return total


def price_of(month: Month, name: str) -> MeterPrice:
    return month.versions[name].prices["sms"]


def model_charges(month: Month, used: Usage, seconds: Mapping[str, Fraction], value: str) -> Iterator[tuple[str, int]]:
    """Charges of one value under the versions of a plan, which share its included quantity and maximum."""
    whole = sum(seconds.values()) or Fraction(1)
    own = {name: price_of(month, name).by_value[value] for name in seconds}
    included = sum((Fraction(price.included_quantity) * seconds[name] for name, price in own.items()), Fraction(0))
    included = Fraction(rounded(included / whole * 1_000_000), 1_000_000)
    maximum = sum(rounded(Fraction(one.max_amount_minor or 0) * seconds[name] / whole) for name, one in own.items())
    for name, price in own.items():
        quantity, limit = Fraction(used[name, value]), price.max_amount_minor
        cost = charge(price, quantity - included)
        amount = rounded(cost if limit is None else min(cost, Fraction(limit), Fraction(maximum)))
        included -= min(included, quantity)
        maximum -= 0 if limit is None else amount
        yield name, amount


@settings(max_examples=60)
@given(months())
def test_late_usage_and_reversals_come_to_what_the_month_would_have_cost(month: Month) -> None:
    """B4, B5, B12: what was charged at first and later is the cost of the usage that is left."""
    used, charged = dict(month.used), bill_month(month)
    assert charged == model_cost(month, used)
    for changes in month.recorded_later:
        charged += bill_later(month, used, changes)
        for key, quantity in changes.items():
            used[key] += quantity
        assert charged == model_cost(month, used)
