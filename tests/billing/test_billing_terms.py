"""Billing day, payment terms and review of drafts, which operators set for one organization."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from saas_api.accounts.audit import Actor
from saas_api.billing import billing_terms, periods, subscriptions
from saas_api.billing.billing_terms import BillingTerms
from saas_api.billing.models import BillingStanding
from saas_api.billing.subscriptions import UpgradeRestricted
from saas_api.core import clock
from saas_api.core.errors import ValidationFailed
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import OPERATOR, audit_actions, close_periods, system_session

MEMBER = Actor("user", "00000000-0000-7000-8000-000000000001")


def set_terms(organization: BillingOrganization, **terms: Any) -> BillingTerms:
    with system_session() as session:
        return billing_terms.set_billing_terms(session, organization.id, OPERATOR, **terms)


def bounds(organization: BillingOrganization) -> list[Any]:
    rows = organization.rows("SELECT starts_at, ends_at FROM billing_periods ORDER BY seq")
    return [(row.starts_at, row.ends_at) for row in rows]


def test_billing_day_ends_the_coming_period_on_the_new_day(context: Flask) -> None:
    """B15: on the 10th of April the 15th is agreed; April keeps its bounds, 14 days follow, then whole months."""
    organization = create_organization(plan="starter@1")
    clock.freeze_time(day(10))
    set_terms(organization, billing_day=15)
    assert bounds(organization) == [(day(1), day(1, month=5)), (day(1, month=5), day(15, month=5))]
    totals = [
        close_periods(organization, at).total_minor
        for at in (day(1, 2, month=5), day(15, 2, month=5), day(15, 2, month=6))
    ]
    assert totals == [2900, 1353, 2900]  # 14 of the 30 days from 15 April to 15 May
    assert bounds(organization)[2] == (day(15, month=5), day(15, month=6))


def test_change_of_zone_keeps_the_short_period_of_a_new_billing_day(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    set_terms(organization, billing_day=15)
    with system_session() as session:
        session.execute(periods.text("UPDATE organizations SET timezone = 'Asia/Kolkata'"))
    periods.ensure_accounts(clock.now())
    assert bounds(organization)[1] == (day(1, month=5), day(14, 18, month=5) + timedelta(minutes=30))


def test_payment_terms_count_for_later_invoices(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    first = close_periods(organization)
    set_terms(organization, net_terms_days=30)
    second = close_periods(organization, day(1, 2, month=6))
    assert (first.due_at - first.finalized_at).days == 7
    assert (second.due_at - second.finalized_at).days == 30


def test_invoices_wait_for_a_review_until_it_ends(context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    set_terms(organization, review_drafts=True)
    assert close_periods(organization).state == "draft"
    set_terms(organization, review_drafts=False)
    assert close_periods(organization, day(1, 2, month=6)).state == "open"
    assert audit_actions(organization).count("billing_terms.changed") == 2


@pytest.mark.parametrize(
    "terms",
    [{"billing_day": 0}, {"billing_day": 32}, {"net_terms_days": -1}, {"net_terms_days": 91}, {"billing_day": 1}, {}],
)
def test_terms_out_of_bounds_or_without_a_change_are_refused(context: Flask, terms: dict[str, Any]) -> None:
    organization = create_organization()
    with pytest.raises(ValidationFailed):
        set_terms(organization, **terms)


def test_restricted_organization_cannot_upgrade_but_downgrade(context: Flask) -> None:
    """B15: a member of a restricted organization gets UPGRADE_RESTRICTED; an operator may still change the plan."""
    organization = create_organization(plan="starter@1")
    with system_session() as session:
        session.execute(periods.text("UPDATE subscriptions SET standing = 'restricted'"))
    for when in ("now", "period_end"):
        with pytest.raises(UpgradeRestricted), organization.transaction() as session:
            subscriptions.change_plan(session, organization.id, "pro", when, MEMBER)
        with pytest.raises(UpgradeRestricted), organization.transaction() as session:
            subscriptions.preview_change(session, organization.id, "pro", when)
    with organization.transaction() as session:
        subscriptions.change_plan(session, organization.id, "free", None, MEMBER)
        subscriptions.change_plan(session, organization.id, "starter", None, MEMBER)
    with system_session() as session:
        change = subscriptions.change_plan(session, organization.id, "pro", "now", OPERATOR.actor)
    assert (change.plan, change.subscription.standing) == ("pro", BillingStanding.RESTRICTED)
