"""Plan files: validation with every problem at once, and idempotent publication."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import plans, service_terms
from saas_api.billing.rating import charges, plan_file
from saas_api.core import document_reader
from saas_api.core.db import tenancy
from saas_api.core.document_reader import InvalidDocument
from saas_api.usage import meters
from saas_api.usage.meter_file import MeterContent
from tests.support.billing import create_organization

METERS = {"sms": MeterContent("sms", "SMS", "segment"), "email": MeterContent("email", "Email", "message")}
TEAM = {
    "plan": "team",
    "name": "Team",
    "currency": "USD",
    "base_amount": "49.00",
    "min_spend": "60.00",
    "meters": [{"code": "calls", "name": "Calls", "unit": "minute", "aggregation": "sum", "reverse_on_failure": False}],
    "prices": {
        "sms": {
            "model": "graduated",
            "included": "100",
            "tiers": [{"up_to": "1000", "unit_price": "0.008"}, {"up_to": None, "unit_price": "0.0055"}],
            "max_amount": "500.00",
        },
        "email": {"model": "package", "package": {"size": "500", "amount": "4.00"}},
        "calls": {
            "model": "volume",
            "tiers": [
                {"up_to": "10.5", "unit_price": "1", "flat_amount": "2.00"},
                {"up_to": None, "unit_price": "0.1"},
            ],
        },
    },
    "entitlements": {
        "rate_limit_per_minute": 900,
        "sms_quota": {"meter": "sms", "limit": "250000"},
        "support": "chat",
        "sso": True,
    },
}


def changed(**changes: Any) -> dict[str, Any]:
    """The plan file with changed fields; None removes a field."""
    return {name: value for name, value in {**TEAM, **changes}.items() if value is not None}


def problems(document: Any) -> dict[str, str]:
    with pytest.raises(InvalidDocument) as caught:
        plan_file.load_plan(document, METERS, tuple(METERS))
    paths = [path for path, _ in caught.value.problems]
    assert len(paths) == len(set(paths))
    return dict(caught.value.problems)


def with_price(**price: Any) -> dict[str, Any]:
    return changed(prices={**TEAM["prices"], "sms": price})  # type: ignore[dict-item]  # it is a dictionary


def test_plan_file_is_read_back_as_it_was_written() -> None:
    content = plan_file.load_plan(TEAM, METERS)
    assert plan_file.to_document(content) == TEAM
    assert charges.rounded_charge(content.prices["email"], Decimal(501)) == 800


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], ""),
        (changed(plan=None), "plan"),
        (changed(plan="Team"), "plan"),
        (changed(plan="team@2"), "plan"),
        (changed(name=" "), "name"),
        (changed(name="a\nb"), "name"),
        (changed(currency="XXX"), "currency"),
        (changed(currency=["USD"]), "currency"),
        (changed(base_amount=49), "base_amount"),
        (changed(base_amount=49.0), "base_amount"),
        (changed(base_amount="-1.00"), "base_amount"),
        (changed(base_amount="1.005"), "base_amount"),
        (changed(base_amount="1e3"), "base_amount"),
        (changed(base_amount="9999999999999.00"), "base_amount"),
        (changed(currency="JPY", base_amount="49.50"), "base_amount"),
        (changed(min_spend=True), "min_spend"),
        (changed(colour="red"), "colour"),
        (changed(position=0), "position"),
        (changed(is_public="yes"), "is_public"),
        (changed(meters={}), "meters"),
        (changed(meters=[{"code": "sms", "name": "SMS", "unit": "message"}]), "meters.0"),
        (changed(prices={}), "prices.sms"),
        (changed(prices=[]), "prices"),
        (changed(prices={**TEAM["prices"], "fax": {"model": "per_unit", "unit_price": "1"}}), "prices.fax"),  # type: ignore[dict-item]  # it is a dictionary
        (with_price(model="flat"), "prices.sms.model"),
        (with_price(model="per_unit"), "prices.sms.unit_price"),
        (with_price(model="per_unit", unit_price=0.01), "prices.sms.unit_price"),
        (with_price(model="per_unit", unit_price="0.00000000001"), "prices.sms.unit_price"),
        (with_price(model="per_unit", unit_price="-0.1"), "prices.sms.unit_price"),
        (with_price(model="per_unit", unit_price="1", tiers=[]), "prices.sms.tiers"),
        (with_price(model="per_unit", unit_price="1", included="-1"), "prices.sms.included"),
        (with_price(model="per_unit", unit_price="1", included=1.5), "prices.sms.included"),
        (with_price(model="per_unit", unit_price="1", max_amount=5), "prices.sms.max_amount"),
        (with_price(model="volume", tiers=[]), "prices.sms.tiers"),
        (with_price(model="volume", tiers=[{"up_to": "5", "unit_price": "1"}]), "prices.sms.tiers.0.up_to"),
        (
            with_price(
                model="graduated",
                tiers=[
                    {"up_to": "5", "unit_price": "1"},
                    {"up_to": "5", "unit_price": "1"},
                    {"up_to": None, "unit_price": "1"},
                ],
            ),
            "prices.sms.tiers.1.up_to",
        ),
        (with_price(model="package", package={"size": "0", "amount": "1.00"}), "prices.sms.package.size"),
        (with_price(model="package", package={"size": "1"}), "prices.sms.package.amount"),
        (with_price(model="package", package=5), "prices.sms.package"),
        (changed(entitlements={}), "entitlements.rate_limit_per_minute"),
        (changed(entitlements={"rate_limit_per_minute": 0}), "entitlements.rate_limit_per_minute"),
        (changed(entitlements={"rate_limit_per_minute": True}), "entitlements.rate_limit_per_minute"),
        (
            changed(entitlements={"rate_limit_per_minute": {"setting": "JWT_SECRET"}}),
            "entitlements.rate_limit_per_minute",
        ),
        (
            changed(entitlements={"rate_limit_per_minute": 9, "q": {"meter": "fax", "limit": "1"}}),
            "entitlements.q.meter",
        ),
        (changed(entitlements={"rate_limit_per_minute": 9, "q": 1.5}), "entitlements.q"),
        (with_price(model="per_unit", unit_price="9999999999"), "prices.sms"),
        (with_price(model="package", package={"size": "0.000001", "amount": "999999999999.99"}), "prices.sms"),
        (
            with_price(
                model="volume",
                tiers=[{"up_to": "1000000", "unit_price": "9999999999"}, {"up_to": None, "unit_price": "1"}],
            ),
            "prices",
        ),
        (
            with_price(
                model="volume",
                tiers=[{"up_to": "100000000", "unit_price": "9999999999"}, {"up_to": None, "unit_price": "1"}],
            ),
            "prices.sms",
        ),
    ],
)
def test_each_problem_is_reported_with_its_path(document: Any, path: str) -> None:
    assert path in problems(document)


def test_high_price_with_a_maximum_is_valid() -> None:
    """Small: only what one period could cost matters."""
    capped = with_price(model="per_unit", unit_price="9999999999", max_amount="5000.00")
    assert plan_file.load_plan(capped, METERS).prices["sms"].max_amount_minor == 500_000


def test_all_problems_are_reported_at_once() -> None:
    sms = {"model": "per_unit", "unit_price": 0.01}
    # The currency is ISO 4217's code of no currency.
    plan_problems = problems({"plan": "P", "currency": "XXX", "base_amount": 1, "prices": {"sms": sms}, "x": 1})
    assert set(plan_problems) == {
        "plan",
        "name",
        "currency",
        "base_amount",
        "entitlements",
        "prices.sms.unit_price",
        "prices.email",
        "x",
    }


@pytest.mark.parametrize("text", ["{", '{"plan": "a", "plan": "b"}', '{"a": NaN}', "[" * 100_000])
def test_invalid_json_is_rejected(text: str) -> None:
    with pytest.raises(InvalidDocument):
        document_reader.parse_json(text)


@pytest.fixture
def publish(app: Flask, tmp_path: Path) -> Any:
    """Run `flask plans publish` on a document."""

    def run(document: Any, *options: str) -> Result:
        file = tmp_path / "plan.json"
        file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return app.test_cli_runner().invoke(args=["plans", "publish", str(file), *options])

    return run


def export_plan(app: Flask, plan: str) -> Any:
    outcome = app.test_cli_runner().invoke(args=["plans", "show", plan, "--json"])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_new_plan_is_published_once_and_offered(app: Flask, client: Any, publish: Any) -> None:
    dry = json.loads(publish(TEAM, "--dry-run", "--json").stdout)
    assert (dry["published"], dry["would_publish"]) == (None, "team@1")
    first = publish(TEAM)
    assert (first.exit_code, first.output.splitlines()[-1]) == (
        0,
        "team@1 published. Organizations on older versions stay on them; flask plans migrate moves them.",
    )
    assert '+ base_amount: "49.00"' in first.output
    assert publish(TEAM).output == "team@1 says the same; nothing to publish.\n"
    offered = {plan["code"]: plan for plan in client.get("/api/v1/billing/plans").json["data"]["plans"]}
    assert offered["team"]["rate_limit_per_minute"] == 900
    prices = {price["meter"]: price for price in offered["team"]["prices"]}
    assert prices["email"]["package"] == {"size": "500", "amount": "4.00"}
    assert (prices["sms"]["max_amount"], prices["calls"]["tiers"][0]["flat_amount"]) == ("500.00", "2.00")


def test_changed_file_is_the_next_version_and_moves_no_organization(app: Flask, publish: Any, context: Flask) -> None:
    organization = create_organization(plan="pro@1")
    dearer = {**export_plan(app, "pro"), "base_amount": "119.00"}
    outcome = json.loads(publish(dearer, "--json").stdout)
    assert (outcome["published"], outcome["previous"]) == ("pro@2", "pro@1")
    assert outcome["changes"] == [{"path": "base_amount", "before": "99.00", "after": "119.00"}]
    assert json.loads(publish(dearer, "--json").stdout)["published"] is None
    assert export_plan(app, "pro@1")["base_amount"] == "99.00"
    with organization.transaction() as session:
        assert service_terms.get_terms(session, organization.id).plan_version_id == "pro@1"
        assert plans.get_newest_version_id(session, "pro") == "pro@2"


@pytest.mark.parametrize("plan", ["free", "starter", "pro", "scale"])
def test_exported_plan_publishes_no_version(app: Flask, publish: Any, plan: str) -> None:
    assert publish(export_plan(app, plan)).output == f"{plan}@1 says the same; nothing to publish.\n"


def test_publication_is_in_the_audit_log(app: Flask, publish: Any) -> None:
    publish(TEAM)
    with app.app_context(), tenancy.system_session("billing.close") as session:
        [event] = session.execute(text("SELECT * FROM audit_events")).all()
    assert (event.action, event.actor_type, event.target_id) == ("plan.published", "system", "team@1")
    assert event.data["changes"]["base_amount"] == [None, "49.00"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ('{"plan": 1, "plan": 2}', "given twice"),
        (changed(base_amount=49), "base_amount must be a string"),
        ("\\ud800", "not JSON"),
    ],
)
def test_file_with_problems_publishes_nothing(app: Flask, publish: Any, document: Any, reason: str) -> None:
    outcome = publish(document)
    assert outcome.exit_code == 3
    assert reason in outcome.stderr
    assert app.test_cli_runner().invoke(args=["plans", "show", "team"]).exit_code == 1


def test_currency_and_prices_from_a_setting_cannot_be_changed(app: Flask, publish: Any) -> None:
    other = {**export_plan(app, "pro"), "currency": "EUR"}
    assert "another currency needs another plan" in publish(other).stderr
    starter = export_plan(app, "starter")
    starter["prices"]["sms"]["unit_price"] = "0.02"
    assert "BILLING_RATE_PER_REQUEST" in publish(starter).stderr


def test_plan_need_not_price_a_meter_of_the_operator(app: Flask, publish: Any, context: Flask) -> None:
    for code, service in (("lookups", None), ("searches", "lookup-service")):
        meters.publish_meter({"code": code, "name": code, "unit": "call", "service": service}, SYSTEM_ACTOR)
    assert publish(TEAM).exit_code == 0


def test_plan_prices_every_meter_of_a_service_of_this_application(app: Flask, publish: Any, context: Flask) -> None:
    meters.publish_meter({"code": "voice", "name": "Voice", "unit": "minute", "service": "messages"}, SYSTEM_ACTOR)
    refused = publish(TEAM)
    assert (refused.exit_code, "prices.voice is missing" in refused.stderr) == (3, True)
    meters.archive_meter("voice", SYSTEM_ACTOR)
    assert publish(TEAM).exit_code == 0


def test_plan_with_the_price_of_an_archived_meter_can_change(app: Flask, publish: Any, context: Flask) -> None:
    publish(TEAM)
    meters.archive_meter("calls", SYSTEM_ACTOR)
    exported = export_plan(app, "team")
    assert publish(exported).output == "team@1 says the same; nothing to publish.\n"
    assert publish({**exported, "base_amount": "59.00"}).exit_code == 0
    assert "meter calls is archived" in publish(changed(base_amount="69.00")).stderr


def test_meter_of_a_plan_file_may_be_one_that_exists(app: Flask, publish: Any, context: Flask) -> None:
    meters.publish_meter({**TEAM["meters"][0], "description": "Spoken."}, SYSTEM_ACTOR)  # type: ignore[index]  # a list
    assert publish(TEAM).exit_code == 0
    assert "is another" in publish(changed(meters=[{"code": "calls", "name": "Calls", "unit": "hour"}])).stderr


def test_change_of_the_name_needs_no_version(app: Flask, publish: Any) -> None:
    publish(TEAM)
    assert publish(changed(name="Team of ten")).output.endswith("team changed; its prices are as they were.\n")
    assert export_plan(app, "team@1")["name"] == "Team of ten"


def test_list_counts_the_organizations_of_each_version(app: Flask, context: Flask) -> None:
    create_organization(plan="pro@1")
    listed = json.loads(app.test_cli_runner().invoke(args=["plans", "list", "--json"]).stdout)["plans"]
    assert [plan["version"] for plan in listed] == ["free@1", "starter@1", "pro@1", "scale@1"]
    assert [plan["organizations"] for plan in listed] == [0, 0, 1, 0]
