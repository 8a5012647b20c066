"""Previews of plan changes and simulations are equal to the invoices that follow."""

import threading
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import Actor
from saas_api.billing import current_period, period_close, previews, subscriptions
from saas_api.billing.subscriptions import AlreadyOnPlan, PlanChange
from saas_api.core import clock
from tests.support.accounts import User
from tests.support.billing import BillingOrganization, create_organization, day

pytestmark = pytest.mark.usefixtures("context")
USER = Actor("user", "alice")
SIMULATE = "/api/v1/billing/simulate"


def close(at: Any) -> int:
    """The total of the invoice that closing at an instant writes."""
    clock.freeze_time(at)
    [item] = period_close.close_due(at).invoices
    return item.invoice.total_minor


def preview(organization: BillingOrganization, plan: str, when: str | None = None) -> PlanChange:
    with organization.transaction() as session:
        return subscriptions.preview_change(session, organization.id, plan, when)


def change(organization: BillingOrganization, plan: str, when: str | None = None) -> PlanChange:
    with organization.transaction() as session:
        return subscriptions.change_plan(session, organization.id, plan, when, USER)


@pytest.mark.parametrize("start", ["free@1", "starter@1", "scale@1"])
@pytest.mark.parametrize("plan", ["free", "starter", "pro", "scale"])
@pytest.mark.parametrize("when", ["now", "period_end"])
def test_plan_change_is_invoiced_as_previewed(start: str, plan: str, when: str) -> None:
    organization = create_organization(plan=start)
    organization.use(8_333, at=day(4))
    clock.freeze_time(day(17, 13))
    organization.use(51_777, "email", at=day(17, 12))
    if start == f"{plan}@1":
        with pytest.raises(AlreadyOnPlan):
            preview(organization, plan, when)
        return
    previewed = preview(organization, plan, when)
    changed = change(organization, plan, when)
    assert (changed.differences, changed.total_minor, changed.after) == (
        previewed.differences,
        previewed.total_minor,
        previewed.after,
    )
    assert sum(difference.amount_minor for difference in changed.differences) == changed.total_minor
    assert close(day(1, 2, month=5)) == previewed.after.total_minor


def test_preview_stores_nothing() -> None:
    organization = create_organization(plan="starter@1")
    before = organization.rows("SELECT * FROM subscription_segments")
    preview(organization, "pro")
    assert organization.rows("SELECT * FROM subscription_segments") == before
    assert organization.rows("SELECT * FROM audit_events") == []


def test_plan_change_and_return_are_invoiced_as_previewed() -> None:
    organization = create_organization()
    organization.use(900, at=day(2))
    clock.freeze_time(day(11))
    change(organization, "starter")
    organization.use(5_500, at=day(12))
    clock.freeze_time(day(21))
    previewed = preview(organization, "free", "now")
    change(organization, "free", "now")
    assert close(day(1, 2, month=5)) == previewed.after.total_minor == 967 + 500


@pytest.mark.parametrize("plans", [("starter", "pro"), ("pro", "pro"), ("scale", "free"), ("starter", "scale")])
def test_concurrent_plan_changes_leave_one_chain_of_segments(app: Flask, plans: tuple[str, str]) -> None:
    organization = create_organization(plan="starter@1" if "free" in plans else "free@1")
    clock.freeze_time(day(16))
    start, outcomes = threading.Barrier(2), []

    def run(plan: str) -> None:
        with app.app_context():
            start.wait()
            try:
                outcomes.append(change(organization, plan, "now").version.id)
            except AlreadyOnPlan:
                outcomes.append("same")

    threads = [threading.Thread(target=run, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 2
    rows = organization.rows("SELECT * FROM subscription_segments ORDER BY seq")
    assert [row.seq for row in rows] == [1, 2]
    assert rows[0].ends_at == rows[1].starts_at == day(16)
    assert rows[1].ends_at is None
    assert rows[1].plan_version_id == [outcome for outcome in outcomes if outcome != "same"][-1]
    assert ("same" in outcomes) == (plans[0] == plans[1])
    assert len(organization.rows("SELECT * FROM audit_events")) == 2 - outcomes.count("same")


def test_plan_change_that_waited_sees_the_other_change(app: Flask) -> None:
    organization = create_organization()
    clock.freeze_time(day(16))
    done: list[str] = []

    def run() -> None:
        with app.app_context():
            done.append(change(organization, "scale").previous)

    with organization.transaction() as session:
        subscriptions.change_plan(session, organization.id, "pro", None, USER)
        waiting = threading.Thread(target=run)
        waiting.start()
        waiting.join(0.5)
        assert not done
    waiting.join(30)
    assert done == ["pro@1"]


def simulate(organization: BillingOrganization, *arguments: Any) -> dict[str, int]:
    with organization.transaction() as session:
        simulations = previews.simulate_plans(session, organization.id, *arguments)
        return {simulation.plan: simulation.total_minor for simulation in simulations}


def test_simulation_of_the_current_period_equals_its_forecast() -> None:
    organization = create_organization(plan="starter@1")
    organization.use(8_050, at=day(3))
    organization.use(62_345, "email", at=day(3))
    clock.freeze_time(day(9))
    with organization.transaction() as session:
        forecast = current_period.read_current_period(session, organization.id).bill.total_minor
    totals = simulate(organization, None)
    assert totals == {"free": 7050 + 6135, "starter": 7185, "pro": 9900 + 4025 + 3117, "scale": 49_900 + 3220 + 2494}
    assert totals["starter"] == forecast


def test_past_periods_are_simulated_from_their_usage_including_late() -> None:
    organization = create_organization(plan="starter@1", at=day(1, month=3))
    organization.use(6_000, at=day(5, month=3))
    billed = close(day(1, 2))
    organization.use(500, at=day(20, month=3), is_late=True)
    organization.use(5_007, at=day(1, 2))
    assert simulate(organization, ["starter"], 1) == {"starter": billed + 500}
    assert simulate(organization, ["starter", "free"], 12) == {"free": 5500, "starter": 4400}
    assert simulate(organization, ["starter"], 0) == {"starter": 2907}


def test_given_quantities_are_a_whole_month_even_after_a_late_sign_up(client: FlaskClient, alice: User) -> None:
    body = {"plans": ["scale", "pro"], "quantities": {"sms": 100_002, "email": "1.5"}}
    response = client.post(SIMULATE, json=body, headers=alice.headers)
    assert response.status_code == 200, response.json
    plans = {plan["plan"]: plan["total_amount"] for plan in response.json["data"]["plans"]}
    assert plans == {"pro": "599.01", "scale": "899.01"}


@pytest.mark.parametrize(
    ("body", "code", "fields"),
    [
        ({"plans": ["pro", "gold"]}, "INVALID_PLAN", {"plans.1"}),
        ({"plans": []}, "VALIDATION_ERROR", {"plans"}),
        ({"periods": 13}, "VALIDATION_ERROR", {"periods"}),
        ({"periods": -1}, "VALIDATION_ERROR", {"periods"}),
        ({"periods": "1"}, "VALIDATION_ERROR", {"periods"}),
        ({"periods": 1, "quantities": {"sms": 1}}, "VALIDATION_ERROR", {"periods"}),
        ({"quantities": {}}, "VALIDATION_ERROR", {"quantities"}),
        ({"quantities": {"fax": 1}}, "VALIDATION_ERROR", {"quantities.fax"}),
        (
            {"quantities": {"sms": -1, "email": 1.5}},
            "VALIDATION_ERROR",
            {"quantities.sms", "quantities.email"},
        ),
        ({"quantities": {"sms": "1e9"}}, "VALIDATION_ERROR", {"quantities.sms"}),
        ({"quantities": {"sms": 10**13}}, "VALIDATION_ERROR", {"quantities.sms"}),
        ({"quantities": {"sms": True}}, "VALIDATION_ERROR", {"quantities.sms"}),
    ],
)
def test_invalid_simulation_is_rejected(
    client: FlaskClient, alice: User, body: dict[str, Any], code: str, fields: set[str]
) -> None:
    response = client.post(SIMULATE, json=body, headers=alice.headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, code)
    assert {problem["field"] for problem in response.json["error"]["details"]["fields"]} == fields


def test_simulation_reads_only_own_usage() -> None:
    acme, other = create_organization(plan="starter@1"), create_organization("Other")
    acme.use(5_100, at=day(1))
    with other.transaction() as session:
        [simulated] = previews.simulate_plans(session, other.id, ["starter"])
        assert simulated.total_minor == 2900
        session.execute(text("DELETE FROM subscription_segments WHERE organization_id = :id"), {"id": acme.id})
    assert len(acme.rows("SELECT * FROM subscription_segments")) == 1
