"""Charges, bills and boundaries of periods."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saas_api.billing.rating import bill as rating_bill
from saas_api.billing.rating import charges, period_grid
from saas_api.billing.rating.bill import BillInputs, LateUsage, ProratedSegment, RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.charges import MalformedTiers, MeterPrice, Tier
from saas_api.billing.rating.period_grid import MIN_FIRST_PERIOD, MIN_PERIOD

ZONES = [
    "UTC",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Europe/London",
    "Europe/Berlin",
    "Africa/Cairo",
    "Africa/Lagos",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
]
ANCHORS = (1, 15, 24, 29, 30, 31)
APRIL, MAY = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
SCALE = MeterPrice(
    "graduated",
    tiers=(
        Tier(Decimal(100_000), Decimal("0.004")),
        Tier(Decimal(1_000_000), Decimal("0.003")),
        Tier(None, Decimal("0.002")),
    ),
)
FREE = MeterPrice("per_unit", included_quantity=Decimal(1000), unit_price=Decimal("0.01"))
VOLUME = MeterPrice(
    "volume", tiers=(Tier(Decimal(100), Decimal(1)), Tier(Decimal(1000), Decimal("0.1")), Tier(None, Decimal(0)))
)
PACKAGE = MeterPrice("package", included_quantity=Decimal(1000), package_size=Decimal(500), package_amount_minor=400)
RISING = st.sampled_from([SCALE, FREE, PACKAGE])
QUANTITIES = st.decimals(0, 3_000_000, places=6)


@given(RISING, QUANTITIES, st.lists(QUANTITIES, max_size=5))
def test_any_split_of_late_usage_adds_up_to_one_charge(price: MeterPrice, own: Decimal, parts: list[Decimal]) -> None:
    billed, charged = own, charges.rounded_charge(price, own)
    for part in parts:
        charged += charges.late_usage_charge(price, billed, part)
        billed += part
    assert charged == charges.rounded_charge(price, billed)


@given(RISING, QUANTITIES, QUANTITIES)
def test_more_usage_never_costs_less(price: MeterPrice, quantity: Decimal, more: Decimal) -> None:
    assert 0 <= charges.rounded_charge(price, quantity) <= charges.rounded_charge(price, quantity + more)


@given(QUANTITIES)
def test_components_cover_the_billable_quantity(quantity: Decimal) -> None:
    for price in (SCALE, FREE):
        billable = max(quantity - price.included_quantity, Decimal(0))
        assert sum((part.units for part in charges.charge_components(price, quantity)), Decimal(0)) == billable


@pytest.mark.parametrize(
    ("price", "quantity", "minor"),
    [
        (VOLUME, 100, 10_000),
        (VOLUME, 101, 1_010),
        (PACKAGE, 1_000, 0),
        (PACKAGE, 1_001, 400),
        (PACKAGE, 1_501, 800),
        (SCALE, 100_000, 40_000),
        (SCALE, 100_001, 40_000),
        (SCALE, 100_002, 40_001),
        (SCALE, 1_000_000, 310_000),
        (FREE, -3, 0),
    ],
)
def test_charge_of_every_price_model(price: MeterPrice, quantity: int, minor: int) -> None:
    assert charges.rounded_charge(price, Decimal(quantity)) == minor


def test_price_with_a_maximum_charges_at_most_that() -> None:
    capped = MeterPrice("per_unit", unit_price=Decimal("0.01"), max_amount_minor=500)
    assert charges.rounded_charge(capped, Decimal(10_000)) == 500


def test_quantity_beyond_the_last_tier_is_malformed() -> None:
    for model in ("graduated", "volume"):
        with pytest.raises(MalformedTiers):
            charges.rounded_charge(MeterPrice(model, tiers=(Tier(Decimal(1), Decimal(1)),)), Decimal(2))


def test_list_price_cost_is_units_times_the_first_price() -> None:
    assert charges.list_price_cost(FREE, Decimal(3)) == Decimal("0.03")
    assert charges.list_price_cost(SCALE, Decimal(1)) == Decimal("0.004")
    assert charges.list_price_cost(PACKAGE, Decimal(1)) == Decimal("0.008")


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("anchor_day", ANCHORS)
def test_thirty_years_of_boundaries_have_no_gaps(name: str, anchor_day: int) -> None:
    zone = ZoneInfo(name)
    start = datetime(2005, 3, 20, 12, tzinfo=UTC)
    end = period_grid.next_period_end(start, anchor_day, zone, MIN_FIRST_PERIOD)
    for _ in range(12 * 30):
        start, end = end, period_grid.next_period_end(end, anchor_day, zone, MIN_PERIOD)
        assert timedelta(days=27) < end - start < timedelta(days=32)
        assert 2_300_000 <= period_grid.nominal_seconds(start, end, anchor_day, zone) <= 4_600_000
        before = (end - timedelta(seconds=1)).astimezone(zone)
        assert (before.day, before.hour) != (end.astimezone(zone).day, end.astimezone(zone).hour)


@given(st.datetimes(datetime(2010, 1, 1), datetime(2040, 1, 1)), st.sampled_from(ZONES), st.sampled_from(ANCHORS))  # noqa: DTZ001 - given UTC below
def test_first_period_lasts_at_least_a_day(naive: datetime, name: str, anchor_day: int) -> None:
    start, zone = naive.replace(tzinfo=UTC), ZoneInfo(name)
    end = period_grid.next_period_end(start, anchor_day, zone, MIN_FIRST_PERIOD)
    assert timedelta(days=1) <= end - start <= timedelta(days=33)
    assert period_grid.nominal_seconds(start, end, anchor_day, zone) >= (end - start).total_seconds() - 1


def test_boundary_at_skipped_and_ordinary_midnights() -> None:
    kolkata, cairo = ZoneInfo("Asia/Kolkata"), ZoneInfo("Africa/Cairo")
    month = 12 * 2026 + 3
    assert period_grid.grid_boundary(month, 1, kolkata) == datetime(2026, 3, 31, 18, 30, tzinfo=UTC)
    assert period_grid.grid_boundary(month + 1, 1, kolkata) == datetime(2026, 4, 30, 18, 30, tzinfo=UTC)
    assert period_grid.grid_boundary(month, 24, cairo) == datetime(2026, 4, 23, 22, tzinfo=UTC)
    assert period_grid.grid_boundary(month, 24, cairo).astimezone(cairo).hour == 1


def test_billing_day_31_returns_after_february() -> None:
    utc = ZoneInfo("UTC")
    ends = [datetime(2026, 1, 31, tzinfo=UTC)]
    for _ in range(3):
        ends.append(period_grid.next_period_end(ends[-1], 31, utc, MIN_PERIOD))
    assert [(end.month, end.day) for end in ends[1:]] == [(2, 28), (3, 31), (4, 30)]


def test_zone_change_makes_one_longer_period_with_a_full_base() -> None:
    zone = ZoneInfo("America/New_York")
    end = period_grid.next_period_end(APRIL, 1, zone, MIN_PERIOD)
    assert end == datetime(2026, 5, 1, 4, tzinfo=UTC)
    assert period_grid.nominal_seconds(APRIL, end, 1, zone) == (end - APRIL).total_seconds()


STARTER = RatedPlanVersion(
    "starter@1", "Starter", "USD", 2900, 0, {"sms": MeterPrice("per_unit", unit_price=Decimal("0.01"))}
)
PRO = RatedPlanVersion("pro@1", "Pro", "USD", 9900, 0, {"sms": MeterPrice("per_unit", unit_price=Decimal("0.005"))})
FREE_PLAN = RatedPlanVersion("free@1", "Free", "USD", 0, 0, {"sms": FREE})
VERSIONS = {version.id: version for version in (STARTER, PRO, FREE_PLAN)}


def bill(
    stretches: list[tuple[str, datetime]], *, used: dict[str, int] | None = None, late: tuple[LateUsage, ...] = ()
) -> BillInputs:
    starts = [start for _, start in stretches]
    return BillInputs(
        starts[0],
        MAY,
        int((MAY - starts[0]).total_seconds()),
        VERSIONS,
        tuple(
            ProratedSegment(name, start, end) for (name, start), end in zip(stretches, [*starts[1:], MAY], strict=True)
        ),
        tuple(UsageQuantity(name, "sms", Decimal(quantity)) for name, quantity in (used or {}).items()),
        late,
    )


def amounts(inputs: BillInputs) -> dict[str, int]:
    return {line.source_key: line.amount_minor for line in rating_bill.calculate_bill(inputs).lines}


def test_plan_change_prorates_the_month() -> None:
    inputs = bill([("starter@1", APRIL), ("pro@1", datetime(2026, 4, 16, tzinfo=UTC))])
    assert amounts(inputs) == {"base:starter@1": 1450, "base:pro@1": 4950}


def test_included_units_count_once_for_each_version() -> None:
    days = [datetime(2026, 4, day, tzinfo=UTC) for day in (1, 11, 21)]
    stretches = list(zip(("free@1", "starter@1", "free@1"), days, strict=True))
    inputs = bill(stretches, used={"free@1": 1200, "starter@1": 500})
    assert amounts(inputs) == {"base:starter@1": 967, "usage:free@1:sms": 200, "usage:starter@1:sms": 500}


def test_month_with_a_change_to_summer_time_is_prorated_by_hours() -> None:
    zone = ZoneInfo("America/New_York")
    start, change = (datetime(2026, 3, day, tzinfo=zone).astimezone(UTC) for day in (1, 16))
    end = datetime(2026, 4, 1, tzinfo=zone).astimezone(UTC)
    inputs = BillInputs(
        start,
        end,
        period_grid.nominal_seconds(start, end, 1, zone),
        VERSIONS,
        (ProratedSegment("starter@1", start, change), ProratedSegment("pro@1", change, end)),
    )
    assert inputs.nominal_seconds == 743 * 3600
    assert amounts(inputs) == {"base:starter@1": 1401, "base:pro@1": 5117}


def test_usage_reversed_after_invoicing_is_carried() -> None:
    late = LateUsage(uuid.uuid4(), APRIL, MAY, "free@1", "sms", Decimal(1003), Decimal(-2))
    draft = rating_bill.calculate_bill(bill([("free@1", APRIL)], late=(late,)))
    assert [(line.kind, line.amount_minor) for line in draft.lines] == [("late_usage", -2), ("carry", 2)]
    assert (draft.total_minor, draft.carry_minor) == (0, 2)


def test_minimum_adds_the_missing_amount() -> None:
    version = RatedPlanVersion(
        "free@2", "Free", "USD", 0, 500, {"sms": MeterPrice("per_unit", unit_price=Decimal("0.01"))}
    )
    inputs = BillInputs(
        APRIL,
        MAY,
        30 * 86_400,
        {version.id: version},
        (ProratedSegment(version.id, APRIL, MAY),),
        (UsageQuantity(version.id, "sms", Decimal(120)),),
    )
    assert amounts(inputs) == {"usage:free@2:sms": 120, "minimum:free@2": 380}


@given(st.integers(0, 5_000), st.integers(-2_000, 2_000))
def test_bill_is_never_negative_and_explains_itself(quantity: int, late_quantity: int) -> None:
    late = LateUsage(uuid.uuid4(), APRIL, MAY, "starter@1", "sms", Decimal(2_000), Decimal(late_quantity))
    draft = rating_bill.calculate_bill(bill([("free@1", APRIL)], used={"free@1": quantity}, late=(late,)))
    assert draft.total_minor >= 0
    assert draft.total_minor == sum(line.amount_minor for line in draft.lines)
    assert all(line.calculation["rule_version"] == 1 for line in draft.lines)
