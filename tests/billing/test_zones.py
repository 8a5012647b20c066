"""Periods of organizations that change their time zone, sign up on special days or are not closed for months."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import text

from saas_api.billing import jobs, period_close, service_terms
from saas_api.core import clock
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import system_session

pytestmark = pytest.mark.usefixtures("context")


def move(organization: BillingOrganization, zone: str) -> None:
    with system_session() as session:
        session.execute(
            text("UPDATE organizations SET timezone = :zone WHERE id = :id"), {"zone": zone, "id": organization.id}
        )


def bounds(organization: BillingOrganization) -> list[tuple[datetime, datetime, str]]:
    rows = organization.rows("SELECT starts_at, ends_at, timezone FROM billing_periods ORDER BY seq")
    return [tuple(row) for row in rows]


def test_period_that_has_begun_keeps_its_bounds_when_the_zone_changes() -> None:
    organization = create_organization()
    move(organization, "Asia/Tokyo")
    clock.freeze_time(day(15))
    jobs.close_periods()
    assert bounds(organization) == [(day(1), day(1, month=5), "UTC")]


def test_next_period_ends_in_the_new_zone() -> None:
    for name, moves_on in (("Early", day(10)), ("Late", day(29))):
        organization = create_organization(name)
        clock.freeze_time(moves_on)
        jobs.close_periods()
        move(organization, "Asia/Tokyo")
        clock.freeze_time(day(29, 1))
        jobs.close_periods()
        ends_at = datetime(2026, 5, 31, 15, tzinfo=UTC)
        assert bounds(organization)[1:] == [(day(1, month=5), ends_at, "Asia/Tokyo")]


def test_zone_changed_back_before_the_period_begins_changes_nothing() -> None:
    organization = create_organization()
    clock.freeze_time(day(29))
    jobs.close_periods()
    before = bounds(organization)
    for zone in ("Asia/Tokyo", "UTC"):
        move(organization, zone)
        jobs.close_periods()
    assert bounds(organization) == before


def test_zone_changes_across_the_date_line_leave_no_gap_or_overlap() -> None:
    organization = create_organization(at=day(1, month=1), plan="starter@1")
    for month, zone in enumerate(("Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu", "UTC"), start=1):
        clock.freeze_time(day(27, month=month))
        move(organization, zone)
        clock.freeze_time(day(3, month=month + 1))
        jobs.close_periods()
    periods = bounds(organization)
    assert all(earlier[1] == later[0] for earlier, later in pairwise(periods))
    assert all(timedelta(days=26) < ends_at - starts_at < timedelta(days=33) for starts_at, ends_at, _ in periods)
    totals = [invoice.total_minor for invoice in organization.invoices()]
    assert totals[0] == max(totals) == 2900  # a longer period costs one base price, a shorter one its share
    assert min(totals) > 2800


def test_february_with_a_leap_day_charges_one_base() -> None:
    start = datetime(2028, 2, 1, tzinfo=UTC)
    organization = create_organization(at=start, plan="starter@1")
    organization.use(5_100, at=datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC))
    at = datetime(2028, 3, 1, 2, tzinfo=UTC)
    clock.freeze_time(at)
    period_close.close_due(at)
    [(length,)] = organization.rows("SELECT ends_at - starts_at FROM billing_periods WHERE seq = 1")
    assert length == timedelta(days=29)
    assert organization.lines() == {"base:starter@1": 2900, "usage:starter@1:sms": 100}


@pytest.mark.parametrize(("zone", "hours"), [("Europe/Berlin", 743), ("America/New_York", 743), ("Asia/Kolkata", 744)])
def test_month_with_a_clock_change_charges_one_base(zone: str, hours: int) -> None:
    organization = create_organization(at=datetime(2026, 2, 10, tzinfo=UTC), plan="starter@1", zone=zone)
    clock.freeze_time(day(3))
    jobs.close_periods()
    _, march = organization.rows(
        "SELECT ends_at - starts_at FROM billing_periods WHERE state = 'invoiced' ORDER BY seq"
    )
    assert march == (timedelta(hours=hours),)
    assert organization.lines() == {"base:starter@1": 2900}


def test_missed_months_are_invoiced_with_their_own_usage() -> None:
    organization = create_organization(at=day(1, month=1), plan="starter@1")
    for month, quantity in ((1, 5_100), (2, 5_200), (3, 5_300)):
        clock.freeze_time(day(20, month=month))
        with organization.transaction() as session:
            service_terms.get_terms(
                session, organization.id
            )  # what a call would do: the period is opened where the scheduler has not
        organization.use(quantity)
    clock.freeze_time(day(2))
    jobs.close_periods()
    invoices = organization.invoices()
    assert [(invoice.serial, invoice.total_minor) for invoice in invoices] == [(1, 3000), (2, 3100), (3, 3200)]
    jobs.close_periods()
    assert len(organization.invoices()) == 3
