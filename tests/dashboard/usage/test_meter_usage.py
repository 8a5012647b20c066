"""The usage page with a meter chosen: its figures, tables, CSV and chart, whatever its aggregation."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from tests.support.usage import UsageOrganization
from tests.support.usage_events import publish_meter
from tests.support.usage_pages import download_csv, open_usage, read_stats, read_table

DAYS = "start_date=2026-04-01&end_date=2026-04-03"


@pytest.fixture
def lookups(app: Flask, acme: UsageOrganization) -> UsageOrganization:
    """Acme with lookups of three models, seats that be added up, and a call of each of five other meters."""
    publish_meter(app)
    publish_meter(app, code="seats", name="Seats", unit="seat", aggregation="max", dimensions=["plan"])
    for number, (model, quantity) in enumerate([("small", "1.5"), ("large", "4"), ("<b>", "2")]):
        at, properties = datetime(2026, 4, 1 + number, 10, tzinfo=UTC), {"model": model}
        options = {"properties": properties, "endpoint": "POST /v1/lookups"}
        acme.use(Decimal(quantity), meter="lookups", at=at, key="second", **options)  # type: ignore[arg-type]
        acme.use(9 - number, meter="seats", at=at, properties={"plan": "pro"})
    for number in range(5):
        publish_meter(app, code=f"meter{number}", name=f"Meter {number}", unit="unit", dimensions=[])
        acme.use(meter=f"meter{number}", at=datetime(2026, 4, 1, tzinfo=UTC))
    return acme


def test_page_of_a_meter_has_its_quantity_and_dimensions(app: Flask, lookups: UsageOrganization) -> None:
    page = open_usage(app, lookups, f"{DAYS}&meter=lookups&tab=dimension:model")
    assert read_stats(page)["Used"] == "7.5"
    assert [row[:3] for row in read_table(page)] == [
        ["large", "4", "1"],
        ["&lt;b&gt;", "2", "1"],
        ["small", "1.5", "1"],
    ]
    assert "Lookups per day (" in page
    assert re.search(r"By model", page)


@pytest.mark.parametrize(
    ("tab", "rows"),
    [
        ("endpoint", [["POST /v1/lookups", "7.5", "3"]]),
        ("key", [["second", "7.5", "3"]]),
        ("day", [["Apr 3, 2026", "2", "1"], ["Apr 2, 2026", "4", "1"], ["Apr 1, 2026", "1.5", "1"]]),
    ],
)
def test_tables_of_a_meter_and_their_csv(
    app: Flask, lookups: UsageOrganization, tab: str, rows: list[list[str]]
) -> None:
    query = f"{DAYS}&meter=lookups&tab={tab}"
    assert [row[:3] for row in read_table(open_usage(app, lookups, query))] == rows
    table = download_csv(app, lookups, query)
    assert [row["quantity"] for row in table] == [row[1] for row in rows]
    assert {(row["meter"], row["unit"], row["currency"]) for row in table} == {("lookups", "lookup", "USD")}


@pytest.mark.parametrize(
    ("query", "offered"),
    [
        ("start_date=2026-04-02&end_date=2026-04-03", {"email", "lookups", "seats", "sms"}),
        ("start_date=2026-04-04&end_date=2026-04-05", {"email", "sms"}),
        ("start_date=2026-04-04&end_date=2026-04-05&meter=meter1", {"email", "meter1", "sms"}),
    ],
)
def test_filter_offers_meters_with_usage_in_the_range_or_a_price(
    app: Flask, lookups: UsageOrganization, query: str, offered: set[str]
) -> None:
    """The plan prices sms and email; the chosen meter stays."""
    [choices] = re.findall(r'<select[^>]* name="meter".*?</select>', open_usage(app, lookups, query), re.DOTALL)
    assert set(re.findall(r'<option value="([^"]+)"', choices)) == offered


@pytest.mark.parametrize("tab", ["endpoint", "day", "dimension:plan"])
def test_values_of_a_meter_that_does_not_add_up_are_not_summed(
    app: Flask, lookups: UsageOrganization, tab: str
) -> None:
    page = open_usage(app, lookups, f"{DAYS}&meter=seats&tab={tab}")
    assert read_stats(page)["Used"] == "9"
    assert ("be added up" in page, "List cost" in page, "Highest: 9" in page) == (True, False, True)
    assert {row["cost"] for row in download_csv(app, lookups, f"{DAYS}&meter=seats&tab={tab}")} == {""}


def test_every_meter_is_in_the_table_by_meter_and_the_chart_stays_readable(
    app: Flask, lookups: UsageOrganization
) -> None:
    page = open_usage(app, lookups, f"{DAYS}&tab=meter")
    names = [row[0] for row in read_table(page)]
    assert {"Lookups", "Seats", "Meter 0", "Meter 4"} <= set(names)
    legend = re.findall(r"<li><svg.*?</svg>([^<]+)<", page, re.DOTALL)
    assert (len(legend), legend[-1].strip()) == (4, "Others")
    rows = {row["meter"]: row for row in download_csv(app, lookups, f"{DAYS}&tab=meter")}
    assert (rows["seats"]["quantity"], rows["lookups"]["quantity"]) == ("9", "7.5")


@pytest.mark.parametrize("query", ["meter=nothing", "meter=lookups&tab=dimension:planet", "tab=dimension:model"])
def test_unknown_meter_or_dimension_is_reported(app: Flask, lookups: UsageOrganization, query: str) -> None:
    assert re.search("This meter does not exist|Unknown tab", open_usage(app, lookups, query, status=422))


def test_usage_that_is_archived_is_named_where_it_is_missing(
    app: Flask, lookups: UsageOrganization, superuser: Any
) -> None:
    dates = {"start_date": "2026-04-01", "end_date": "2026-04-30"}
    april = "&".join(f"{name}={day}" for name, day in dates.items())
    reports: list[tuple[str, dict[str, str], bool]] = [
        ("/usage", {}, True),
        ("/usage", {"meter": "lookups"}, False),
        ("/usage/timeseries", {"meter": "seats"}, True),
        ("/usage/timeseries", {"group_by": "meter"}, True),
        ("/usage/timeseries", {"meter": "lookups"}, False),
    ]

    def read_reports() -> list[str | None]:
        return [lookups.get(path, None, **dates, **query)["archived_before"] for path, query, _ in reports]

    pages = {f"{april}&meter=seats": True, f"{april}&tab=meter": True, f"{april}&meter=lookups": False, april: False}
    assert not any(read_reports())
    assert not any("is archived" in open_usage(app, lookups, query) for query in pages)
    with superuser, superuser.cursor() as cursor:
        cursor.execute("INSERT INTO archived_partitions VALUES ('usage_events', '2026-04-01', 1, '')")
    assert read_reports() == ["2026-05-01T00:00:00.000Z" if is_missing else None for *_, is_missing in reports]
    text = "Usage before May 1, 2026"
    assert {query: text in open_usage(app, lookups, query) for query in pages} == pages
