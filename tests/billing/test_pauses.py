"""Suspension by an operator: neither base nor minimum is charged for its time, usage is."""

from datetime import datetime
from typing import Any

import pytest
from flask import Flask

from saas_api.admin import organization_actions
from saas_api.billing import current_period, pauses, period_close, period_spend, previews
from saas_api.billing.rating import plan_changes
from saas_api.billing.rating.bill import ProratedSegment
from saas_api.billing.rating.plan_changes import Pause
from saas_api.core import clock
from tests.support.billing import BillingOrganization, create_organization, day, publish_plan
from tests.support.billing_actions import MAY, OPERATOR, close_periods
from tests.support.console import REASON

OPERATOR_WITH_REASON = type(OPERATOR)(OPERATOR.actor, REASON)


def suspend(organization: BillingOrganization, at: datetime) -> None:
    clock.freeze_time(at)
    organization_actions.suspend(OPERATOR_WITH_REASON, organization.id)


def resume(organization: BillingOrganization, at: datetime) -> None:
    clock.freeze_time(at)
    organization_actions.resume(OPERATOR_WITH_REASON, organization.id)


def test_base_is_not_charged_while_suspended(context: Flask) -> None:
    """B15: starter at 29.00, suspended from 6 to 16 April, pays for 20 of 30 days."""
    organization = create_organization(plan="starter@1")
    organization.use(5_305, at=day(2))
    suspend(organization, day(6))
    resume(organization, day(16))
    assert close_periods(organization).total_minor == 1933 + 305
    assert organization.lines() == {"base:starter@1": 1933, "usage:starter@1:sms": 305}


def test_period_that_is_suspended_throughout_costs_nothing(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    suspend(organization, day(21))
    assert close_periods(organization).total_minor == 1933
    assert close_periods(organization, day(1, 2, month=6)).total_minor == 0
    assert organization.lines() == {}
    resume(organization, day(16, month=6))
    assert close_periods(organization, day(1, 2, month=7)).total_minor == 1450


def test_minimum_counts_for_the_time_outside_a_suspension(context: Flask) -> None:
    clock.freeze_time(day(1))
    publish_plan("studio", minimum="100.00")
    organization = create_organization(plan="studio@1")
    suspend(organization, day(16))
    assert close_periods(organization).total_minor == 5000


def test_plan_change_in_a_suspension_is_charged_from_its_end(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    suspend(organization, day(11))
    organization.switch("pro@1", day(16))
    resume(organization, day(21))
    close_periods(organization)
    assert organization.lines() == {"base:starter@1": 967, "base:pro@1": 3300}


def test_preview_cap_and_invoice_agree_about_a_suspension(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    suspend(organization, day(6))
    clock.freeze_time(day(16))
    with organization.transaction() as session:
        running = current_period.read_current_period(session, organization.id)
        final = previews.preview_final_bill(session, running)
        [period] = organization.rows("SELECT id FROM billing_periods WHERE seq = 1")
        spend = period_spend.get_period_spend(session, organization.id, period.id)
    assert (final.total_minor, running.bill.total_minor, spend.base_minor) == (483, 483, 483)
    [item] = period_close.close_now(organization.id).invoices
    assert item.invoice.total_minor == 483


def test_suspension_that_ends_at_once_leaves_no_pause(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    suspend(organization, day(6))
    resume(organization, day(6))
    with organization.transaction() as session:
        assert pauses.list_pauses(session, organization.id) == []
    assert close_periods(organization, MAY).total_minor == 2900


A, B = ProratedSegment("a@1", day(1), day(11)), ProratedSegment("b@1", day(11), day(21))


@pytest.mark.parametrize(
    ("paused", "charged"),
    [
        ([], [("a@1", 1, 11), ("b@1", 11, 21)]),
        ([(5, 6)], [("a@1", 1, 5), ("a@1", 6, 11), ("b@1", 11, 21)]),
        ([(5, 15)], [("a@1", 1, 5), ("b@1", 15, 21)]),
        ([(15, None)], [("a@1", 1, 11), ("b@1", 11, 15)]),
        ([(11, None)], [("a@1", 1, 11), ("b@1", 21, 21)]),
        ([(1, 21)], [("b@1", 21, 21)]),
        ([(2, 4), (3, None), (15, None)], [("a@1", 1, 2), ("b@1", 21, 21)]),
    ],
)
def test_pauses_are_taken_out_of_segments(paused: list[Any], charged: list[Any]) -> None:
    given = [Pause(day(start), end and day(end)) for start, end in paused]
    parts = plan_changes.exclude_pauses((A, B), given)
    assert [(part.version_id, part.starts_at.day, part.ends_at.day) for part in parts] == charged
