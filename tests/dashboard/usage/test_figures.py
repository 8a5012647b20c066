"""The usage page: access, figures equal to the API's, and rejected ranges.

| page | permission |
|---|---|
| usage, its tabs and tables | usage:read, in every role |
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import formatting, time_zones
from saas_api.core.formatting import EMPTY_VALUE
from saas_api.dashboard import usage
from saas_api.dashboard.usage import CallSeries
from saas_api.usage.meter_file import MeterContent
from saas_api.usage.ranges import DateRange
from tests.support.accounts import User
from tests.support.pages import check_access
from tests.support.usage import UsageOrganization
from tests.support.usage_pages import TODAY, download_csv, open_usage, read_stats, read_table

PAGES = {
    "GET /dashboard/usage": "usage:read",
    "GET /dashboard/usage?tab=day&format=csv": "usage:read",
}
COUNTS = ("requests", "success_count", "error_count")


def test_every_role_sees_usage(app: Flask, client: FlaskClient, alice: User) -> None:
    check_access(app, client, alice, PAGES)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("range=7d", {"start_date": "2026-04-09", "end_date": "2026-04-15"}),
        ("range=30d", {"start_date": "2026-03-17", "end_date": "2026-04-15"}),
        ("range=period", {"start_date": "2026-04-01", "end_date": "2026-04-15"}),
        ("range=last_period", {"start_date": "2026-03-01", "end_date": "2026-03-31"}),
        ("start_date=2026-04-01&end_date=2026-04-02", {"start_date": "2026-04-01", "end_date": "2026-04-02"}),
        ("range=custom&start_date=2026-04-10", {"start_date": "2026-04-10"}),
        ("range=30d&start_date=2026-04-01&end_date=2026-04-02", {"start_date": "2026-04-01", "end_date": "2026-04-02"}),
        ("mode=test", {"mode": "test"}),
    ],
)
def test_figures_equal_the_api(app: Flask, acme: UsageOrganization, query: str, parameters: dict[str, str]) -> None:
    api = acme.get("/usage", **parameters)
    summary, page = api["summary"], open_usage(app, acme, query)
    figures = read_stats(page)
    assert figures["Calls"] == f"{summary['total_requests']:,}"
    assert figures["Accepted"] == f"{summary['successful_requests']:,}"
    assert figures["Rejected"] == f"{summary['failed_requests']:,}"
    assert figures["Rate limited"] == f"{summary['rate_limited_requests']:,}"
    is_test = parameters.get("mode") == "test"
    assert figures["Usage cost"] == (EMPTY_VALUE if is_test else f"${summary['total_cost']}")
    assert Decimal(re.findall(r"([\d.]+)% of calls within the rate limit", page)[0]) == Decimal(
        str(summary["success_rate"])
    )
    if summary["total_requests"]:
        assert f"{summary['rate_limited_requests']} of {summary['total_requests']}" in page


@pytest.mark.parametrize(
    ("tab", "part", "names"),
    [
        ("endpoint", "by_endpoint", ("method", "endpoint")),
        ("key", "by_api_key", ("api_key_id", "name")),
        ("day", "daily_breakdown", ("date",)),
    ],
)
def test_csv_equals_the_api(app: Flask, acme: UsageOrganization, tab: str, part: str, names: tuple[str, ...]) -> None:
    api = acme.get("/usage")
    expected = {
        (*(row[name] or "" for name in names), *(str(row[name]) for name in COUNTS), Decimal(row["cost"]), "USD")
        for row in api[part]
    }
    rows = download_csv(app, acme, f"tab={tab}")
    assert len(rows) == len(api[part])
    assert {
        (*(row[name] for name in (*names, *COUNTS)), Decimal(row["cost"]), row["currency"]) for row in rows
    } == expected
    listed = read_table(open_usage(app, acme, f"tab={tab}&rows=all"))
    assert len(listed) == len(rows)
    for row, cells in zip(rows, listed, strict=True):
        assert cells[1] == row["requests"]
        assert cells[2] == row["success_count"]
        assert int(cells[3]) + int(cells[4]) == int(row["error_count"])
        assert cells[5] == formatting.format_cost(Decimal(row["cost"]), "USD")


def test_long_tables_show_their_first_rows_until_all_are_asked_for(app: Flask, acme: UsageOrganization) -> None:
    page = open_usage(app, acme, "tab=day&range=30d")
    assert len(read_table(page)) == 25
    assert "Show all 30 rows" in page
    page = open_usage(app, acme, "tab=day&range=30d&rows=all")
    assert len(read_table(page)) == 30
    assert "Show all" not in page
    assert len(download_csv(app, acme, "tab=day&range=30d")) == 30
    assert "Show all 30 rows" in open_usage(app, acme, "meter=sms&tab=day")


def test_chart_equals_the_timeseries_of_the_api(app: Flask, acme: UsageOrganization) -> None:
    api = acme.get("/usage/timeseries", group_by="meter")
    by_meter = {series["group"]: [point["requests"] for point in series["points"]] for series in api["series"]}
    page = open_usage(app, acme)
    tips = re.findall(r'data-tip="([^"]*)"', page)
    assert len(tips) == 30
    for n, tip in enumerate(tips):
        counts = [f"{name} {by_meter[code][n]}" for name, code in (("Email", "email"), ("SMS", "sms"))]
        expected = ", ".join(word for word in counts if not word.endswith(" 0")) or "0"
        assert tip.partition(": ")[2] == expected
    assert [label.partition(":")[0] for label in tips][::29] == ["Mar 17", "Apr 15"]
    assert "Accepted calls per day, by meter (UTC)" in page


def test_last_24_hours_are_shown_by_hour(app: Flask, acme: UsageOrganization) -> None:
    acme.use(1, at=TODAY - timedelta(hours=20), key="first")
    points = acme.get("/usage/timeseries", interval="hour", start_date="2026-04-14", end_date="2026-04-15")["points"]
    last = [point for point in points if "2026-04-14T13:00:00.000Z" <= point["at"] <= "2026-04-15T12:00:00.000Z"]
    page = open_usage(app, acme, "range=24h")
    tips = re.findall(r'data-tip="(\d+:00\s[AP]M): (?:SMS )?(\d+)"', page)
    hours = [formatting.format_clock_time(datetime.fromisoformat(point["at"]), "UTC") for point in last]
    assert tips == [(hour, str(point["requests"])) for hour, point in zip(hours, last, strict=True)]
    assert read_stats(page)["Accepted"] == "2"
    assert "Last 24 hours, including the current hour" in page


def test_previous_range_is_compared(app: Flask, acme: UsageOrganization) -> None:
    assert "Up 600% on the 30 days before" in open_usage(app, acme)
    acme.use(1, at=datetime(2026, 4, 8, 12, tzinfo=UTC), key="first")
    acme.use(1, at=datetime(2026, 4, 8, 13, tzinfo=UTC), key="first")
    assert "As much as in the 7 days before" in open_usage(app, acme, "range=7d")


def test_more_than_four_meters_are_shown_as_three_and_others() -> None:
    starts = [datetime(2026, 4, 14, tzinfo=UTC), datetime(2026, 4, 15, tzinfo=UTC)]
    by_meter = {"a": [1, 0], "b": [9, 9], "c": [2, 0], "d": [8, 8], "e": [7, 7]}
    days = DateRange(starts[0].date(), starts[1].date(), time_zones.get_zone("UTC"))
    meters = {code: MeterContent(code, code.upper(), "unit") for code in by_meter}
    chart = usage.call_chart(CallSeries("day", starts, by_meter, 0), days, meters)
    assert chart.legend == ((1, "B", "18"), (2, "D", "16"), (3, "E", "14"), (4, "Others", "3"))
    assert chart.buckets[0].tip == "Apr 14: B 9, D 8, E 7, Others 3"


def test_long_range_is_shown_by_week(app: Flask, acme: UsageOrganization) -> None:
    page = open_usage(app, acme, "start_date=2025-04-16&end_date=2026-04-15")
    assert "Each bar adds up 7 days." in page
    assert len(re.findall(r'class="bucket"', page)) == 53
