"""Plans at the console: versions, simulation on real usage, archive."""

import re

from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import User, make_key
from tests.support.console import IN_PLATFORM_LOG, REASON, audit_log, open_console, send_message
from tests.support.metering import move_to_plan
from tests.support.usage_events import publish_meter


def test_plan_versions_are_listed_with_their_subscribers(
    app: Flask, client: FlaskClient, alice: User, olga: User
) -> None:
    assert send_message(client, make_key(client, alice))[0] == 202
    browser = open_console(app, olga)
    text = browser.open("/admin/plans").text
    for version in ("free@1", "starter@1", "pro@1", "scale@1"):
        assert version in text
    assert "Acme</bdi></a>" in browser.open("/admin/plans/free@1").text
    assert "Acme</bdi></a>" not in browser.open("/admin/plans/pro@1").text


def test_plan_page_shows_tiers(app: Flask, olga: User) -> None:
    browser = open_console(app, olga)
    text = browser.open("/admin/plans/scale@1").text
    for price in ("$0.004", "$0.003", "$0.002"):
        assert price in text
    assert browser.open("/admin/plans/gold@1").status_code == 404


def test_plan_page_shows_the_price_of_each_value_of_a_dimension(app: Flask, alice: User, olga: User) -> None:
    publish_meter(app)
    tiers = [{"up_to": "100", "unit_price": "0.1"}, {"up_to": None, "unit_price": "0.05", "flat_amount": "2.00"}]
    values = {
        "small": {"model": "per_unit", "included": "1000", "unit_price": "0.2"},
        "large": {"model": "graduated", "tiers": tiers, "max_amount": "20.00"},
    }
    default = {"model": "package", "package": {"size": "500", "amount": "4.00"}}
    move_to_plan(app, alice, prices={"lookups": {"by": {"dimension": "model", "values": values, "default": default}}})
    page = open_console(app, olga).read("/admin/plans/metered@1")
    [rows] = [part for part in re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL) if "any other" in part]
    assert [text for text in re.sub(r"<[^>]+>|\u2013", "|", rows).split("|") if text.strip()] == [
        *("large", "graduated", "Up to 100: $0.10 each", "Above: $0.05 each, plus $2.00", "$20.00"),
        *("small", "per unit", "$0.20 each", "1,000"),
        *("any other", "package", "$4.00 for each 500"),
    ]


def test_plan_is_simulated_on_real_usage(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    assert send_message(client, make_key(client, alice))[0] == 202
    browser = open_console(app, olga)
    running = browser.open(f"/admin/plans/starter@1?organization={alice.organization_id}&periods=0")
    assert running.status_code == 200
    assert "Total on Starter" in running.text
    assert "$0.01" in running.text
    wrong = browser.open("/admin/plans/starter@1?organization=nobody")
    assert wrong.status_code == 422
    assert 'value="nobody"' in wrong.text


def test_archived_plan_is_not_offered_until_restored(app: Flask, client: FlaskClient, alice: User, olga: User) -> None:
    browser, page = open_console(app, olga), "/admin/plans/scale@1/retire"

    def offered() -> bool:
        plans = client.get("/api/v1/billing/plans", headers=alice.headers).json["data"]["plans"]
        return "Scale" in [plan["name"] for plan in plans]

    assert offered()
    assert browser.submit(page, reason="short").status_code == 422
    try:
        assert browser.submit(page, reason=REASON).status_code == 303
        assert not offered()
    finally:
        assert browser.submit(page, reason=REASON).status_code == 303
    assert offered()
    assert audit_log(app, "plan.retired") == IN_PLATFORM_LOG
    needed = browser.submit("/admin/plans/free@1/retire", reason=REASON)
    assert needed.status_code == 409
