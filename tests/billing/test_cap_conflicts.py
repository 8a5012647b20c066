"""A spend cap below what a plan costs: refused when it is set, and confirmed when the plan changes."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.accounts import User
from tests.support.billing import BillingOrganization, day
from tests.support.currencies import LAGOS, publish, start_in_april
from tests.support.pages import Browser

BILLING = "/api/v1/billing"


@pytest.fixture
def acme(app: Flask, alice: User) -> BillingOrganization:
    return start_in_april(app, alice)


def post(client: FlaskClient, user: User, path: str, **body: Any) -> Any:
    return client.post(f"{BILLING}/{path}", json=body, headers=user.headers)


def set_cap(client: FlaskClient, user: User, amount: str, action: str = "block") -> Any:
    return client.put(f"{BILLING}/spend-cap", json={"amount": amount, "action": action}, headers=user.headers)


def reason(response: Any) -> str:
    assert response.status_code == 422, response.json
    return str(response.json["error"]["details"]["fields"][0]["reason"])


@pytest.mark.parametrize("when", ["now", "period_end"])
def test_change_that_the_cap_would_block_is_confirmed(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, when: str
) -> None:
    """B11: an own cap of 120 and an upgrade to a base of 499."""
    assert set_cap(client, alice, "120.00").status_code == 200
    preview = post(client, alice, "preview-change", plan="scale", when=when).json["data"]["change"]
    message = "Calls would be refused: the spend cap is $120.00, and the plan costs $499.00 without a further call."
    assert preview["spend_cap_conflict"] == {"amount": "120.00", "needed": "499.00", "message": message}
    refused = post(client, alice, "upgrade", plan="scale", when=when)
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "SPEND_CAP_TOO_LOW")
    assert refused.json["error"]["message"] == message
    assert client.get(f"{BILLING}/subscription", headers=alice.headers).json["data"]["scheduled_change"] is None
    changed = post(client, alice, "upgrade", plan="scale", when=when, confirm_spend_cap=True)
    assert changed.status_code == 200
    with app.app_context():
        assert acme.rows("SELECT spend_cap_minor FROM billing_profiles") == [(12_000,)]


@pytest.mark.parametrize(("amount", "action", "plan"), [("120.00", "alert", "scale"), ("120.00", "block", "pro")])
def test_change_is_not_asked_for_a_cap_that_refuses_nothing(
    client: FlaskClient, alice: User, acme: BillingOrganization, amount: str, action: str, plan: str
) -> None:
    """B11: the change asks only if calls would be refused."""
    set_cap(client, alice, amount, action)
    changed = post(client, alice, "upgrade", plan=plan, when="now")
    assert (changed.status_code, changed.json["data"]["change"]["spend_cap_conflict"]) == (200, None)


def test_default_cap_is_no_conflict(client: FlaskClient, alice: User, acme: BillingOrganization) -> None:
    """B11: the default cap stays above the base."""
    assert post(client, alice, "upgrade", plan="scale").status_code == 200


def test_usage_so_far_counts_in_the_conflict(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B11: 30.00 used and a base of 95.70 fill a cap of 120.00."""
    set_cap(client, alice, "120.00")
    with app.app_context():
        acme.use(4_000)
    clock.freeze_time(day(2))
    refused = post(client, alice, "upgrade", plan="pro")
    assert (refused.status_code, refused.json["error"]["code"]) == (409, "SPEND_CAP_TOO_LOW")


def test_cap_below_the_base_of_the_plan_is_rejected_in_a_short_period(
    client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B11: the base of a part of a month is not the base of the plan."""
    clock.freeze_time(day(20))
    post(client, alice, "upgrade", plan="scale")
    assert reason(set_cap(client, alice, "250.00")) == "Must not be below $499.00, the base amount of Scale."
    assert set_cap(client, alice, "499.00").status_code == 200


def test_cap_below_the_base_of_a_scheduled_plan_is_rejected(
    client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B11: the next period has a base, too."""
    post(client, alice, "upgrade", plan="pro", when="period_end")
    assert reason(set_cap(client, alice, "50.00")) == "Must not be below $99.00, the base amount of Pro."


def test_cap_below_the_minimum_of_the_plan_is_rejected(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B11: the default cap stays above the minimum, an own cap must."""
    with app.app_context():
        publish(
            {**LAGOS, "plan": "team", "name": "Team", "currency": "USD", "base_amount": "10.00", "min_spend": "300.00"}
        )
    post(client, alice, "upgrade", plan="team")
    cap = client.get(f"{BILLING}/alerts", headers=alice.headers).json["data"]["spend_cap"]
    assert cap["amount"] == "400.00"
    assert reason(set_cap(client, alice, "120.00")) == "Must not be below $300.00, the minimum of Team."


def test_page_asks_before_a_change_that_the_cap_would_block(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B11: the form has a checkbox."""
    set_cap(client, alice, "120.00")
    browser, page = Browser(app, alice), "/dashboard/billing/plans/scale"
    assert "Calls would be refused" in browser.open(page).text
    assert browser.submit(page).status_code == 422
    assert browser.submit(page, confirm_spend_cap="1").status_code == 303


def test_migration_shows_which_caps_would_block(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """B11: the operator sees the conflict before moving organizations."""
    set_cap(client, alice, "120.00")
    post(client, alice, "upgrade", plan="starter", when="now")
    result = app.test_cli_runner().invoke(args=["plans", "migrate", "starter@1", "scale@1", "--dry-run", "--json"])
    [row] = json.loads(result.stdout)["organizations"]
    assert "the spend cap is $120.00" in row["spend_cap_conflict"]
