"""The page of the spend cap and alerts: its figures and its forms."""

import re
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from saas_api.core import ids
from tests.support.accounts import join, sign_in
from tests.support.billing_pages import API, BILLING, browse, get_api, page_text, read_spend_cap
from tests.support.pages import Browser
from tests.support.payments import PayingOrganization

SPENDING = f"{BILLING}/spending"
CAP, ALERTS = f"{SPENDING}/cap", f"{SPENDING}/alerts"


def change(browser: Browser, form: str, **fields: str) -> Any:
    """Fill in a form of the page and send it."""
    return browser.send(form, {**browser.form(SPENDING, form), **fields})


def list_rules(acme: PayingOrganization) -> list[tuple[str, str | None, str, bool]]:
    rows = get_api(acme, "/alerts")["alerts"]
    return [(row["subject"], row["meter"], row["threshold"], row["enabled"]) for row in rows]


def test_new_organization_sees_its_default_cap(owner: Browser, acme: PayingOrganization) -> None:
    page = page_text(owner.open(SPENDING))
    cap = get_api(acme, "/alerts")["spend_cap"]
    assert f"${cap['used']} of ${Decimal(cap['amount']):,.2f}" in page
    assert f"including the plan fee of ${cap['base']}" in page
    assert "This is the default cap of a new organization" in page


def test_cap_is_changed_removed_and_set_again(owner: Browser, acme: PayingOrganization) -> None:
    changed = change(owner, CAP, amount="250.50", action="alert")
    assert (changed.status_code, changed.location) == (303, SPENDING)
    page = page_text(owner.open(SPENDING))
    assert "Spend cap saved." in page
    assert "of $250.50" in page
    assert "This is the default cap of a new organization" not in page
    assert tuple(read_spend_cap(acme)) == (25_050, "alert")
    change(owner, CAP, limit="none")
    assert read_spend_cap(acme)[0] is None
    assert "No spend cap is set." in page_text(owner.open(SPENDING))
    assert "No spend cap is set." in page_text(owner.open(BILLING))
    change(owner, CAP, limit="amount", amount="300", action="block")
    assert tuple(read_spend_cap(acme)) == (30_000, "block")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"amount": ""}, "Fill this in."),
        ({"amount": "1,5"}, "Not an amount like"),
        ({"amount": "-5"}, "Not an amount like"),
        ({"amount": "150.005"}, "Not an amount in USD."),
        ({"amount": "0.01"}, "Must not be below the base amount of the period."),
        ({"action": "shout"}, "Must be one of"),
        ({"limit": "some"}, "Must be one of"),
    ],
)
def test_invalid_cap_is_rejected_and_keeps_its_values(
    owner: Browser, acme: PayingOrganization, fields: dict[str, Any], reason: str
) -> None:
    before = read_spend_cap(acme)
    response = change(owner, CAP, **fields)
    assert response.status_code == 422
    assert reason in plain_refusal(response)
    if fields.get("amount"):
        assert f'value="{fields["amount"]}"' in response.text
    assert read_spend_cap(acme) == before


def plain_refusal(response: Any) -> str:
    response.status_code = 200
    return page_text(response)


def test_alerts_are_added_toggled_and_removed(owner: Browser, acme: PayingOrganization) -> None:
    before = list_rules(acme)
    assert change(owner, ALERTS, subject="quantity:sms", threshold="5000").location == SPENDING
    assert change(owner, ALERTS, subject="spend", threshold="42.50").location == SPENDING
    added = [("quantity", "sms", "5000", True), ("spend", None, "42.5", True)]
    assert sorted(list_rules(acme), key=str) == sorted([*before, *added], key=str)
    response = owner.open(SPENDING)
    assert "SMS segments used: 5,000" in page_text(response)
    assert 'aria-label="Turn off: Spend: $42.50"' in response.text
    rule = next(row for row in get_api(acme, "/alerts")["alerts"] if row["subject"] == "spend")
    for is_on in (False, True):
        owner.submit(SPENDING, f"{ALERTS}/{rule['id']}/switch")
        assert ("spend", None, "42.5", is_on) in list_rules(acme)
    owner.submit(SPENDING, f"{ALERTS}/{rule['id']}/remove")
    assert sorted(list_rules(acme), key=str) == sorted([*before, added[0]], key=str)


def test_alerts_of_a_subject_share_a_row(app: Flask, owner: Browser, acme: PayingOrganization) -> None:
    page = owner.open(SPENDING).text
    assert page.count("<dt>Spend, % of the cap") == 1
    thresholds = re.findall(r'aria-label="Turn off: Spend, % of the cap: (\d+)%"', page)
    assert thresholds == sorted(thresholds, key=int)
    assert len(thresholds) >= 2
    join(app, acme.owner.organization_id, "vera@acme.example", "viewer")
    viewer = browse(app, sign_in(acme.client, "vera@acme.example")).open(SPENDING).text
    assert viewer.count("<dt>Spend, % of the cap") == 1
    assert "Turn off" not in viewer


def test_alert_on_included_units_is_offered_where_the_plan_includes_some(
    owner: Browser, acme: PayingOrganization
) -> None:
    """S9: on a plan that includes none, the alert was offered and never triggered."""
    assert "percent_of_included" not in owner.open(SPENDING).text
    rule = {"subject": "percent_of_included", "meter": "sms", "threshold": "80"}
    acme.client.put(f"{API}/alerts", json={"alerts": [rule]}, headers=acme.owner.headers)
    assert "includes none" in owner.open(SPENDING).text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"threshold": ""}, "Fill this in."),
        ({"threshold": "0"}, "Must be greater than 0."),
        ({"threshold": "many"}, "Not an amount like"),
        ({"threshold": "1.1234567"}, "At most 6 decimals."),
        ({"subject": "spend_percent_of_cap", "threshold": "80"}, "This alert already exists."),
        ({"subject": "weather", "threshold": "5"}, "Must be one of"),
        ({"subject": "quantity:fax", "threshold": "5"}, "There is no such meter."),
        ({"subject": "quantity", "threshold": "5"}, "Quantities have a meter, spend has none."),
    ],
)
def test_invalid_alert_is_rejected(
    owner: Browser, acme: PayingOrganization, fields: dict[str, Any], reason: str
) -> None:
    before = list_rules(acme)
    response = change(owner, ALERTS, **fields)
    assert response.status_code == 422
    assert reason in plain_refusal(response)
    assert list_rules(acme) == before


def test_51st_alert_is_rejected(owner: Browser, acme: PayingOrganization) -> None:
    alerts = [{"subject": "spend", "threshold": str(value)} for value in range(1, 51)]
    response = acme.client.put(f"{API}/alerts", json={"alerts": alerts}, headers=acme.owner.headers)
    assert response.status_code == 200
    refused = change(owner, ALERTS, subject="spend", threshold="51")
    assert "You can have at most 50 alerts." in plain_refusal(refused)


def test_unknown_alert_is_not_found_and_removal_is_idempotent(owner: Browser, acme: PayingOrganization) -> None:
    token = owner.form(SPENDING, CAP)["csrf_token"]
    unknown_rule = f"{ALERTS}/{ids.format_id('alr', acme.id)}"
    before = list_rules(acme)
    assert owner.send(f"{unknown_rule}/switch", {"csrf_token": token}).status_code == 404
    assert owner.send(f"{unknown_rule}/remove", {"csrf_token": token}).status_code == 303
    assert list_rules(acme) == before
