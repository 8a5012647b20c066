"""`GET /usage/timeseries` and the usage CSV: no gaps, days of 23 and 25 hours, at most 744 points.

| caller | status |
|---|---|
| anonymous | 401 |
| owner, key with usage:read | 200 |
| key without it | 403 INSUFFICIENT_SCOPE |
"""

import csv
import io
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.core import clock, ids, time_zones
from saas_api.core.db import tenancy
from saas_api.usage import ranges
from saas_api.usage.ranges import DateRange, InvalidDateRange
from tests.support.usage import APRIL_15, UsageOrganization, sign_up_organization

PATH = "/usage/timeseries"


pytestmark = pytest.mark.usefixtures("april")


def at(day: int, hour: int = 0, minute: int = 0, month: int = 4) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def live_in(organization: UsageOrganization, zone: str) -> None:
    with organization.client.application.app_context(), tenancy.system_session("auth.register") as session:
        session.execute(
            text("UPDATE organizations SET timezone = :zone WHERE id = :id"), {"zone": zone, "id": organization.id}
        )


def days(zone: str, first: str, last: str) -> DateRange:
    return DateRange(date.fromisoformat(first), date.fromisoformat(last), time_zones.get_zone(zone))


def refused(organization: UsageOrganization, **query: Any) -> Any:
    response = organization.client.get(f"/api/v1{PATH}", query_string=query, headers=organization.owner.headers)
    assert response.status_code == 422, response.json
    return response.json["error"]["details"]["fields"]


def counts(points: Any) -> dict[str, int]:
    return {point["at"]: point["requests"] for point in points if point["requests"]}


def test_timeseries_needs_the_usage_permission_or_scope(acme: UsageOrganization, client: FlaskClient) -> None:
    assert client.get(f"/api/v1{PATH}").status_code == 401
    assert acme.get(PATH) == acme.get(PATH, headers=acme.key_headers["first"])
    acme.make_key("mute", scopes=["messages:write"])
    response = client.get(f"/api/v1{PATH}", headers=acme.key_headers["mute"])
    assert (response.status_code, response.json["error"]["code"]) == (403, "INSUFFICIENT_SCOPE")


def test_range_has_a_point_for_every_day_or_hour(acme: UsageOrganization) -> None:
    data = acme.get(PATH, start_date="2026-04-01", end_date="2026-04-10")
    assert [point["date"] for point in data["points"]] == [f"2026-04-{n:02d}" for n in range(1, 11)]
    assert {(point["requests"], point["cost"]) for point in data["points"]} == {(0, "0.00")}
    hours = acme.get(PATH, start_date="2026-04-01", end_date="2026-04-02", interval="hour")["points"]
    assert len(hours) == 48
    assert hours[0]["at"] == "2026-04-01T00:00:00.000Z"
    assert hours[47]["at"] == "2026-04-02T23:00:00.000Z"


def test_calls_are_in_their_hour_before_and_after_the_roll_up(acme: UsageOrganization) -> None:
    acme.use(3, at=at(2, 23, 59), key="first")
    acme.use(2, at=at(3), key="second")
    acme.roll_up()
    acme.use(5, at=at(3, 0, 30))
    query = {"start_date": "2026-04-02", "end_date": "2026-04-03", "meter": "sms"}
    hours = acme.get(PATH, interval="hour", **query)["points"]
    assert counts(hours) == {"2026-04-02T23:00:00.000Z": 1, "2026-04-03T00:00:00.000Z": 2}
    by_day = acme.get(PATH, **query)["points"]
    assert [(point["requests"], point["quantity"], point["cost"]) for point in by_day] == [
        (1, "3", "0.03"),
        (2, "7", "0.07"),
    ]


def test_series_add_up_to_the_points(acme: UsageOrganization) -> None:
    acme.use(3, at=at(2), key="first")
    acme.use(2, at=at(3), key="second", meter="email")
    acme.use(1, at=at(3))
    for group_by, groups in {
        "meter": ["email", "sms"],
        "key": [None, ids.format_id("key", acme.keys["first"]), ids.format_id("key", acme.keys["second"])],
        "source": ["messages.send"],
    }.items():
        data = acme.get(PATH, start_date="2026-04-01", end_date="2026-04-04", group_by=group_by)
        assert sorted((series["group"] for series in data["series"]), key=str) == sorted(groups, key=str)
        for index, point in enumerate(data["points"]):
            parts = [series["points"][index] for series in data["series"]]
            assert sum(part["requests"] for part in parts) == point["requests"]
            assert sum(Decimal(part["cost"]) for part in parts) == Decimal(point["cost"])
            assert {part["at"] for part in parts} == {point["at"]}
    names = {series["name"] for series in acme.get(PATH, group_by="key")["series"]}
    assert names == {"first", "second", None}


def test_quantities_of_different_meters_are_not_added(acme: UsageOrganization) -> None:
    acme.use(3, at=at(2))
    query = {"start_date": "2026-04-02", "end_date": "2026-04-02"}
    assert acme.get(PATH, **query)["points"][0]["quantity"] is None
    assert acme.get(PATH, meter="sms", **query)["points"][0]["quantity"] == "3"
    [series] = acme.get(PATH, group_by="meter", **query)["series"]
    assert series["points"][0]["quantity"] == "3"


def test_timeseries_agrees_with_the_usage_report(acme: UsageOrganization) -> None:
    for day in (1, 2, 2, 9):
        acme.use(3, at=at(day, 23, 59), key="first")
    report = acme.get("/usage", start_date="2026-04-01", end_date="2026-04-10")
    points = acme.get(PATH, start_date="2026-04-01", end_date="2026-04-10")["points"]
    assert [(point["date"], point["requests"], point["cost"]) for point in points] == [
        (day["date"], day["success_count"], day["cost"]) for day in report["daily_breakdown"]
    ]


def test_reversal_lowers_the_quantity_of_its_point(acme: UsageOrganization) -> None:
    acme.reverse(acme.use(3, at=at(2)))
    [point] = acme.get(PATH, start_date="2026-04-02", end_date="2026-04-02", meter="sms")["points"]
    assert (point["quantity"], point["cost"], point["requests"]) == ("0", "0.00", 1)


def test_days_with_a_clock_change_have_23_or_25_hours(acme: UsageOrganization) -> None:
    live_in(acme, "America/New_York")
    acme.use(1, at=at(8, 4, 59, month=3))
    acme.use(1, at=at(8, 5, month=3))
    acme.use(1, at=at(9, 3, 59, month=3))
    acme.use(1, at=at(9, 4, month=3))
    points = acme.get(PATH, start_date="2026-03-07", end_date="2026-03-09")["points"]
    assert [(point["at"], point["requests"]) for point in points] == [
        ("2026-03-07T05:00:00.000Z", 1),
        ("2026-03-08T05:00:00.000Z", 2),
        ("2026-03-09T04:00:00.000Z", 1),
    ]
    hours = acme.get(PATH, start_date="2026-03-08", end_date="2026-03-08", interval="hour")["points"]
    assert (len(hours), {point["date"] for point in hours}) == (23, {"2026-03-08"})
    assert len(ranges.bucket_starts(days("America/New_York", "2026-11-01", "2026-11-01"), "hour")) == 25


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Asia/Kolkata", "2026-04-10", 24),
        ("Asia/Kathmandu", "2026-04-10", 24),
        ("Australia/Lord_Howe", "2026-04-06", 24),
        ("Africa/Cairo", "2026-04-24", 23),
        ("Europe/Berlin", "2026-10-25", 25),
    ],
)
def test_hours_are_local_without_gap_or_overlap(zone: str, day: str, hours: int) -> None:
    whole = days(zone, day, day)
    points = ranges.bucket_starts(whole, "hour")
    assert (len(points), points[0]) == (hours, whole.starts_at)
    assert {after - before for before, after in zip(points, [*points[1:], whole.ends_at], strict=True)} == {
        timedelta(hours=1)
    }


def test_clock_change_of_half_an_hour_leaves_no_gap() -> None:
    whole = days("Australia/Lord_Howe", "2026-04-05", "2026-04-05")
    points = ranges.bucket_starts(whole, "hour")
    assert (points, len(points)) == (sorted(set(points)), 25)
    assert whole.ends_at - points[-1] == timedelta(hours=1)


def test_calls_in_a_half_hour_time_zone_are_in_their_hour(acme: UsageOrganization) -> None:
    live_in(acme, "Asia/Kolkata")
    acme.use(1, at=at(9, 18, 29))
    acme.use(1, at=at(9, 18, 30))
    acme.roll_up()
    points = acme.get(PATH, start_date="2026-04-09", end_date="2026-04-10", interval="hour")["points"]
    assert counts(points) == {"2026-04-09T17:30:00.000Z": 1, "2026-04-09T18:30:00.000Z": 1}
    by_day = acme.get(PATH, start_date="2026-04-09", end_date="2026-04-10")["points"]
    assert [point["requests"] for point in by_day] == [1, 1]


def test_timeseries_has_at_most_744_points(acme: UsageOrganization) -> None:
    assert len(acme.get(PATH, start_date="2026-03-01", end_date="2026-03-31", interval="hour")["points"]) == 744
    [problem] = refused(acme, start_date="2026-03-01", end_date="2026-04-01", interval="hour")
    assert problem["field"] == "end_date"
    assert refused(acme, start_date="2025-04-20", end_date="2026-04-15", interval="hour")
    assert len(acme.get(PATH, start_date="2025-04-20", end_date="2026-04-15")["points"]) == 361
    with pytest.raises(InvalidDateRange):
        ranges.bucket_starts(days("Europe/Berlin", "2026-10-01", "2026-10-31"), "hour")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"interval": "minute"}, "interval"),
        ({"group_by": "colour"}, "group_by"),
        ({"meter": "voice"}, "meter"),
        ({"start_date": "2026-04-10", "end_date": "2026-04-01"}, "end_date"),
        ({"start_date": "10.4.2026"}, "start_date"),
        ({"unheard": "of"}, "unheard"),
    ],
)
def test_invalid_query_is_rejected(acme: UsageOrganization, query: dict[str, str], field: str) -> None:
    assert field in {problem["field"] for problem in refused(acme, **query)}


def test_other_organization_sees_no_calls(acme: UsageOrganization, client: FlaskClient) -> None:
    acme.use(3, at=at(2))
    carol = sign_up_organization(client, "Carol & Co", "carol@carol.example", at=at(1, month=3))
    clock.freeze_time(APRIL_15)
    assert not counts(carol.get(PATH)["points"])


def table(organization: UsageOrganization, **query: Any) -> list[dict[str, str]]:
    response = organization.client.get(
        "/api/v1/usage", query_string={"format": "csv", **query}, headers=organization.owner.headers
    )
    assert response.status_code == 200, response.json
    assert response.headers["Content-Type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(response.data.decode("utf-8-sig"), newline="")))


def test_csv_adds_up_to_the_usage_report(acme: UsageOrganization) -> None:
    acme.use(3, at=at(2), key="first")
    acme.use(2, at=at(3), key="second", meter="email")
    acme.refuse("failed", 2)
    acme.refuse("rate_limited", 3, key="second")
    query = {"start_date": "2026-04-01", "end_date": "2026-04-15"}
    rows, report = table(acme, **query), acme.get("/usage", **query)
    by_outcome = {row["outcome"]: int(row["requests"]) for row in rows if row["outcome"] != "accepted"}
    assert by_outcome == {"failed": 2, "rate_limited": 3}
    assert sum(int(row["requests"]) for row in rows) == report["summary"]["total_requests"]
    assert sum(Decimal(row["cost"] or 0) for row in rows) == Decimal(report["summary"]["list_cost"])
    sms = next(row for row in rows if row["meter"] == "sms")
    assert {"date": "2026-04-02", "api_key_name": "first", "quantity": "3", "cost": "0.03"}.items() <= sms.items()


def test_csv_escapes_formulas_in_key_names(acme: UsageOrganization) -> None:
    acme.make_key("=cmd|' /C calc'!A0")
    acme.use(1, at=at(2), key="=cmd|' /C calc'!A0")
    [row] = table(acme, start_date="2026-04-02", end_date="2026-04-02")
    assert row["api_key_name"] == "'=cmd|' /C calc'!A0"
