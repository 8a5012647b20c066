"""Charts: geometry, texts and markup."""

import re
import xml.etree.ElementTree as ET
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask

from saas_api.core.web import charts
from saas_api.core.web.charts import Chart


def chart(*values: Any, **changes: Any) -> Chart:
    """Bars of one series over days."""
    points = [(f"{n} Mar", value) for n, value in enumerate(values, 1)]
    return charts.bar_chart("c", "Messages per day (UTC)", points, **{"series": ["Messages"], **changes})


def markup(app: Flask, result: Chart) -> str:
    """The markup of a chart."""
    with app.test_request_context():
        return str(app.jinja_env.globals["charts"].bars(result))


def number(percent: str) -> Decimal:
    assert percent.endswith("%")
    return Decimal(percent[:-1])


@pytest.mark.parametrize(
    ("highest", "lines_at"),
    [
        (1, ["0", "1", "2", "3"]),
        (4, ["0", "1", "2", "3", "4"]),
        (5, ["0", "1", "2", "3", "4", "5"]),
        (9, ["0", "2.5", "5", "7.5", "10"]),
        (11, ["0", "2.5", "5", "7.5", "10", "12.5"]),
        (21, ["0", "5", "10", "15", "20", "25"]),
        (40, ["0", "10", "20", "30", "40"]),
        (41, ["0", "10", "20", "30", "40", "50"]),
        (12_345, ["0", "2,500", "5,000", "7,500", "10k", "12.5k"]),
        (3_000_000, ["0", "1M", "2M", "3M"]),
        (Decimal("0.5"), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]),
    ],
)
def test_grid_ends_at_the_lowest_edge_of_three_to_five_round_steps(highest: Any, lines_at: list[str]) -> None:
    """S1: a chart whose highest bar was 21 went up to 40."""
    grid = chart(highest).grid
    assert [text for _, text in grid] == lines_at
    assert [y for y, _ in grid][:: len(grid) - 1] == ["100%", "0%"]


def test_bars_are_stacked_and_proportional_to_their_values() -> None:
    result = charts.bar_chart("c", "Messages", [("1 Mar", 10, 0, 30)], series=["a", "b", "c"])
    first, third = result.buckets[0].bars
    assert (first.series, third.series) == (1, 3)
    assert (first.y, first.height) == ("75%", "25%")
    assert (third.y, third.height) == ("0%", "75%")


def test_bars_do_not_overlap_and_stay_within_the_plot() -> None:
    result = chart(*range(1, 93))
    spans = [(number(bar.x), number(bar.x) + number(bar.width)) for bucket in result.buckets for bar in bucket.bars]
    assert len(spans) == 92
    assert spans[0][0] > 0
    assert spans[-1][1] < 100
    assert all(end < start for (_, end), (start, _) in pairwise(spans))


def test_empty_bucket_is_shown_with_zero() -> None:
    result = chart(0, 1234)
    assert [bucket.tip for bucket in result.buckets] == ["1 Mar: 0", "2 Mar: 1,234"]
    assert [bucket.is_empty for bucket in result.buckets] == [True, False]
    assert [len(bucket.bars) for bucket in result.buckets] == [0, 1]


def test_series_are_named_and_added_up() -> None:
    result = charts.bar_chart(
        "c", "Messages", [("1 Mar", 1, 0, 2000), ("2 Mar", 0, 0, 0)], series=["sms", "mail", "push"]
    )
    assert result.buckets[0].tip == "1 Mar: sms 1, push 2,000"
    assert result.buckets[1].tip == "2 Mar: 0"
    assert result.buckets[0].cells == ("1", "0", "2,000", "2,001")
    assert result.legend == ((1, "sms", "1"), (2, "mail", "0"), (3, "push", "2,000"))


def test_description_has_count_total_and_highest_value() -> None:
    assert chart(1, 1200, 2).description == "3 days, 1,203 in total. Highest: 1,200, 2 Mar."
    assert chart(0, 0).description == "2 days, nothing in any of them."
    assert chart(5, x_name="hour").description == "1 hour, 5 in total. Highest: 5, 1 Mar."


def test_values_are_formatted_by_the_callers_function() -> None:
    result = chart(Decimal("1.50"), fmt=lambda value: f"{value:.2f} USD")
    assert (result.buckets[0].tip, result.buckets[0].cells) == ("1 Mar: 1.50 USD", ("1.50 USD",))
    assert result.description == "1 day, 1.50 USD in total. Highest: 1.50 USD, 1 Mar."


def test_decimals_and_floats_add_up_exactly() -> None:
    assert chart(0.1, 0.2, Decimal("0.3")).description.startswith("3 days, 0.6 in total")


@pytest.mark.parametrize(
    ("previous", "comparison"),
    [
        (None, ""),
        (0, ""),
        (10, "As much as in the 2 days before"),
        (8, "Up 25% on the 2 days before"),
        (16, "Down 37.5% on the 2 days before"),
        (Decimal("0.01"), "Up 99,900% on the 2 days before"),
    ],
)
def test_previous_period_is_compared_unless_it_was_empty(previous: Any, comparison: str) -> None:
    assert chart(4, 6, previous=previous).comparison == comparison


def test_at_most_eight_labels_and_two_thirds_are_minor() -> None:
    for count in range(1, 93):
        labels = chart(*[1] * count).labels
        assert 1 <= len(labels) <= 8, count
        assert [label.is_minor for label in labels] == [n % 3 > 0 for n in range(len(labels))]
        assert labels[0].text == "1 Mar"


def test_more_than_92_buckets_are_added_up_by_seven() -> None:
    days = chart(*[1] * 92)
    assert (len(days.buckets), days.note, days.x_name) == (92, "", "Day")
    by_week = chart(*[1] * 93)
    assert len(by_week.buckets) == 14
    assert [bucket.cells for bucket in (by_week.buckets[0], by_week.buckets[-1])] == [("7",), ("2",)]
    assert by_week.buckets[0].label == "1 Mar to 7 Mar"
    assert (by_week.note, by_week.x_name) == ("Each bar adds up 7 days.", "Days")
    assert by_week.description == "93 days, 93 in total. Highest: 7, 1 Mar to 7 Mar."
    assert {label.text for label in by_week.labels} <= {f"{n} Mar" for n in range(1, 94, 7)}


def test_last_week_of_one_day_is_labeled_with_that_day() -> None:
    assert chart(*[1] * 99).buckets[-1].label == "99 Mar"


def test_more_than_366_points_are_refused() -> None:
    assert len(chart(*[1] * 366).buckets) == 53
    with pytest.raises(ValueError, match="1 to 366 points"):
        chart(*[1] * 367)


@pytest.mark.parametrize("value", [-1, Decimal("-0.01"), float("nan"), Decimal("NaN"), float("inf"), Decimal("inf")])
def test_negative_or_infinite_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="2 Mar: a value is below 0 or no number"):
        chart(1, value)


@pytest.mark.parametrize("series", [[], ["a"] * 5, ["a", "b"]])
def test_wrong_number_of_points_or_series_is_refused(series: list[str]) -> None:
    with pytest.raises(ValueError, match="series"):
        charts.bar_chart("c", "Messages", [("1 Mar", 1)], series=series)
    with pytest.raises(ValueError, match="points"):
        charts.bar_chart("c", "Messages", [], series=["a"])


def test_bars_scale_to_the_highest_stack() -> None:
    assert charts.bar_chart("c", "Messages", [("1", 40, 30)], series=["a", "b"]).grid[-1][1] == "75"


def test_markup_is_well_formed_without_inline_styles(app: Flask) -> None:
    points = [(f"{n} Mar", n, 0, 3 * n, 1) for n in range(1, 31)]
    text = markup(app, charts.bar_chart("use", "Messages per day (UTC)", points, series=["a", "b", "c", "d"]))
    figure = ET.fromstring(text)  # noqa: S314 - of our own template
    axis, plot = figure.findall("./div[@class='chart-body']/svg")
    assert axis.get("aria-hidden") == "true"
    assert "viewBox" not in plot.attrib
    assert "viewBox" not in axis.attrib
    assert "style=" not in text
    names = {node.get("id") for node in figure.iter() if node.get("id")}
    assert {plot.get("aria-labelledby"), plot.get("aria-describedby")} <= names
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= names
    assert len(plot.findall(".//g[@class='bucket']")) == 30


def test_every_bucket_has_a_tooltip_and_an_accessible_name(app: Flask) -> None:
    text = markup(app, chart(0, 7))
    assert text.count("<title>") == 2
    assert '<g class="bucket" data-tip="2 Mar: 7" role="img" tabindex="0"><title>2 Mar: 7</title>' in text
    assert '<g class="bucket" data-tip="1 Mar: 0"><title>' in text


def test_table_has_exact_values_in_a_focusable_region(app: Flask) -> None:
    text = markup(app, charts.bar_chart("c", "Messages", [("1 Mar", 12_345, 1)], series=["sms", "mail"]))
    assert '<div class="scroll" tabindex="0" role="region"' in text
    assert re.findall(r'<td class="num">([\d,]+)</td>', text) == ["12,345", "1", "12,346"]


def test_two_series_have_a_legend_and_hatches(app: Flask) -> None:
    assert 'class="legend"' not in markup(app, chart(1))
    text = markup(app, charts.bar_chart("c", "Messages", [("1 Mar", 1, 1)], series=["sms", "mail"]))
    assert text.count('fill="url(#c-2)"') == 2
    assert text.count('<pattern id="c-2"') == 1


def test_chart_without_usage_has_a_notice(app: Flask) -> None:
    assert "No usage in this period" in markup(app, chart(0, 0, 0))
    assert "No usage in this period" not in markup(app, chart(0, 1, 0))


def test_names_are_escaped(app: Flask) -> None:
    text = markup(app, charts.bar_chart("c", "<b>", [('"><script>', 1, 1)], series=["<i>", "&"]))
    assert "<script>" not in text
    assert "<b>" not in text
    assert "<i>" not in text


def test_markup_of_thirty_bars_is_at_most_12_kb(app: Flask) -> None:
    assert len(markup(app, chart(*range(30)))) <= 12_000


def test_of_more_than_four_series_the_three_largest_are_shown_and_the_rest_added_up() -> None:
    columns = {"a": [1, 0], "b": [9, 0], "c": [2, 2], "d": [0, 1], "e": [5, 5]}
    assert charts.largest_series(columns, 2, "Others") == (["b", "c", "e", "Others"], [[9, 0], [2, 2], [5, 5], [1, 1]])
    assert charts.largest_series({"a": [1, 0]}, 2, "Others") == (["a"], [[1, 0]])
    assert charts.largest_series({}, 2, "Others") == (["All"], [[0, 0]])


def test_meters_have_one_order_and_their_names() -> None:
    """R6: the same meter had another color and another name on each page."""
    columns = {"sms": [9, 9], "email": [1, 1], "retired": [0, 2]}
    names, values = charts.meter_series(columns, {"sms": "SMS", "email": "Email"}, 2)
    assert (names, values) == (["Email", "retired", "SMS"], [[1, 1], [0, 2], [9, 9]])
    assert charts.meter_series({}, {"sms": "SMS"}, 2) == (["All"], [[0, 0]])


def test_buckets_lead_to_what_they_count(app: Flask) -> None:
    days = [(f"day {number}", number) for number in range(1, 95)]
    for points, hrefs in ((days[:2], ["/0-0", "/1-1"]), (days, ["/0-6", "/91-93"])):
        result = charts.with_links(
            charts.bar_chart("c", "Calls", points, series=["Calls"]), lambda first, last: f"/{first}-{last}"
        )
        assert [result.buckets[0].href, result.buckets[-1].href] == hrefs
    assert '<a class="bucket" href="/0-6" data-tip="day 1 to day 7: 28" aria-label="day 1 to day 7: 28">' in markup(
        app, result
    )


def test_values_that_do_not_add_up_are_shown_by_the_highest_of_seven() -> None:
    points = [(f"day {number}", number) for number in range(1, 95)]
    result = charts.level_chart("seats", "Seats", points, name="Seats")
    assert (result.buckets[0].cells, result.buckets[-1].cells) == (("7",), ("94",))
    assert result.note == "Each bar is the highest of 7 days."
    assert "in total" not in result.description
    assert result.legend == ((1, "Seats", "94"),)
