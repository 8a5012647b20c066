"""Minimums, shared allowances and late usage over any chain of plan changes, against a model in fractions."""

import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
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
Usage = Mapping[str, Decimal]


@dataclass(frozen=True)
class Month:
    """A month with a chain of plan versions, its usage by version, and the usage recorded in each later month."""

    versions: Mapping[str, RatedPlanVersion]
    segments: tuple[ProratedSegment, ...]
    used: Usage
    recorded_later: tuple[Usage, ...]


@st.composite
def months(draw: st.DrawFn) -> Month:
    versions = {
        version_id: RatedPlanVersion(
            version_id,
            version_id,
            "USD",
            draw(st.sampled_from([0, 2_900, 9_999])),
            draw(st.sampled_from([0, 10_000, 33_333])),
            {"sms": draw(st.sampled_from(PRICES))},
        )
        for version_id in VERSION_IDS
    }
    cuts = sorted(draw(st.sets(st.integers(1, MONTH_SECONDS - 1), max_size=5)))
    instants = [START + timedelta(seconds=second) for second in (0, *cuts, MONTH_SECONDS)]
    chain = draw(st.lists(st.sampled_from(VERSION_IDS), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    segments = tuple(map(ProratedSegment, chain, instants, instants[1:]))
    in_force = sorted(set(chain))
    amounts = st.integers(0, 20_000).map(Decimal)
    used = {version_id: draw(amounts) for version_id in in_force}
    total, later = dict(used), []
    for _ in range(draw(st.integers(0, 3))):
        changes = {}
        for version_id in draw(st.sets(st.sampled_from(in_force), min_size=1)):
            changes[version_id] = draw(amounts) - draw(st.just(Decimal(0)) | st.just(total[version_id]))
            total[version_id] += changes[version_id]
        later.append(changes)
    return Month(versions, segments, used, tuple(later))


def bill_month(month: Month) -> int:
    used = tuple(UsageQuantity(version_id, "sms", quantity) for version_id, quantity in month.used.items())
    return bill.calculate_bill(BillInputs(START, END, MONTH_SECONDS, month.versions, month.segments, used)).total_minor


def bill_later(month: Month, billed: Usage, changes: Usage) -> int:
    """What a later month on a plan that costs nothing charges, or returns, for the usage recorded in it."""
    parts = tuple(
        LateQuantity(version_id, "sms", quantity, changes.get(version_id, Decimal(0)))
        for version_id, quantity in billed.items()
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
    total = 0
    for plan in ("small", "large"):
        own = sorted((name for name in seconds if name.startswith(plan)), key=last_end.__getitem__)
        whole = sum(seconds[name] for name in own)
        prices = {name: month.versions[name].prices["sms"] for name in own}
        included = sum((Fraction(prices[name].included_quantity) * seconds[name] for name in own), Fraction(0))
        included = Fraction(rounded(included / whole * 1_000_000), 1_000_000) if own else included
        maximum = sum(rounded(Fraction(prices[name].max_amount_minor or 0) * seconds[name] / whole) for name in own)
        for name in own:
            quantity, limit = Fraction(used[name]), prices[name].max_amount_minor
            cost = charge(prices[name], quantity - included)
            usage = rounded(cost if limit is None else min(cost, Fraction(limit), Fraction(maximum)))
            included -= min(included, quantity)
            maximum -= 0 if limit is None else usage
            share = seconds[name] / MONTH_SECONDS
            base = rounded(month.versions[name].base_amount_minor * share)
            total += max(base + usage, rounded(month.versions[name].min_spend_minor * share))
    return total


@settings(max_examples=60)
@given(months())
def test_late_usage_and_reversals_come_to_what_the_month_would_have_cost(month: Month) -> None:
    """B4, B5, B12: what was charged at first and later is the cost of the usage that is left."""
    used, charged = dict(month.used), bill_month(month)
    assert charged == model_cost(month, used)
    for changes in month.recorded_later:
        charged += bill_later(month, used, changes)
        for version_id, quantity in changes.items():
            used[version_id] += quantity
        assert charged == model_cost(month, used)
