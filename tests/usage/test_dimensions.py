"""Usage of any meter, by its dimensions and filtered: the API, its time series and CSV."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import make_key
from tests.support.metering import verify
from tests.support.services import create_service
from tests.support.usage import UsageOrganization
from tests.support.usage_events import publish_meter

pytestmark = pytest.mark.usefixtures("april")
SERIES = "/usage/timeseries"


def at(day: int) -> datetime:
    return datetime(2026, 4, day, 10, tzinfo=UTC)


@pytest.fixture
def lookups(app: Flask, acme: UsageOrganization) -> UsageOrganization:
    """Acme with lookups of two models on three days, the last without a model, and seats that do not add up."""
    publish_meter(app, dimensions=["model", "country"])
    publish_meter(app, code="seats", name="Seats", unit="seat", aggregation="max", dimensions=["plan"])
    for day, quantity, properties in (
        (1, "1.5", {"model": "small"}),
        (2, "2", {"model": "large", "country": "NG"}),
        (2, "4", {"model": "small", "ignored": "x"}),
        (3, "0.25", {}),
    ):
        options: dict[str, Any] = {"properties": properties, "endpoint": "POST /v1/lookups"}
        acme.use(Decimal(quantity), meter="lookups", at=at(day), **options)  # type: ignore[arg-type]
    for day, seats, plan in ((1, 5, "a"), (2, 9, "b"), (3, 7, "a")):
        acme.use(seats, meter="seats", at=at(day), properties={"plan": plan})
    return acme


def refused(organization: UsageOrganization, path: str, **query: Any) -> list[dict[str, str]]:
    response = organization.client.get(f"/api/v1{path}", query_string=query, headers=organization.owner.headers)
    assert response.status_code == 422, response.json
    fields: list[dict[str, str]] = response.json["error"]["details"]["fields"]
    return fields


def quantities(points: list[dict[str, Any]]) -> dict[str, str]:
    return {point["date"]: point["quantity"] for point in points if point["requests"]}


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_report_adds_up_by_the_values_of_each_dimension(lookups: UsageOrganization, *, is_rolled_up: bool) -> None:
    if is_rolled_up:
        lookups.roll_up()
    report = lookups.get("/usage", start_date="2026-04-01", end_date="2026-04-03")
    found = [(row["dimension"], row["value"], row["requests"], row["quantity"]) for row in report["by_dimension"]]
    assert sorted(found, key=str) == [
        ("country", "NG", 1, "2"),
        ("country", None, 3, "5.75"),
        ("model", "large", 1, "2"),
        ("model", "small", 2, "5.5"),
        ("model", None, 1, "0.25"),
        ("plan", "a", 2, "7"),
        ("plan", "b", 1, "9"),
    ]
    assert {row["meter"]: row["quantity"] for row in report["by_meter"]} == {"lookups": "7.75", "seats": "9"}
    assert ("POST", "/v1/lookups") in {(row["method"], row["endpoint"]) for row in report["by_endpoint"]}


def test_report_of_one_meter_has_its_calls_only(lookups: UsageOrganization) -> None:
    lookups.refuse("failed", 2)
    report = lookups.get("/usage", start_date="2026-04-01", end_date="2026-04-03", meter="seats")
    assert ([row["meter"] for row in report["by_meter"]], report["summary"]["total_requests"]) == (["seats"], 3)
    assert {row["meter"] for row in report["by_dimension"]} == {"seats"}
    assert refused(lookups, "/usage", meter="nothing")[0]["field"] == "meter"


def test_time_series_by_a_dimension_has_a_series_for_each_value(lookups: UsageOrganization) -> None:
    days = {"start_date": "2026-04-01", "end_date": "2026-04-03"}
    answer = lookups.get(SERIES, meter="lookups", group_by="dimension:model", **days)
    assert {series["group"]: quantities(series["points"]) for series in answer["series"]} == {
        "large": {"2026-04-02": "2"},
        "small": {"2026-04-01": "1.5", "2026-04-02": "4"},
        None: {"2026-04-03": "0.25"},
    }
    assert quantities(answer["points"]) == {"2026-04-01": "1.5", "2026-04-02": "6", "2026-04-03": "0.25"}


def test_days_of_a_meter_that_does_not_add_up_have_their_own_values(lookups: UsageOrganization) -> None:
    answer = lookups.get(SERIES, meter="seats", start_date="2026-04-01", end_date="2026-04-03")
    assert quantities(answer["points"]) == {"2026-04-01": "5", "2026-04-02": "9", "2026-04-03": "7"}


@pytest.mark.parametrize(
    "query",
    [
        {"group_by": "dimension:model"},
        {"group_by": "dimension:planet", "meter": "lookups"},
        {"group_by": "dimension:", "meter": "lookups"},
        {"group_by": "dimension:a b", "meter": "lookups"},
        {"group_by": "color"},
    ],
)
def test_unknown_group_is_refused(lookups: UsageOrganization, query: dict[str, str]) -> None:
    assert refused(lookups, SERIES, **query)[0]["field"] == "group_by"


def test_rows_of_the_csv_have_dimensions_and_can_be_of_one_meter(lookups: UsageOrganization) -> None:
    days = {"start_date": "2026-04-01", "end_date": "2026-04-03"}
    query = {"format": "csv", "meter": "lookups", **days}
    response = lookups.client.get("/api/v1/usage", query_string=query, headers=lookups.owner.headers)
    rows = list(csv.DictReader(io.StringIO(response.data.decode("utf-8-sig"))))
    assert sorted((row["date"], row["quantity"], row["endpoint"], row["dimensions"]) for row in rows) == [
        ("2026-04-01", "1.5", "/v1/lookups", '{"model": "small"}'),
        ("2026-04-02", "2", "/v1/lookups", '{"country": "NG", "model": "large"}'),
        ("2026-04-02", "4", "/v1/lookups", '{"model": "small"}'),
        ("2026-04-03", "0.25", "/v1/lookups", ""),
    ]


def test_test_calls_of_a_service_are_shown_by_dimension_in_test_mode(
    app: Flask, client: FlaskClient, acme: UsageOrganization
) -> None:
    publish_meter(app)
    token, key = create_service(app), make_key(client, acme.owner, mode="test")["X-API-Key"]
    call = {"meter": "lookups", "quantity": "1.5", "dimensions": {"model": "small"}, "endpoint": "POST /v1/lookups"}
    assert verify(client, token, key, **call)["code"] == "VALID"
    [row] = acme.get("/usage", mode="test")["by_dimension"]
    assert (row["value"], row["quantity"], row["cost"]) == ("small", "1.5", "0.00")
    [series] = acme.get(SERIES, mode="test", meter="lookups", group_by="dimension:model")["series"]
    assert (series["group"], sum(point["requests"] for point in series["points"])) == ("small", 1)
    assert acme.get("/usage")["by_dimension"] == []
