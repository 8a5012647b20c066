"""Plans, prices, bills and alerts of an organization whose plan prices eight meters, one of them by a dimension."""

from decimal import Decimal

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids, time_zones
from saas_api.core.db import tenancy
from saas_api.dashboard import plans
from saas_api.usage.ranges import DateRange
from tests.support.accounts import User, make_key
from tests.support.metering import move_to_plan, verify
from tests.support.pages import Browser
from tests.support.services import create_service
from tests.support.usage_events import publish_meter

HALF = {"model": "per_unit", "unit_price": "0.5"}
BY_MODEL = {"small": {"model": "per_unit", "included": "2", "unit_price": "0.25"}, "large": HALF}
METERS = ["exports", "images", "pages", "storage", "tokens"]


@pytest.fixture
def page(app: Flask, client: FlaskClient, alice: User) -> Browser:
    """Alice's browser, after a call of three meters."""
    publish_meter(app)
    for code in METERS:
        aggregation = "max" if code == "storage" else "sum"
        publish_meter(app, code=code, name=code.title(), unit="unit", aggregation=aggregation, dimensions=[])
    priced = dict.fromkeys([code for code in METERS if code != "tokens"], HALF)
    lookups = {"by": {"dimension": "model", "values": BY_MODEL, "default": {"model": "per_unit", "unit_price": "1"}}}
    move_to_plan(app, alice, prices={**priced, "lookups": lookups}, base_amount="10.00")
    token, key = create_service(app), make_key(client, alice)["X-API-Key"]
    for meter, quantity, model in (
        ("lookups", "2.5", "small"),
        ("lookups", "1", "tiny"),
        ("storage", "7", ""),
        ("storage", "3", ""),
        ("tokens", "4", ""),
    ):
        dimensions = {"model": model} if model else {}
        assert verify(client, token, key, meter=meter, quantity=quantity, dimensions=dimensions)["code"] == "VALID"
    return Browser(app, alice)


def test_pages_of_plans_and_prices_show_each_value_and_what_has_no_price(page: Browser) -> None:
    for path in ("/pricing", "/dashboard/billing/plans"):
        text = page.open(path).text
        assert "Price per lookup" in text, path
        assert "small: 2 included<br>small: $0.25<br>" in text, path
        assert ("Other: $1.00" in text, "Price per storage unit" in text) == (True, True), path
    assert "storage 7" in page.open("/dashboard/billing/plans").text


def test_running_period_has_a_line_for_each_value_with_decimals(page: Browser) -> None:
    text = page.open("/dashboard/billing").text
    for part in ("Lookups, model small, Metered plan", "2 of 2 included lookups used", "2.5", "Tokens", "Storage"):
        assert part in text


def test_home_mentions_messages_to_those_who_send_them_or_call_nothing(
    app: Flask, client: FlaskClient, page: Browser, alice: User, carol: User
) -> None:
    texts = ("Last hour", "Delivery rate", "Send a test message", "Recent failures", "Send your first message")

    def shown(browser: Browser) -> list[bool]:
        text = browser.open("/dashboard").text
        assert "Accepted calls per day" in text
        return [part in text for part in texts]

    assert shown(page) == [False] * 5
    assert shown(Browser(app, carol)) == [True] * 5
    body = {"type": "sms", "to": "+2348012345678", "message": "Hello"}
    key = make_key(client, alice)
    assert client.post("/api/v1/messages/send", json=body, headers=key).status_code == 202
    assert shown(page) == [True] * 5


def test_every_meter_can_have_an_alert(page: Browser) -> None:
    text = page.open("/dashboard/billing/spending").text
    for code in [*METERS, "lookups", "sms", "email"]:
        assert f'value="quantity:{code}"' in text
    spending = "/dashboard/billing/spending"
    added = page.submit(spending, f"{spending}/alerts", subject="quantity:storage", threshold="2.5")
    assert added.status_code == 303
    assert "2.5" in page.open("/dashboard/billing/spending").text


def test_recent_usage_is_compared_at_the_price_of_its_values(app: Flask, page: Browser, alice: User) -> None:
    """Small: 0.5 beyond the included 2 at 0.25; tiny at 1; storage at its highest value, 7, at 0.5."""
    organization_id = ids.parse_id("org", alice.organization_id)
    today = clock.now().date()
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        days = DateRange(today, today, time_zones.get_zone("UTC"))
        table, quantities = plans.compare_plans(session, organization_id, "metered@1", days)
    assert quantities["lookups"] == Decimal("3.5")
    assert {plan.code: plan.total_minor for plan in table.plans}["metered"] == 1_000 + 13 + 100 + 350
