"""Bills of an organization with many events: the same amounts, from statements whose work stays bounded."""

from typing import Any

import pytest
from flask import Flask

from saas_api.billing import current_period, period_close, periods
from saas_api.core import clock
from saas_api.usage import rollups
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.large_tables import ROWS, fill_ledger
from tests.support.query_plans import collect_scans


@pytest.fixture
def acme(context: Flask, superuser: Any) -> BillingOrganization:
    """An organization on Pro in April, with 20,000 SMS segments spread evenly over the month."""
    organization = create_organization(plan="pro@1")
    fill_ledger(superuser, organization.id)
    return organization


def change_plans(organization: BillingOrganization) -> None:
    """Scale for the second quarter of April, then Pro again; an event happens at each of the two instants."""
    organization.switch("scale@1", day(8, 12))
    organization.switch("pro@1", day(16))


def close_april(organization: BillingOrganization) -> None:
    clock.freeze_time(day(1, 2, month=5))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)


def test_segments_are_searched_once_and_not_for_every_event(app: Flask, acme: BillingOrganization) -> None:
    """F1: a quarter of the events is of the second plan; the event at the instant of a change is of the new plan."""
    change_plans(acme)
    with collect_scans(app, "subscription_segments") as scans:
        close_april(acme)
    assert scans
    assert sum(scan.loops for scan in scans) < 50
    quantities = acme.rows("""SELECT plan_version_id, sum(quantity)::int FROM invoice_lines
      WHERE kind = 'usage' GROUP BY 1 ORDER BY 1""")
    assert [tuple(row) for row in quantities] == [("pro@1", 3 * ROWS // 4), ("scale@1", ROWS // 4)]


def test_invoice_may_take_longer_than_a_request(app: Flask, acme: BillingOrganization) -> None:
    """F1: the ledger of a closed period is summed without the ten seconds that a request has."""
    with collect_scans(app, "usage_events") as scans:
        close_april(acme)
    assert {scan.timeout for scan in scans if scan.rows_read >= ROWS} == {"10min"}
    assert len(acme.invoices()) == 1


def test_preview_reads_rollups_and_costs_what_the_invoice_costs(app: Flask, acme: BillingOrganization) -> None:
    """F1: the bill that a person looks at does not read every event of the period."""
    rollups.rebuild_rollups()
    clock.freeze_time(day(30, 23))
    with collect_scans(app, "usage_events") as scans, acme.transaction() as session:
        running = current_period.read_current_period(session, acme.id)
    assert sum(scan.rows_read for scan in scans) < ROWS / 10
    close_april(acme)
    assert (running.requests, running.bill.total_minor) == (ROWS, acme.invoices()[0].total_minor)


def test_events_are_read_once_when_many_organizations_are_closed(app: Flask, acme: BillingOrganization) -> None:
    """A neighbour with many events costs only its own time, and whether they are late is not read from them."""
    others = [create_organization(f"Small{number}", plan="starter@1") for number in range(3)]
    clock.freeze_time(day(1, 2, month=5))
    periods.ensure_accounts(clock.now())
    with collect_scans(app, "usage_events") as scans:
        result = period_close.close_due(clock.now())
    assert (result.failed, len(result.invoices)) == ([], 1 + len(others))
    assert sum(scan.rows_read for scan in scans) == ROWS, scans
    assert {scan.timeout for scan in scans if scan.rows_read} == {"10min"}
