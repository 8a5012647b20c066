"""Usage from rollups and the tail equals that of the ledger, whichever plan was in force and whichever period pays."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import Actor
from saas_api.billing import bill_inputs, invariants, period_close, period_spend, subscriptions, usage_costs
from saas_api.billing.bill_inputs import LiveUsage
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.core import clock, time_zones
from saas_api.usage import range_quantities, rollups
from saas_api.usage.ranges import DateRange
from tests.support.billing import BillingOrganization, create_organization, day, publish_meter, publish_prices
from tests.support.billing_actions import close_periods, system_session
from tests.support.large_tables import ROWS, fill_ledger
from tests.support.query_plans import collect_scans

pytestmark = pytest.mark.usefixtures("context")
OLGA = Actor("system", "olga")
HALF_PAST = timedelta(minutes=30)


@pytest.fixture
def acme() -> BillingOrganization:
    """An organization on starter in April."""
    return create_organization(plan="starter@1")


def roll_up(organization: BillingOrganization) -> None:
    """Roll up until the tail is empty; other transactions of the cluster delay the watermark."""
    for _ in range(200):
        rollups.roll_up()
        if organization.rows("SELECT FROM usage_events, usage_watermark WHERE recorded_xid >= through_xid") == []:
            return
    pytest.fail("the watermark does not rise")


def read_live(organization: BillingOrganization, seq: int, segments: list[PlanSegment] | None = None) -> LiveUsage:
    """What a period pays for according to rollups, after a comparison with the ledger.

    segments: as if the subscription had them
    """
    with organization.transaction() as session:
        period = session.query(BillingPeriod).filter_by(seq=seq).one()
        chain = segments or subscriptions.list_segments(session, organization.id)
        live = bill_inputs.get_live_usage(session, period, chain)
        used = bill_inputs.list_usage(session, organization.id, period.id, segments)
        late = bill_inputs.list_late_usage(session, organization.id, period.id)
    assert sorted(live.used, key=str) == sorted(used, key=str)
    assert live.late == late
    return live


def by_version(usage: LiveUsage) -> dict[tuple[str, str], Decimal]:
    return {(used.version_id, used.meter): used.quantity for used in usage.used}


def change_plan(organization: BillingOrganization, plan: str, when: str = "now") -> None:
    with organization.transaction() as session:
        subscriptions.change_plan(session, organization.id, plan, when, OLGA)


def test_hour_with_two_plan_changes_counts_to_the_instant(acme: BillingOrganization) -> None:
    """The events at the instants of the changes are of the new plans."""
    for minute, plan in ((20, "pro"), (40, "scale")):
        acme.use(1, at=day(5, 9) + timedelta(minutes=minute, microseconds=-1))
        clock.freeze_time(day(5, 9) + timedelta(minutes=minute))
        change_plan(acme, plan)
        acme.use(10, at=clock.now())
    expected = {("starter@1", "sms"): 1, ("pro@1", "sms"): 11, ("scale@1", "sms"): 10}
    assert by_version(read_live(acme, 1)) == expected
    roll_up(acme)
    assert by_version(read_live(acme, 1)) == expected
    acme.use(100, at=day(5, 9) + timedelta(minutes=59))
    assert by_version(read_live(acme, 1)) == {**expected, ("scale@1", "sms"): 110}


def test_plan_change_moves_no_rolled_up_event(acme: BillingOrganization) -> None:
    """What was rolled up before the change stays with the old plan, in the hour of the change, too."""
    acme.use(3, at=day(5, 9))
    roll_up(acme)
    clock.freeze_time(day(5, 9) + HALF_PAST)
    change_plan(acme, "pro")
    acme.use(4, at=clock.now())
    roll_up(acme)
    assert by_version(read_live(acme, 1)) == {("starter@1", "sms"): 3, ("pro@1", "sms"): 4}


def test_events_dated_ahead_are_of_the_plan_that_begins_before_them() -> None:
    """A service's clock is two minutes ahead; the plan changes after its event was recorded and rolled up."""
    now = datetime.now(UTC)
    acme = create_organization(at=now - timedelta(hours=2), plan="starter@1")
    clock.freeze_time(None)
    acme.use(3, at=now - timedelta(minutes=1))
    acme.use(5, at=now + timedelta(minutes=2))
    roll_up(acme)
    assert acme.rows("SELECT count(*) FROM usage_events_ahead") == [(1,)]
    change_plan(acme, "pro")
    expected = {("starter@1", "sms"): 3, ("pro@1", "sms"): 5}
    assert by_version(read_live(acme, 1)) == expected
    with system_session() as session:  # its time is over
        session.execute(text("UPDATE usage_events_ahead SET occurred_at = occurred_at - interval '10 minutes'"))
    roll_up(acme)
    assert acme.rows("SELECT count(*) FROM usage_events_ahead") == [(0,)]
    assert acme.rows("SELECT sum(quantity), sum(event_count) FROM usage_rollups") == [(8, 2)]
    assert by_version(read_live(acme, 1)) == expected


def test_rebuild_keeps_events_dated_ahead_apart() -> None:
    acme = create_organization(at=datetime.now(UTC) - timedelta(hours=2))
    clock.freeze_time(None)
    acme.use(5, at=datetime.now(UTC) + timedelta(minutes=2))
    rollups.rebuild_rollups()
    assert rollups.rebuild_rollups(organization_id=acme.id).differences == 0
    assert acme.rows("SELECT count(*) FROM usage_rollups") == [(0,)]
    assert by_version(read_live(acme, 1)) == {("free@1", "sms"): 5}


def test_scheduled_and_canceled_plan_changes_divide_nothing(acme: BillingOrganization) -> None:
    clock.freeze_time(day(5, 9))
    change_plan(acme, "free", "period_end")
    acme.use(3, at=day(5, 9))
    roll_up(acme)
    change_plan(acme, "starter")
    assert by_version(read_live(acme, 1)) == {("starter@1", "sms"): 3}


def test_plan_that_replaces_others_from_the_start_of_a_period_has_all_its_usage(acme: BillingOrganization) -> None:
    """As a change of currency does; the period before was ended within an hour, with usage before and after."""
    acme.use(1, at=day(5, 9))
    clock.freeze_time(day(5, 9) + HALF_PAST)
    period_close.close_now(acme.id)
    acme.use(20, at=clock.now())
    clock.freeze_time(day(5, 9) + 1.5 * HALF_PAST)
    change_plan(acme, "pro")
    acme.use(300, at=clock.now())
    roll_up(acme)
    assert by_version(read_live(acme, 2)) == {("starter@1", "sms"): 20, ("pro@1", "sms"): 300}
    with acme.transaction() as session:
        session.execute(text("DELETE FROM subscription_segments WHERE seq > 1"))
        session.execute(text("UPDATE subscription_segments SET ends_at = NULL"))
    acme.switch("free@1", day(5, 9) + HALF_PAST)
    assert by_version(read_live(acme, 2)) == {("free@1", "sms"): 320}


def test_previewed_plan_divides_the_running_hour(acme: BillingOrganization) -> None:
    acme.use(3, at=day(5, 9))
    roll_up(acme)
    clock.freeze_time(day(5, 9) + HALF_PAST)
    acme.use(4, at=clock.now())
    segments = [PlanSegment("starter@1", day(1)), PlanSegment("pro@1", clock.now())]
    assert by_version(read_live(acme, 1, segments)) == {("starter@1", "sms"): 3, ("pro@1", "sms"): 4}


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_late_usage_and_reversals_of_closed_periods_equal_the_ledger(
    acme: BillingOrganization, *, is_rolled_up: bool
) -> None:
    """April has two plans; May pays for late usage of both, for a reversal, and so does June."""
    acme.switch("pro@1", day(16, 9) + HALF_PAST)
    events = [acme.use(7, at=at) for at in (day(16, 9), day(16, 9) + HALF_PAST)]
    close_periods(acme)
    for month in (5, 6):
        acme.use(month, at=day(16, 9), is_late=True)
        acme.use(10 * month, at=day(16, 9) + HALF_PAST, is_late=True)
        acme.reverse(events.pop())
        acme.use(2, at=day(2, month=month), is_late=True)
        if is_rolled_up:
            roll_up(acme)
        seq = month - 3
        [late] = read_live(acme, seq).late
        assert [(part.version_id, part.billed, part.quantity) for part in late.quantities] == (
            [("pro@1", 7, 50 - 7), ("starter@1", 7, 5)] if month == 5 else [("pro@1", 50, 60), ("starter@1", 12, 6 - 7)]
        )
        close_periods(acme, day(1, 2, month=month + 1))


def test_prices_by_dimension_divide_rollups_of_each_plan(acme: BillingOrganization) -> None:
    publish_meter("lookups", dimensions=["country"])
    one, two = ({"model": "per_unit", "unit_price": price} for price in "12")
    plan = publish_prices(
        "countries", {"lookups": {"by": {"dimension": "country", "values": {"NO": two}, "default": one}}}
    )
    for country in ("NO", "SE", "NO"):
        acme.use(1, "lookups", at=day(5, 9), properties={"country": country})
    acme.switch(plan, day(5, 9) + HALF_PAST)
    for country in ("NO", "SE", "NO"):
        acme.use(1, "lookups", at=day(5, 9) + HALF_PAST, properties={"country": country})
    roll_up(acme)
    assert len(read_live(acme, 1).used) == 3


def test_check_tells_of_rollups_of_another_plan_and_repairs_them(acme: BillingOrganization) -> None:
    """The sum over all plans is right, so only a comparison plan by plan finds it."""
    acme.switch("pro@1", day(16))
    acme.use(3, at=day(5))
    acme.use(4, at=day(20))
    roll_up(acme)
    assert not [result for result in invariants.check_invariants() if result.violations]
    with system_session() as session:
        session.execute(text("UPDATE usage_rollups SET bucket_at = bucket_at + interval '14 days' WHERE quantity = 3"))
    [found] = [result for result in invariants.check_invariants() if result.violations]
    assert found.check.name == "rollup.ledger"
    assert sorted(violation.what for violation in found.violations) == [
        "sms of a period on pro@1: rollups have 7.000000, the ledger 4.000000",
        "sms of a period on starter@1: rollups have 0, the ledger 3.000000",
    ]
    assert by_version(read_live(acme, 1)) == {("starter@1", "sms"): 3, ("pro@1", "sms"): 4}


def test_no_read_of_a_period_with_three_plans_reads_its_events(
    app: Flask, acme: BillingOrganization, superuser: Any
) -> None:
    """F4: calculate, spend, alerts, quotas and usage reports, with late usage in the period."""
    april = acme.rows("SELECT id FROM billing_periods")[0].id
    close_periods(acme)
    acme.switch("pro@1", day(3, 12, month=5))
    acme.switch("scale@1", day(9, 12, month=5))
    fill_ledger(superuser, acme.id, seq=2)
    acme.use(2, at=day(20), is_late=True)
    rollups.rebuild_rollups()
    clock.freeze_time(day(30, month=5))
    days = DateRange(day(1, month=5).date(), day(31, month=5).date(), time_zones.get_zone("UTC"))
    with collect_scans(app, "usage_events") as scans, acme.transaction() as session:
        period = session.query(BillingPeriod).filter_by(seq=2).one()
        segments = subscriptions.list_segments(session, acme.id)
        usage = bill_inputs.get_live_usage(session, period, segments)
        period_spend.get_base_and_prices(session, acme.id, period.id, "scale@1")
        usage_costs.usage_report(session, acme.id, days)
        range_quantities.list_range_quantities(session, acme.id, days)
        bill_inputs.usage_by_period(session, acme.id, [period], ["free@1"])
    assert sum(scan.rows_read for scan in scans) < ROWS / 100
    assert (usage.requests, [late.period_id for late in usage.late]) == (ROWS + 1, [april])
    read_live(acme, 2)
