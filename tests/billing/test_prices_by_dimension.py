"""Prices that differ by the value of a dimension: plan files, bills, allowances, explanations and limits."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import (
    alerts,
    current_period,
    invariants,
    invoice_documents,
    invoices,
    period_spend,
    plan_migrations,
    plans,
    previews,
    subscriptions,
    usage_costs,
)
from saas_api.billing.rating import plan_file
from saas_api.billing.rating.thresholds import AlertRuleInput, AlertSubject
from saas_api.core import clock, time_zones
from saas_api.core.db import tenancy
from saas_api.core.document_reader import InvalidDocument
from saas_api.dashboard import prices
from saas_api.usage import rollups
from saas_api.usage.ranges import DateRange
from tests.support.billing import BillingOrganization, create_organization, day, publish_meter, publish_prices
from tests.support.billing_actions import close_periods, create_credit_note

UTC, KOLKATA = time_zones.get_zone("UTC"), time_zones.get_zone("Asia/Kolkata")
pytestmark = pytest.mark.usefixtures("context")
SMALL = {"model": "per_unit", "included": "1000", "unit_price": "0.001"}
LARGE = {
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_price": "0.1"}, {"up_to": None, "unit_price": "0.05"}],
    "max_amount": "20.00",
}
OTHERS = {"model": "per_unit", "unit_price": "0.01"}


def by_model(**values: Any) -> dict[str, Any]:
    return {"tokens": {"by": {"dimension": "model", "values": values, "default": OTHERS}}}


@pytest.fixture
def acme() -> BillingOrganization:
    """An organization in April, whose plan prices tokens by their model."""
    publish_meter("tokens", dimensions=["model", "region"], unit="token")
    return create_organization(plan=publish_prices("ai", by_model(small=SMALL, large=LARGE), base="10.00"))


def use_tokens(organization: BillingOrganization, **quantities: int) -> None:
    for model, quantity in quantities.items():
        properties = {} if model == "nothing" else {"model": model, "region": "eu"}
        organization.use(quantity, "tokens", at=day(2), properties=properties)


def close_april(organization: BillingOrganization) -> Any:
    return close_periods(organization, day(1, 2, month=5))


def newest_content(plan: str) -> plan_file.PlanContent:
    with tenancy.system_session("billing.catalogue") as session:
        return plans.get_plan_content(session, plans.get_newest_version_id(session, plan))


def test_each_value_is_a_line_with_its_own_price_and_allowance(acme: BillingOrganization) -> None:
    """1,500 small less 1,000; 10.00 + 5.00 large; medium and usage without a model share the price of all others."""
    use_tokens(acme, small=1_500, large=200, medium=30, nothing=20)
    invoice = close_april(acme)
    assert acme.lines() == {
        "base:ai@1": 1_000,
        "usage:ai@1:tokens": 50,
        "usage:ai@1:tokens:large": 1_500,
        "usage:ai@1:tokens:small": 50,
    }
    descriptions = acme.rows("SELECT description FROM invoice_lines WHERE kind = 'usage' ORDER BY position")
    assert [row.description for row in descriptions] == [
        "Tokens, Ai plan",
        "Tokens, model large, Ai plan",
        "Tokens, model small, Ai plan",
    ]
    assert invoice.total_minor == 2_600
    assert not [result for result in invariants.check_invariants() if result.violations]


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_preview_spend_and_report_agree_with_the_invoice(acme: BillingOrganization, *, is_rolled_up: bool) -> None:
    use_tokens(acme, small=1_500, large=900, medium=30)
    if is_rolled_up:
        rollups.rebuild_rollups()
    clock.freeze_time(day(20))
    days = DateRange(day(1).date(), day(30).date(), UTC)
    with acme.transaction() as session:
        running = current_period.read_current_period(session, acme.id)
        [(period_id,)] = acme.rows("SELECT id FROM billing_periods WHERE seq = 1")
        spent = period_spend.get_period_spend(session, acme.id, period_id)
        [simulated] = previews.simulate_plans(session, acme.id, ["ai"])
        report = usage_costs.usage_report(session, acme.id, days)
    invoice = close_april(acme)
    assert invoice.total_minor == 1_000 + 50 + 2_000 + 30
    assert {running.bill.total_minor, simulated.total_minor, spent.total} == {invoice.total_minor}
    assert report.total_cost_minor == invoice.total_minor - 1_000
    assert spent.metered == {"tokens": 2_430}
    [tokens] = report.by_meter
    assert (tokens.quantity, tokens.included, tokens.cost) == (2_430, 1_000, Decimal("1.5") + 90 + Decimal("0.3"))


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_calls_in_the_hour_of_a_sign_up_and_upgrade_have_the_prices_of_the_new_plan(*, is_rolled_up: bool) -> None:
    """4 calls for NG at 0.20 and 4 for others at 0.50 are 2.80, as on the bill."""
    publish_meter("lookups", "count", ["country"], "lookup")
    prices = {"NG": {"model": "per_unit", "unit_price": "0.20"}}
    default = {"model": "per_unit", "unit_price": "0.50"}
    version = publish_prices(
        "check", {"lookups": {"by": {"dimension": "country", "values": prices, "default": default}}}
    )
    acme = create_organization(at=day(1, 10) + timedelta(minutes=5), zone="Asia/Kolkata")
    acme.switch(version, day(1, 10) + timedelta(minutes=8))
    for country in ("NG", "NG", "NG", "NG", "GH", "GH", "KE", "KE"):
        acme.use(1, "lookups", at=day(1, 10) + timedelta(minutes=10), properties={"country": country})
    if is_rolled_up:
        rollups.rebuild_rollups()
    clock.freeze_time(day(1, 12))
    days, query = DateRange(day(1).date(), day(1).date(), KOLKATA), {"mode": "live", "meter": "lookups"}
    with acme.transaction() as session:
        report = usage_costs.usage_report(session, acme.id, days)
        groups = usage_costs.usage_by_group(session, acme.id, days, {**query, "group_by": "dimension:country"})
        rows = list(usage_costs.usage_rows(session, acme.id, days, "live"))
    assert report.total_cost_minor == 280
    assert report.total.cost == report.by_meter[0].cost == sum(row.cost or 0 for row in rows) == Decimal("2.80")
    assert {usage.value: usage.cost for usage in report.by_dimension} == {"GH": 1, "KE": 1, "NG": Decimal("0.80")}
    assert {group: point.cost for group, point in groups.items()} == {"GH": 1, "KE": 1, "NG": Decimal("0.80")}


def test_late_usage_and_its_credits_are_kept_apart_by_value(acme: BillingOrganization) -> None:
    events = {
        model: acme.use(quantity, "tokens", at=day(2), properties={"model": model})
        for model, quantity in {"small": 2_000, "large": 100}.items()
    }
    invoice = close_april(acme)
    large = next(
        row for row in acme.rows("SELECT * FROM invoice_lines") if row.calculation.get("dimension_value") == "large"
    )
    create_credit_note(acme, invoice.id, lines={large.id: 400})
    for event in events.values():
        acme.reverse(event)
    acme.use(5, "tokens", at=day(3), is_late=True, properties={"model": "medium"})
    close_periods(acme, day(1, 2, month=6))
    late = {key.rpartition(":")[2]: amount for key, amount in acme.lines().items() if key.startswith("late")}
    assert late == {"tokens": 5, "small": -100, "large": -600}
    assert not [result for result in invariants.check_invariants() if result.violations]


def test_versions_of_a_plan_share_the_allowance_of_each_value(acme: BillingOrganization) -> None:
    """Half a month with 1,000 and half a month with 2,000 included make 1,500 small tokens; large ones share 30.00."""
    wide = {**SMALL, "included": "2000"}
    other = publish_prices("ai", by_model(small=wide, large={**LARGE, "max_amount": "40.00"}), base="10.00")
    use_tokens(acme, small=1_200, large=300)
    acme.switch(other, day(16))
    clock.freeze_time(day(17))
    for model, quantity in {"small": 700, "large": 900}.items():
        acme.use(quantity, "tokens", properties={"model": model})
    close_april(acme)
    lines = {key: amount for key, amount in acme.lines().items() if key.startswith("usage")}
    assert lines == {
        "usage:ai@1:tokens:small": 0,
        "usage:ai@1:tokens:large": 2_000,
        "usage:ai@2:tokens:small": 40,
        "usage:ai@2:tokens:large": 1_000,
    }


def test_explanation_and_events_of_a_line_are_those_of_its_value(acme: BillingOrganization) -> None:
    use_tokens(acme, small=1_500, large=150, medium=30, nothing=20)
    invoice = close_april(acme)
    found = {}
    with acme.transaction() as session:
        for line in invoices.list_lines(session, acme.id, invoice.id):
            if line.meter_code:
                explained = invoices.explain_line(session, acme.id, invoice.id, line.id)
                events = list(invoices.iter_line_event_rows(invoices.line_slice(explained.invoice, line)))
                assert sum(event[4] for event in events) == explained.counted.quantity == line.quantity
                assert explained.explained.recomputed_minor == line.amount_minor
                found[line.dimension_value] = len(events), explained.price.model, explained.explained.steps[0]
    assert found == {
        "small": (1, "per_unit", "Only usage with model small."),
        "large": (1, "graduated", "Only usage with model large."),
        "": (2, "per_unit", "All usage without a price of its own for its model."),
    }


def test_invoice_document_has_a_row_for_each_value(acme: BillingOrganization) -> None:
    use_tokens(acme, small=1_500, large=150)
    invoice = close_april(acme)
    with acme.transaction() as session:
        document = invoice_documents.get_document(session, acme.id, invoice.id)
    assert [line.description for line in document.lines][1:] == [
        "Tokens, model large, Ai plan",
        "Tokens, model small, Ai plan",
    ]
    assert invoice_documents.render_pdf(document).startswith(b"%PDF")


def test_plan_file_with_prices_by_dimension_is_read_and_written_alike(acme: BillingOrganization) -> None:
    content = newest_content("ai")
    written = plan_file.to_document(content)["prices"]["tokens"]
    assert written["by"]["values"]["large"] == LARGE
    assert written["by"] == {
        "dimension": "model",
        "values": {"large": LARGE, "small": SMALL},
        "default": OTHERS,
    }
    assert plans.publish_plan(plan_file.to_document(content), SYSTEM_ACTOR).version_id is None
    cheaper = {**SMALL, "unit_price": "0.0005"}
    document = plan_file.to_document(content)
    document["prices"]["tokens"]["by"]["values"]["small"] = cheaper
    published = plans.publish_plan(document, SYSTEM_ACTOR)
    [difference] = published.differences
    assert (difference.path, difference.before, difference.after) == (
        "prices.tokens.by.values.small.unit_price",
        "0.001",
        "0.0005",
    )


@pytest.mark.parametrize(
    ("by", "path", "reason"),
    [
        ({"dimension": "color", "values": {"a": OTHERS}, "default": OTHERS}, ".dimension", "must be a dimension of"),
        ({"dimension": "model", "values": {}, "default": OTHERS}, ".values", "must name 1 to 100 values"),
        ({"dimension": "model", "values": {"a": OTHERS}}, ".default", "is missing"),
        ({"dimension": "model", "values": {"": OTHERS}, "default": OTHERS}, ".values.", "must be a text of 1 to"),
        ({"dimension": "model", "values": {"a": {}}, "default": OTHERS}, ".values.a.model", "is missing"),
        ({"dimension": "model", "values": ["a"], "default": OTHERS}, ".values", "must be an object"),
        (7, "", "must be an object"),
    ],
)
def test_malformed_prices_by_dimension_are_refused(acme: BillingOrganization, by: Any, path: str, reason: str) -> None:
    document = plan_file.to_document(newest_content("ai"))
    document["prices"]["tokens"] = {"by": by}
    with pytest.raises(InvalidDocument) as refused:
        plans.publish_plan(document, SYSTEM_ACTOR)
    problems = dict(refused.value.problems)
    assert problems[f"prices.tokens.by{path}"].startswith(reason)


def test_new_rate_of_the_setting_keeps_prices_by_dimension(
    app: Flask, acme: BillingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor of a version copies every value of every price."""
    content = newest_content("starter")
    prices = {**content.prices, "tokens": newest_content("ai").prices["tokens"]}
    plans.publish_plan(plan_file.to_document(replace(content, prices=prices)), SYSTEM_ACTOR)
    monkeypatch.setitem(app.config, "BILLING_RATE_PER_REQUEST", Decimal("0.02"))
    assert "starter@3" in plan_migrations.sync_setting_price(SYSTEM_ACTOR).published
    after = newest_content("starter").prices
    assert (after["tokens"], after["sms"].unit_price) == (prices["tokens"], Decimal("0.02"))


def test_default_plan_of_a_new_currency_includes_what_it_includes_by_value(acme: BillingOrganization) -> None:
    free = newest_content("free")
    tokens = newest_content("ai").prices["tokens"]
    plans.publish_plan(plan_file.to_document(replace(free, prices={**free.prices, "tokens": tokens})), SYSTEM_ACTOR)
    prices = {
        "small": {"model": "per_unit", "unit_price": "3.00"},
        "huge": {"model": "per_unit", "unit_price": "90.00"},
    }
    document = plan_file.to_document(newest_content("ai"))
    document |= {"plan": "lagos", "currency": "NGN", "base_amount": "100.00", "prices": {**document["prices"]}}
    document["prices"]["tokens"] = {"by": {"dimension": "model", "values": prices, "default": OTHERS}}
    plans.publish_plan(document, SYSTEM_ACTOR)
    with tenancy.system_session("billing.catalogue") as session:
        version_id = plans.get_newest_version_id(session, "free", "NGN")
        price = plans.get_versions(session, [version_id])[version_id].prices["tokens"]
    assert {value: (own.included_quantity, own.unit_price) for value, own in price.by_value.items()} == {
        "": (0, Decimal("0.01")),
        "small": (1_000, Decimal(3)),
        "large": (0, Decimal("0.01")),
    }


def test_plan_change_preview_compares_every_value(acme: BillingOrganization) -> None:
    publish_prices("pay", by_model(small={**SMALL, "included": "0"}), base="10.00")
    for model, quantity in {"small": 1_500, "large": 200}.items():
        acme.use(quantity, "tokens", properties={"model": model})
    with acme.transaction() as session:
        change = subscriptions.preview_change(session, acme.id, "pay", "now")
    assert {line.description: line.amount_minor for line in change.differences if line.meter} == {
        "Tokens, model large, Ai plan": -1_500,
        "Tokens, model small, Ai plan": -50,
        "Tokens, Pay plan": 200,
        "Tokens, model small, Pay plan": 150,
    }


def test_alert_watches_the_value_that_has_used_most_of_its_allowance(acme: BillingOrganization) -> None:
    rule = AlertRuleInput(AlertSubject.PERCENT_OF_INCLUDED, "tokens", Decimal(80))
    with acme.transaction() as session:
        alerts.replace_alert_rules(session, acme.id, [rule], SYSTEM_ACTOR)
    for quantity, fired in ((700, []), (150, [Decimal(85)])):
        use_tokens(acme, small=quantity, large=5_000, medium=9_000)
        clock.freeze_time(day(3))
        alerts.evaluate_alerts(clock.now())
        assert [row.observed for row in acme.rows("SELECT observed FROM alert_firings")] == fired


def test_offers_show_the_price_of_each_value(app: Flask, acme: BillingOrganization) -> None:
    plans_shown = app.test_client().get("/api/v1/billing/plans").json["data"]["plans"]
    [price] = [price for plan in plans_shown for price in plan["prices"] if price["meter"] == "tokens"]
    assert (price["unit_price"], price["by"]["dimension"]) == ("0.01", "model")
    assert {value: own["unit_price"] for value, own in price["by"]["values"].items()} == {
        "large": None,
        "small": "0.001",
    }
    assert price["by"]["default"] == {name: price[name] for name in price["by"]["default"]}
    with acme.transaction() as session:
        table = prices.compare_offers(session)
    position = [plan.code for plan in table.plans].index("ai")
    [cells] = [row.cells for row in table.rows if row.label == "Price per token"]
    assert cells[position] == [
        *("large: 1\N{EN DASH}100: $0.10", "large: From 101: $0.05", "large: At most $20.00 a month"),
        *("small: 1,000 included", "small: $0.001"),
        "Other: $0.01",
    ]
    assert not any(cells[:position] + cells[position + 1 :]), "no other plan prices tokens"


def test_rows_of_the_usage_csv_have_their_dimensions(acme: BillingOrganization) -> None:
    use_tokens(acme, small=1_500, large=200, nothing=20)
    with acme.transaction() as session:
        rows = list(usage_costs.usage_rows(session, acme.id, DateRange(day(1).date(), day(30).date(), UTC), "live"))
    assert sorted((row[5], row[8], row[9]) for row in rows) == [
        (20, Decimal("0.2"), {}),
        (200, Decimal(20), {"model": "large", "region": "eu"}),
        (1_500, Decimal("1.5"), {"model": "small", "region": "eu"}),
    ]
