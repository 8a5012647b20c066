"""Minimums, included quantities over plan versions, and late usage, as invoices, previews and counters have them."""

from decimal import Decimal
from typing import Any

import pytest

from saas_api.accounts.audit import Actor
from saas_api.billing import (
    current_period,
    invariants,
    invoice_lifecycle,
    period_close,
    period_spend,
    previews,
    service_terms,
    subscriptions,
    usage_costs,
)
from saas_api.billing.credit_notes import CreditExceedsInvoice
from saas_api.core import clock, time_zones
from saas_api.usage.ranges import DateRange
from tests.support.billing import (
    BillingOrganization,
    create_organization,
    day,
    publish_included_sms,
    publish_plan,
)
from tests.support.billing_actions import OPERATOR, close_periods, create_credit_note, newest_invoice, system_session
from tests.support.dunning import DunnedOrganization, run_dunning_on

pytestmark = pytest.mark.usefixtures("context")
USER = Actor("user", "alice")
APRIL_CLOSED, MAY_CLOSED, JUNE_CLOSED = day(1, 2), day(1, 2, month=5), day(1, 2, month=6)


def change_plan(organization: BillingOrganization, plan: str, at: Any) -> None:
    clock.freeze_time(at)
    with organization.transaction() as session:
        subscriptions.change_plan(session, organization.id, plan, "now", USER)


def studio_with_late_usage(billed: int, late: int) -> BillingOrganization:
    """On a plan with a minimum of 100.00 since March, whose usage was recorded partly in April."""
    publish_plan("studio", minimum="100.00")
    organization = create_organization(at=day(1, month=3), plan="studio@1")
    organization.use(billed, at=day(10, month=3))
    close_periods(organization, APRIL_CLOSED)
    organization.use(late, at=day(20, month=3), is_late=True)
    return organization


def violations(organization: BillingOrganization) -> list[str]:
    results = invariants.check_invariants(organization.id)
    return [violation.what for result in results for violation in result.violations]


def test_late_usage_costs_the_same_in_preview_forecast_simulation_and_invoice() -> None:
    """B4: the simulation of March said 0.00 more, the preview of April 30.00."""
    organization = studio_with_late_usage(5_000, 3_000)
    organization.use(12_000, at=day(1, 2))
    clock.freeze_time(day(20))
    with organization.transaction() as session:
        [march] = previews.simulate_plans(session, organization.id, ["studio"], 1)
        running = current_period.read_current_period(session, organization.id)
        final = previews.preview_final_bill(session, running)
    [drafted] = period_close.preview_due(MAY_CLOSED, organization.id)
    invoice = close_periods(organization, MAY_CLOSED)
    assert march.total_minor == 10_000
    assert final.total_minor == running.bill.total_minor == drafted.invoice.total_minor == 12_000
    assert invoice.total_minor == 12_000
    assert violations(organization) == []


def test_spend_of_the_period_counts_late_usage_as_the_invoice_does() -> None:
    organization = studio_with_late_usage(5_000, 8_000)
    with organization.transaction() as session:
        period_id = service_terms.get_terms(session, organization.id).period_id
        spent = period_spend.get_period_spend(session, organization.id, period_id)
    assert (spent.base_minor, spent.charge) == (0, Decimal(3_000))


def test_change_to_free_in_the_last_hour_pays_the_minimum() -> None:
    """B5: minimum 500.00, 10.00 used: 10.00 were invoiced instead of 499.31."""
    publish_plan("studio", minimum="500.00")
    organization = create_organization(plan="studio@1")
    organization.use(1_000, at=day(5))
    clock.freeze_time(day(30, 23))
    with organization.transaction() as session:
        previewed = subscriptions.preview_change(session, organization.id, "free", "now")
    change_plan(organization, "free", day(30, 23))
    invoice = close_periods(organization, MAY_CLOSED)
    assert invoice.total_minor == previewed.after.total_minor == 49_931
    assert violations(organization) == []


def test_write_off_pays_the_minimum_until_then() -> None:
    """B5: the write-off moves to free, which took the minimum of the running period away."""
    publish_plan("studio", minimum="300.00")
    organization = create_organization(plan="studio@1")
    invoice = close_periods(organization, MAY_CLOSED)
    dunned = DunnedOrganization(organization.id, invoice.id, invoice.due_at)
    run_dunning_on(dunned, 0, 3, 5, 7, 10, 14)
    close_periods(organization, JUNE_CLOSED)
    assert "write_off" in run_dunning_on(dunned, 30)
    left_at = clock.now()
    close_periods(organization, day(1, 2, month=7))
    whole, in_force = day(1, month=7) - day(1, month=6), left_at - day(1, month=6)
    assert newest_invoice(organization).total_minor == round(30_000 * (in_force / whole))


def test_new_version_in_the_month_gives_its_included_quantity_once() -> None:
    """B12: free@1 and free@2 with 1,000 sms each gave 2,000 in one month."""
    organization = create_organization()
    organization.use(1_000, at=day(2))
    publish_included_sms("free", 3_000)
    publish_included_sms("free", 1_000)
    change_plan(organization, "free", day(16))
    organization.use(1_000, at=day(17))
    clock.freeze_time(day(20))
    april = DateRange(day(1).date(), day(30).date(), time_zones.get_zone("UTC"))
    with organization.transaction() as session:
        period_id = service_terms.get_terms(session, organization.id).period_id
        spent = period_spend.get_period_spend(session, organization.id, period_id)
        cap = service_terms.get_terms(session, organization.id).cap
        report = usage_costs.usage_report(session, organization.id, april)
    invoice = close_periods(organization, MAY_CLOSED)
    assert organization.lines() == {"usage:free@1:sms": 0, "usage:free@3:sms": 1_000}
    assert invoice.total_minor == spent.charge == report.total_cost_minor == 1_000
    assert [meter.included for meter in report.by_meter] == [1_000]
    assert cap is not None
    assert cap.prices["sms"].included_quantity == 0
    assert violations(organization) == []


def test_late_usage_on_the_first_version_takes_included_quantity_from_the_second() -> None:
    """B12: late usage uses up what another version of the plan had used free of charge."""
    organization = create_organization(at=day(1, month=3))
    organization.use(300, at=day(2, month=3))
    publish_included_sms("free", 3_000)
    publish_included_sms("free", 1_000)
    change_plan(organization, "free", day(16, month=3))
    organization.use(700, at=day(17, month=3))
    assert close_periods(organization, APRIL_CLOSED).total_minor == 0
    organization.use(50, at=day(3, month=3), is_late=True)
    assert close_periods(organization, MAY_CLOSED).total_minor == 50
    assert violations(organization) == []


def billed_then_failed(*, credit_minor: int) -> BillingOrganization:
    """25.00 of sms in March, of which a credit note returned some, and 20.00 failed in April."""
    organization = create_organization(at=day(1, month=3))
    organization.use(1_500, at=day(10, month=3))
    failed = organization.use(2_000, at=day(11, month=3))
    invoice = close_periods(organization, APRIL_CLOSED)
    create_credit_note(organization, invoice.id, amount_minor=credit_minor)
    organization.reverse(failed)
    return organization


@pytest.mark.parametrize(("credited", "returned"), [(500, 1_500), (2_000, 0), (2_500, 0)])
def test_reversal_does_not_return_what_a_credit_note_returned(credited: int, returned: int) -> None:
    """Small: the same amount came back by a credit note and by a later reversal of the same usage."""
    organization = billed_then_failed(credit_minor=credited)
    close_periods(organization, MAY_CLOSED)
    assert sum(amount for key, amount in organization.lines().items() if key.startswith("late")) == -returned
    assert violations(organization) == []


def test_credit_note_is_taken_into_account_once() -> None:
    organization = billed_then_failed(credit_minor=500)
    close_periods(organization, MAY_CLOSED)
    [first] = organization.rows("SELECT * FROM usage_events WHERE quantity = 1500")
    organization.reverse(first)
    close_periods(organization, JUNE_CLOSED)
    assert organization.lines() == {f"late:{first.billing_period_id}:free@1:sms": -500, "carry": 500}


def test_credit_note_returns_nothing_that_a_reversal_returned() -> None:
    """Small: the other order, a reversal of 20.00 and then a credit note on the same line of 25.00."""
    organization = create_organization(at=day(1, month=3))
    organization.use(1_500, at=day(10, month=3))
    failed = organization.use(2_000, at=day(11, month=3))
    invoice = close_periods(organization, APRIL_CLOSED)
    organization.reverse(failed)
    close_periods(organization, MAY_CLOSED)
    with pytest.raises(CreditExceedsInvoice):
        create_credit_note(organization, invoice.id, amount_minor=501)
    assert create_credit_note(organization, invoice.id).total_minor == 500


def test_reversal_of_usage_on_a_void_invoice_returns_nothing() -> None:
    organization = create_organization(at=day(1, month=3))
    failed = organization.use(2_000, at=day(11, month=3))
    invoice = close_periods(organization, APRIL_CLOSED)
    with system_session() as session:
        invoice_lifecycle.void_invoice(session, organization.id, invoice.id, OPERATOR)
    organization.reverse(failed)
    close_periods(organization, MAY_CLOSED)
    assert sum(organization.lines().values()) == 0
    assert organization.rows("SELECT * FROM credit_grants") == []
    assert violations(organization) == []
