"""Reports and time series of meters that do not add up, and costs by dimension."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from saas_api.billing import bill_inputs, current_period, invariants, period_spend, usage_costs
from saas_api.core import clock, time_zones
from saas_api.usage import rollups
from saas_api.usage.ranges import DateRange
from tests.support.billing import BillingOrganization, create_organization, day, publish_meter, publish_prices

pytestmark = pytest.mark.usefixtures("context")
APRIL = DateRange(day(1).date(), day(30).date(), time_zones.get_zone("UTC"))
METERS = {"peak": "max", "seats": "latest", "people": "unique", "calls": "count"}


@pytest.fixture(params=[False, True], ids=["tail", "rolled up"])
def acme(request: pytest.FixtureRequest) -> BillingOrganization:
    """Three days of April: peaks of 4, 9 and 2, seats of 7, 5 and 3, Ann twice and Ben; two events on 2 April."""
    for code, aggregation in METERS.items():
        publish_meter(code, aggregation)
    prices = {meter: {"model": "per_unit", "unit_price": "1"} for meter in METERS}
    organization = create_organization(plan=publish_prices("every", prices))
    uses = [(day(2), 4, 7, "ann"), (day(2, 5), 9, 5, "ben"), (day(4), 2, 3, "ann")]
    for at, peak, seats, person in uses:
        organization.use(peak, "peak", at=at)
        organization.use(seats, "seats", at=at)
        organization.use(1, "people", at=at, unique_value=person)
        organization.use(1, "calls", at=at)
    organization.reverse(organization.use(99, "peak", at=day(3)))
    clock.freeze_time(day(20))
    if request.param:
        rollups.rebuild_rollups()
    return organization


def points(organization: BillingOrganization, meter: str, **query: Any) -> dict[Any, dict[int, Decimal]]:
    """Quantities by group and day; points without calls are left out."""
    full = {"interval": "day", "meter": meter, "mode": "live", "group_by": None, **query}
    with organization.transaction() as session:
        series = usage_costs.usage_series(session, organization.id, APRIL, full)
    return {group: {one.date.day: one.quantity for one in own if one.requests} for group, own in series.items()}


def test_report_of_a_range_counts_each_meter_in_its_way(acme: BillingOrganization) -> None:
    with acme.transaction() as session:
        report = usage_costs.usage_report(session, acme.id, APRIL)
    assert {usage.meter: usage.quantity for usage in report.by_meter} == {
        "peak": 9,
        "seats": 3,
        "people": 2,
        "calls": 3,
    }
    assert (report.total_cost_minor, report.total.success_count) == (1_700, 13)
    assert report.total.cost == 3  # a call of a meter that does not add up has no price of its own


def test_charges_of_adjacent_ranges_add_up(acme: BillingOrganization) -> None:
    """The highest value is reached on 2 April; the seats of 4 April are fewer than those of 2 April."""
    first, rest = DateRange(APRIL.first, day(3).date(), APRIL.zone), DateRange(day(4).date(), APRIL.last, APRIL.zone)
    with acme.transaction() as session:
        costs = [usage_costs.usage_report(session, acme.id, days).total_cost_minor for days in (first, rest)]
    assert costs == [900 + 500 + 200 + 200, 0 - 200 + 0 + 100]


def test_points_are_the_values_of_their_day(acme: BillingOrganization) -> None:
    assert points(acme, "peak") == {None: {2: 9, 3: 0, 4: 2}}
    assert points(acme, "seats") == {None: {2: 5, 4: 3}}
    assert points(acme, "people") == {None: {2: 2, 4: 1}}
    assert points(acme, "calls") == {None: {2: 2, 4: 1}}
    assert points(acme, "people", group_by="source") == {"messages.send": {2: 2, 4: 1}}


def test_total_of_grouped_series_is_not_their_sum(acme: BillingOrganization) -> None:
    """Ann is recorded under two endpoints on one day and is one person."""
    acme.use(1, "people", at=day(4), unique_value="ann", endpoint="GET /v1/people")
    query = {"interval": "day", "meter": "people", "mode": "live", "group_by": "source"}
    with acme.transaction() as session:
        series = usage_costs.usage_series(session, acme.id, APRIL, query)
        total = usage_costs.total_series(session, acme.id, APRIL, query, series)
    assert [own[3].quantity for own in series.values()] == [1, 1]
    assert (total[3].quantity, total[3].requests) == (1, 2)


def test_rows_of_the_csv_have_the_value_of_their_group(acme: BillingOrganization) -> None:
    with acme.transaction() as session:
        rows = list(usage_costs.usage_rows(session, acme.id, APRIL, "live"))
    quantities = {(row[0].day, row[4]): (row[5], row[7]) for row in rows}
    assert quantities[2, "peak"] == (9, 2)
    assert quantities[2, "seats"] == (5, 2)
    assert quantities[2, "people"] == (2, 2)
    assert quantities[4, "peak"] == (2, 1)


def test_plan_change_within_an_hour_keeps_its_quantities(acme: BillingOrganization) -> None:
    prices = {"peak": {"model": "per_unit", "unit_price": "1"}}
    acme.switch(publish_prices("other", prices), day(6) + timedelta(minutes=30))
    acme.use(6, "peak", at=day(6) + timedelta(minutes=45))
    with acme.transaction() as session:
        rows = list(usage_costs.usage_rows(session, acme.id, APRIL, "live"))
    assert [row[5] for row in rows if row[0] == day(6).date()] == [6]


def test_recent_usage_is_counted_under_each_plan_that_is_compared(acme: BillingOrganization) -> None:
    with acme.transaction() as session:
        used = bill_inputs.recent_usage(session, acme.id, APRIL, ["every@1", "every@1", ""])
    quantities = {"peak": 9, "seats": 3, "people": 2, "calls": 3}
    assert set(used) == {"every@1", ""}
    assert all({one.meter: one.quantity for one in own} == quantities for own in used.values())


def test_forecast_multiplies_only_meters_that_add_up(acme: BillingOrganization) -> None:
    clock.freeze_time(day(16))
    with acme.transaction() as session:
        account = current_period.find_account(session, acme.id, clock.now())
        assert account is not None
        forecast = current_period.get_current_period(session, account, clock.now()).forecast
    assert {line.meter: line.quantity for line in forecast.lines} == {"peak": 9, "seats": 3, "people": 2, "calls": 6}


def test_nightly_check_rolls_up_dimensions_that_a_meter_has_got_later(acme: BillingOrganization) -> None:
    acme.use(4, "calls", at=day(5), properties={"model": "small"})
    rollups.rebuild_rollups()
    publish_meter("calls", "count", ["model"])
    small = {"model": "per_unit", "unit_price": "5"}
    by = {"dimension": "model", "values": {"small": small}, "default": {**small, "unit_price": "1"}}
    acme.switch(publish_prices("every", {"calls": {"by": by}}), day(1))
    [broken] = [result for result in invariants.check_invariants() if result.violations]
    assert broken.check.name == "rollup.ledger"
    with acme.transaction() as session:
        [(period_id,)] = acme.rows("SELECT id FROM billing_periods WHERE seq = 1")
        assert period_spend.get_period_spend(session, acme.id, period_id).charge == 2_000 + 300
