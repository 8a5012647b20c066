"""Plans beside each other: what they include and charge, and which is the cheapest."""

from decimal import Decimal

import pytest
from flask.testing import FlaskClient

from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.charges import MeterPrice, PriceModel, Tier
from saas_api.dashboard import prices
from saas_api.dashboard.prices import ComparedPlan
from saas_api.usage.meter_file import MeterContent

CALL = MeterContent("calls", "Calls", "call")


def plan(code: str, price: MeterPrice | None, rate_limit: int | None = 60, total: int | None = None) -> ComparedPlan:
    by_meter = {"calls": price} if price else {}
    return ComparedPlan(code, RatedPlanVersion(f"{code}@1", code.title(), "USD", 900, 0, by_meter), rate_limit, total)


def row(label: str, *compared: ComparedPlan) -> list[list[str]]:
    [cells] = [row.cells for row in prices.tabulate(compared, {"calls": CALL}).rows if row.label == label]
    return [list(lines) for lines in cells]


def test_each_model_of_a_price_is_said_shortly() -> None:
    tiers = (Tier(Decimal(1000), Decimal("0.02"), 100), Tier(None, Decimal("0.0125"), 0))
    compared = [
        plan("unit", MeterPrice(PriceModel.PER_UNIT, unit_price=Decimal("0.0025"), max_amount_minor=5_000)),
        plan("package", MeterPrice(PriceModel.PACKAGE, package_size=Decimal(1_000), package_amount_minor=200)),
        plan("tiers", MeterPrice(PriceModel.GRADUATED, tiers=tiers)),
        plan("without", None),
    ]
    assert row("Price per call", *compared) == [
        ["$0.0025", "At most $50.00 a month"],
        ["$2.00 for every 1,000"],
        ["1\N{EN DASH}1,000: $0.02 plus $1.00", "From 1,001: $0.0125"],
        [],
    ]


def test_included_units_have_a_row_where_a_plan_has_some() -> None:
    generous = MeterPrice(PriceModel.PER_UNIT, included_quantity=Decimal(1_000), unit_price=Decimal(1))
    compared = [plan("free", generous), plan("pro", MeterPrice(PriceModel.PER_UNIT, unit_price=Decimal("0.5")))]
    assert row("Included calls", *compared) == [["1,000"], []]
    assert row("Price per additional call", *compared) == [["$1.00"], ["$0.50"]]
    assert row("Calls per minute", plan("old", None, None), *compared) == [[], ["60"], ["60"]]


@pytest.mark.parametrize(("needed", "cheapest"), [(0, "free"), (60, "free"), (61, "starter"), (601, "")])
def test_cheapest_plan_allows_the_calls_that_are_needed(needed: int, cheapest: str) -> None:
    compared = [plan("free", None, 60, 500), plan("starter", None, 600, 700), plan("pro", None, 600, 700)]
    assert prices.tabulate(compared, {}, needed).cheapest_code == cheapest


def test_without_quantities_no_plan_is_the_cheapest() -> None:
    assert prices.tabulate([plan("free", None)], {}).cheapest_code == ""


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("sms=50,000&email=20000", "Pro is the cheapest plan for this usage: $359.00 a month."),
        ("sms=3900", "Free is the cheapest plan for this usage: $29.00 a month."),
        ("sms=3901", "Starter is the cheapest plan for this usage: $29.00 a month."),
        ("email=31000", "Starter is the cheapest plan for this usage: $29.00 a month."),
        ("sms=25000", "Pro is the cheapest plan for this usage: $224.00 a month."),
        ("sms=250001", "Scale is the cheapest plan for this usage: $1,349.00 a month."),
        ("sms=500&calls_per_minute=100", "Starter is the cheapest plan for this usage: $29.00 a month."),
        ("sms=500&calls_per_minute=1000000", "No plan allows that many calls per minute."),
    ],
)
def test_pricing_names_the_cheapest_plan(client: FlaskClient, query: str, sentence: str) -> None:
    """R14: each plan is the cheapest for some usage."""
    page = client.get(f"/pricing?{query}").text
    assert sentence in page.replace("<strong>", "").replace("</strong>", "")
    assert page.count("</span> Cheapest</span>") == ("cheapest" in sentence)


def test_pricing_asks_again_for_a_wrong_number(client: FlaskClient) -> None:
    for query in ("sms=many", "calls_per_minute=-1"):
        response = client.get(f"/pricing?{query}")
        assert response.status_code == 422
        assert "cheapest plan" not in response.text


def test_landing_page_sells_the_api(client: FlaskClient) -> None:
    page = client.get("/").text
    for text in ("Send SMS and email with one API", "from $0.002", "from $0.0002", "Choose Free", "SMS segment"):
        assert text in page
