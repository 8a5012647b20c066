"""Charges, bills and boundaries of periods."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saas_api.billing.rating import bill as rating_bill
from saas_api.billing.rating import charges, period_grid
from saas_api.billing.rating.bill import (
    BillInputs,
    LateQuantity,
    LateUsage,
    ProratedSegment,
    RatedPlanVersion,
    UsageQuantity,
)
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
STUDIO = RatedPlanVersion("studio@1", "Studio", "USD", 0, 10_000, STARTER.prices)
STUDIO_2 = RatedPlanVersion("studio@2", "Studio", "USD", 0, 10_000, STARTER.prices)
FREE_2 = RatedPlanVersion("free@2", "Free", "USD", 0, 0, {"sms": replace(FREE, included_quantity=Decimal(2000))})
VERSIONS = {version.id: version for version in (STARTER, PRO, FREE_PLAN, STUDIO, STUDIO_2, FREE_2)}


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


def late_usage(version_id: str, billed: int, quantity: int, **credit: Any) -> LateUsage:
    """Late usage of a whole month on one plan version."""
    part = LateQuantity(version_id, "sms", Decimal(billed), Decimal(quantity))
    segment = ProratedSegment(version_id, APRIL, MAY)
    return LateUsage(uuid.UUID(int=1), APRIL, MAY, 30 * 86_400, (segment,), (part,), **credit)


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
    late = late_usage("free@1", 1003, -2)
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


MIDDLE, LAST_HOUR = datetime(2026, 4, 16, tzinfo=UTC), datetime(2026, 4, 30, 23, tzinfo=UTC)


def test_late_usage_below_the_minimum_costs_nothing_more() -> None:
    """B4: minimum 100.00, April 50.00 billed as 100.00; 30.00 of late usage was charged again."""
    inputs = bill([("free@1", APRIL)], late=(late_usage("studio@1", 5_000, 3_000),))
    late = f"{uuid.UUID(int=1)}:studio@1"
    assert amounts(inputs) == {f"late:{late}:sms": 3_000, f"minimum:{late}": -3_000}


def test_late_usage_above_the_minimum_costs_the_part_above() -> None:
    """B4: 50.00 billed as 100.00, with 80.00 of late usage the period comes to 130.00."""
    draft = rating_bill.calculate_bill(bill([("free@1", APRIL)], late=(late_usage("studio@1", 5_000, 8_000),)))
    assert draft.total_minor == 3_000


def test_reversal_returns_no_more_than_the_minimum_leaves() -> None:
    """B4: 150.00 billed, 80.00 reversed: the period comes to its minimum of 100.00, so 50.00 come back."""
    draft = rating_bill.calculate_bill(bill([("free@1", APRIL)], late=(late_usage("studio@1", 15_000, -8_000),)))
    assert draft.carry_minor == 5_000


def test_reversal_returns_nothing_that_a_credit_note_returned() -> None:
    """B4: of 20.00 that are reversed, a credit note had returned 12.00."""
    late = late_usage("starter@1", 5_000, -2_000, credited_minor={("starter@1", "sms", ""): 1_200})
    assert rating_bill.calculate_bill(bill([("free@1", APRIL)], late=(late,))).carry_minor == 800


def test_reversal_of_usage_on_a_void_invoice_returns_nothing() -> None:
    late = late_usage("starter@1", 5_000, -2_000, is_waived=True)
    assert rating_bill.calculate_bill(bill([("free@1", APRIL)], late=(late,))).carry_minor == 0


def test_minimum_counts_until_the_plan_is_left() -> None:
    """B5: a change to free in the last hour of the month took the whole minimum away."""
    inputs = bill([("studio@1", APRIL), ("free@1", LAST_HOUR)], used={"studio@1": 1_000})
    assert amounts(inputs) == {"usage:studio@1:sms": 1_000, "minimum:studio@1": 9_986 - 1_000}


def test_minimum_counts_from_the_start_of_the_plan() -> None:
    """B5: only the version at the end of the period had a minimum."""
    inputs = bill([("free@1", APRIL), ("studio@1", MIDDLE), ("free@1", LAST_HOUR)])
    assert amounts(inputs) == {"minimum:studio@1": 4_986}


def test_usage_on_another_plan_does_not_fill_a_minimum() -> None:
    inputs = bill([("studio@1", APRIL), ("starter@1", MIDDLE)], used={"starter@1": 9_000})
    assert amounts(inputs) == {"base:starter@1": 1_450, "usage:starter@1:sms": 9_000, "minimum:studio@1": 5_000}


def test_minimums_of_versions_of_a_plan_add_up_to_one() -> None:
    inputs = bill([("studio@1", APRIL), ("studio@2", MIDDLE)])
    assert sum(amounts(inputs).values()) == 10_000


@pytest.mark.parametrize(
    ("stretches", "used", "charged"),
    [
        (["free@1", "free@2"], {"free@1": 900, "free@2": 900}, {"free@2": 300}),
        (["free@1", "free@2"], {"free@1": 1_800, "free@2": 100}, {"free@1": 300, "free@2": 100}),
        (["free@2", "free@1"], {"free@1": 900, "free@2": 900}, {"free@1": 300}),
        (["free@1", "pro@1"], {"free@1": 900}, {}),
    ],
)
def test_included_quantity_counts_once_for_the_versions_of_a_plan(
    stretches: list[str], used: dict[str, int], charged: dict[str, int]
) -> None:
    """B12: half a month with 1,000 and half a month with 2,000 included were 3,000, and are 1,500."""
    inputs = bill(list(zip(stretches, (APRIL, MIDDLE), strict=True)), used=used)
    usage = {key: amount for key, amount in amounts(inputs).items() if key.startswith("usage") and amount}
    assert usage == {f"usage:{version}:sms": amount for version, amount in charged.items()}


def test_maximum_counts_once_for_the_versions_of_a_plan() -> None:
    """B12: a new version of a plan let a meter cost its maximum twice."""
    capped = {"sms": MeterPrice("per_unit", unit_price=Decimal("0.01"), max_amount_minor=1_000)}
    versions = {name: RatedPlanVersion(name, "Flat", "USD", 0, 0, capped) for name in ("flat@1", "flat@2")}
    inputs = bill([("free@1", APRIL)])
    stretches = (ProratedSegment("flat@1", APRIL, MIDDLE), ProratedSegment("flat@2", MIDDLE, MAY))
    used = tuple(UsageQuantity(name, "sms", Decimal(700)) for name in versions)
    assert amounts(replace(inputs, versions=versions, segments=stretches, used=used)) == {
        "usage:flat@1:sms": 700,
        "usage:flat@2:sms": 300,
    }


def test_first_period_of_a_fraction_of_a_second_pays_its_base_once() -> None:
    """Small: a first period that is longer than a month was divided by whole seconds, and billed cents too many."""
    start, end = datetime(2026, 3, 31, 12, 0, 0, 900_000, tzinfo=UTC), MAY
    large = RatedPlanVersion("large@1", "Large", "USD", 10_000_000_000, 10_000_000_000, {})
    nominal = period_grid.nominal_seconds(start, end, 1, ZoneInfo("UTC"))
    segments = (ProratedSegment("large@1", start, end),)
    assert amounts(BillInputs(start, end, nominal, {"large@1": large}, segments)) == {"base:large@1": 10_000_000_000}


@given(st.integers(0, 5_000), st.integers(-2_000, 2_000))
def test_bill_is_never_negative_and_explains_itself(quantity: int, late_quantity: int) -> None:
    late = late_usage("starter@1", 2_000, late_quantity)
    draft = rating_bill.calculate_bill(bill([("free@1", APRIL)], used={"free@1": quantity}, late=(late,)))
    assert draft.total_minor >= 0
    assert draft.total_minor == sum(line.amount_minor for line in draft.lines)
    assert all(line.calculation["rule_version"] == 1 for line in draft.lines)
