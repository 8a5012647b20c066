"""Properties of every bill, found by hypothesis over usage, plan changes and late usage."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from saas_api.billing.rating import bill, charges, period_grid
from saas_api.billing.rating.bill import (
    Bill,
    BillInputs,
    LateQuantity,
    LateUsage,
    ProratedSegment,
    RatedPlanVersion,
    UsageQuantity,
)
from saas_api.billing.rating.charges import MeterPrice, Tier
from saas_api.billing.rating.period_grid import MIN_FIRST_PERIOD, MIN_PERIOD
from saas_api.core import money
from tests.billing.rating.test_bill import ANCHORS, ZONES

START = datetime(2026, 4, 1, tzinfo=UTC)
MONTH_SECONDS = 30 * 86_400
METERS = ("sms", "email")

unit_prices = st.decimals(0, 5, places=10)
quantities = st.decimals(0, 5_000_000, places=6)
whole_quantities = st.integers(1, 10_000).map(Decimal)


@st.composite
def prices(draw: st.DrawFn) -> MeterPrice:
    """A price that the catalogue would take."""
    model = draw(st.sampled_from(["per_unit", "graduated", "volume", "package"]))
    included = draw(st.sampled_from([Decimal(0), Decimal(1000), Decimal("0.5")]))
    cap = draw(st.none() | st.integers(0, 100_000))
    if model == "per_unit":
        return MeterPrice(model, 2, included, draw(unit_prices), max_amount_minor=cap)
    if model == "package":
        size, amount = draw(whole_quantities), draw(st.integers(0, 10_000))
        return MeterPrice(model, 2, included, package_size=size, package_amount_minor=amount, max_amount_minor=cap)
    bounds = sorted(draw(st.sets(whole_quantities, max_size=4)))
    flats = st.integers(0, 500)
    tiers = tuple(Tier(bound, draw(unit_prices), draw(flats)) for bound in [*bounds, None])
    return MeterPrice(model, 2, included, tiers=tiers, max_amount_minor=cap)


@st.composite
def months(draw: st.DrawFn) -> BillInputs:
    """A month with plan changes at any second, usage on each plan, and usage that is late or reversed."""
    names = [f"plan{n}@1" for n in range(draw(st.integers(1, 3)))]
    versions = {
        name: RatedPlanVersion(
            name,
            name,
            "USD",
            draw(st.integers(0, 100_000)),
            draw(st.sampled_from([0, 0, 5_000])),
            {meter: draw(prices()) for meter in METERS},
        )
        for name in names
    }
    cuts = sorted(draw(st.sets(st.integers(1, MONTH_SECONDS - 1), max_size=4)))
    instants = [START + timedelta(seconds=second) for second in (0, *cuts, MONTH_SECONDS)]
    segments = tuple(
        ProratedSegment(draw(st.sampled_from(names)), begins, ends)
        for begins, ends in zip(instants, instants[1:], strict=False)  # noqa: RUF007 - strategies are drawn in between
    )
    in_force = sorted({segment.version_id for segment in segments})
    used = tuple(UsageQuantity(name, meter, draw(quantities)) for name in in_force for meter in METERS)
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from(METERS), quantities, st.decimals(-1_000_000, 1_000_000, places=6)),
            max_size=2,
            unique_by=lambda usage: usage[0],
        )
    )
    before = START - timedelta(days=31)
    late = LateUsage(
        uuid.UUID(int=1),
        before,
        START,
        31 * 86_400,
        (ProratedSegment(in_force[0], before, START),),
        tuple(LateQuantity(in_force[0], meter, billed, amount) for meter, billed, amount in parts),
    )
    return BillInputs(START, instants[-1], MONTH_SECONDS, versions, segments, used, (late,) if parts else ())


def amounts(draft: Bill, kind: str) -> dict[str, int]:
    return {line.source_key: line.amount_minor for line in draft.lines if line.kind == kind}


@given(months())
def test_bill_is_the_sum_of_lines_that_are_each_rounded_once(month: BillInputs) -> None:
    draft = bill.calculate_bill(month)
    assert draft.total_minor == sum(line.amount_minor for line in draft.lines) >= 0
    assert len({line.source_key for line in draft.lines}) == len(draft.lines)
    assert draft == bill.calculate_bill(month)
    for used in month.used:
        price = month.versions[used.version_id].prices[used.meter]
        line = amounts(draft, "usage").get(f"usage:{used.version_id}:{used.meter}", 0)
        assert line == money.round_half_up(charges.exact_charge(price, used.quantity))


@given(months())
def test_only_the_negative_rest_of_a_bill_is_carried(month: BillInputs) -> None:
    draft = bill.calculate_bill(month)
    rest = sum(line.amount_minor for line in draft.lines if line.kind != "carry")
    assert (draft.carry_minor, draft.total_minor) == (max(0, -rest), max(0, rest))
    assert amounts(draft, "carry") == ({"carry": draft.carry_minor} if draft.carry_minor else {})


@given(months())
def test_bases_share_the_month_and_never_exceed_it(month: BillInputs) -> None:
    bases = amounts(bill.calculate_bill(month), "base")
    in_force = {segment.version_id for segment in month.segments}
    most = max(month.versions[name].base_amount_minor for name in in_force)
    assert sum(bases.values()) <= most + len(in_force)
    if len(in_force) == 1:
        assert sum(bases.values()) == most


@given(months())
def test_plan_with_a_minimum_charges_at_least_that(month: BillInputs) -> None:
    lines = [line for line in bill.calculate_bill(month).lines if line.late_for_period_id is None]
    for version_id in {segment.version_id for segment in month.segments}:
        own = sum(line.amount_minor for line in lines if line.version_id == version_id)
        used = sum(
            (segment.ends_at - segment.starts_at).total_seconds()
            for segment in month.segments
            if segment.version_id == version_id
        )
        assert own >= money.prorate(month.versions[version_id].min_spend_minor, int(used), MONTH_SECONDS)


@given(st.integers(0, 1_000_000), st.lists(st.integers(0, 10**12), min_size=1, max_size=8))
def test_prorated_amounts_add_up_within_half_a_cent_each(amount: int, parts: list[int]) -> None:
    whole = sum(parts)
    if whole:
        shares = [money.prorate(amount, part, whole) for part in parts]
        assert all(0 <= share <= amount for share in shares)
        assert abs(sum(shares) - amount) * 2 <= len(parts)


@given(prices(), quantities, st.lists(quantities, max_size=6))
def test_marginal_charges_add_up_without_rounding(price: MeterPrice, known: Decimal, more: list[Decimal]) -> None:
    charged, quantity = charges.exact_charge(price, known), known
    for units in more:
        charged += charges.marginal_charge(price, quantity, units)
        quantity += units
    assert charged == charges.exact_charge(price, quantity)


@given(prices(), quantities)
def test_charge_is_never_negative_or_above_its_maximum(price: MeterPrice, quantity: Decimal) -> None:
    charged = charges.rounded_charge(price, quantity)
    assert charged >= 0
    assert price.max_amount_minor is None or charged <= price.max_amount_minor


@given(
    st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - given UTC below
    st.sampled_from(ANCHORS),
    st.lists(st.sampled_from(ZONES), min_size=2, max_size=24),
)
def test_periods_have_no_gaps_through_any_changes_of_zone(naive: datetime, anchor_day: int, zones: list[str]) -> None:
    start = naive.replace(tzinfo=UTC)
    at_least = MIN_FIRST_PERIOD
    for name in zones:
        zone = ZoneInfo(name)
        end = period_grid.next_period_end(start, anchor_day, zone, at_least)
        nominal = period_grid.nominal_seconds(start, end, anchor_day, zone)
        length = (end - start).total_seconds()
        assert at_least <= end - start <= timedelta(days=52)
        assert length <= nominal
        assert 2_300_000 <= nominal <= 4_600_000
        assert money.prorate(2900, int(length), nominal) <= 2900
        start, at_least = end, MIN_PERIOD
