"""Geometry and texts of bar charts, computed without Flask; `_chart.html` draws them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from saas_api.core import formatting

Number = int | float | Decimal
ChartPoint = tuple[str, *tuple[Number, ...]]
"""A label, then one value for each series, at most four."""
ValueFormat = Callable[[Decimal], str]
MAX_POINTS, MAX_SERIES, MAX_BUCKETS, MAX_LABELS = 366, 4, 92, 8
_WEEK = 7
_INTERVALS = (4, 3, 5)
"""Numbers of steps of the y-axis, the preferred first."""
_STEPS = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
_BAR_SHARE, _MAX_BAR_WIDTH = 72, Decimal(8)


@dataclass(frozen=True)
class Bar:
    """One series in one bucket.

    series: from 1
    """

    series: int
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True)
class Bucket:
    """One interval of the x-axis with its bars and its hover area.

    tip: label and values in one line
    cells: exact values as text, with their total when there are several series
    points: indexes of its first and its last point
    href: what it leads to; empty for nothing
    """

    label: str
    x: str
    width: str
    tip: str
    cells: tuple[str, ...]
    is_empty: bool
    bars: tuple[Bar, ...]
    points: tuple[int, int]
    href: str = ""


@dataclass(frozen=True)
class Label:
    """A text below the plot.

    is_minor: hidden on narrow screens
    """

    x: str
    text: str
    anchor: str
    is_minor: bool


@dataclass(frozen=True)
class Chart:
    """Coordinates and texts of a chart, as strings.

    description: number of buckets, total, highest value and its label
    comparison: with the previous period; empty without one
    note: that each bar adds up seven buckets; otherwise empty
    legend: (number from 1, name, total) of each series
    grid: (y, text) of each horizontal line
    """

    id: str
    title: str
    x_name: str
    description: str
    comparison: str
    note: str
    is_empty: bool
    legend: tuple[tuple[int, str, str], ...]
    grid: tuple[tuple[str, str], ...]
    labels: tuple[Label, ...]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True)
class _Row:
    label: str
    values: tuple[Decimal, ...]

    @property
    def total(self) -> Decimal:
        return sum(self.values, Decimal(0))


@dataclass(frozen=True)
class _Data:
    rows: list[_Row]
    buckets: list[_Row]
    series: Sequence[str]
    x_name: str
    fmt: ValueFormat
    previous: Number | None
    is_additive: bool


def bar_chart(
    chart_id: str,
    title: str,
    points: Sequence[ChartPoint],
    *,
    series: Sequence[str],
    x_name: str = "day",
    fmt: ValueFormat = formatting.format_number,
    previous: Number | None = None,
) -> Chart:
    """A chart of stacked bars.

    chart_id: unique on the page
    title: with unit and time zone, such as "Messages per day (Europe/Paris)"
    points: 1 to 366 buckets, including empty ones; more than 92 are added up by seven
    series: names, 1 to 4
    x_name: singular noun of a bucket, such as "day"
    fmt: formats exact values
    previous: total of the same number of buckets before
    raises: ValueError for a value that is negative or not finite, and for a wrong number of points or series
    """
    rows = _validate(points, series)
    buckets = rows if len(rows) <= MAX_BUCKETS else _group_by_week(rows, _sums)
    return _draw(chart_id, title, _Data(rows, buckets, series, x_name, fmt, previous, is_additive=True))


def level_chart(
    chart_id: str,
    title: str,
    points: Sequence[ChartPoint],
    *,
    name: str,
    x_name: str = "day",
    fmt: ValueFormat = formatting.format_number,
) -> Chart:
    """A chart of one series whose values do not add up, such as the highest of each day; otherwise as `bar_chart`.

    points: more than 92 are shown by the highest of seven
    name: of the series
    """
    rows = _validate(points, [name])
    buckets = rows if len(rows) <= MAX_BUCKETS else _group_by_week(rows, _highest)
    data = _Data(rows, buckets, [name], x_name, fmt, None, is_additive=False)
    return _draw(chart_id, title, data)


def with_links(chart: Chart, link: Callable[[int, int], str]) -> Chart:
    """The chart with a link from each bucket.

    link: the URL of what a bucket counts, by the indexes of its first and its last point
    """
    return replace(chart, buckets=tuple(replace(bucket, href=link(*bucket.points)) for bucket in chart.buckets))


def _draw(chart_id: str, title: str, data: _Data) -> Chart:
    top, steps = _axis([row.total for row in data.buckets])
    stacks = [_stack(n, len(data.buckets), row.values, top) for n, row in enumerate(data.buckets)]
    grid = tuple((_percent(steps - n, steps), _abbreviate(top / steps * n)) for n in range(steps + 1))
    return _chart(data, chart_id, title, grid, stacks)


def largest_series(
    columns: Mapping[str, Sequence[Number]], count: int, rest: str
) -> tuple[Sequence[str], Sequence[Sequence[Number]]]:
    """Names and values of at most four series: of more, the three with the highest totals and the rest added up.

    columns: values of each series, in the order in which they are shown
    count: number of values, for a chart without series
    rest: name of the added series
    """
    largest = sorted(columns, key=lambda name: -sum(columns[name]))
    shown = [
        name for name in columns if name in largest[: MAX_SERIES if len(columns) <= MAX_SERIES else MAX_SERIES - 1]
    ]
    names, values = shown or ["All"], [columns[name] for name in shown] or [[0] * count]
    if len(shown) < len(columns):
        others = zip(*(columns[name] for name in columns if name not in shown), strict=True)
        names, values = [*names, rest], [*values, [sum(group) for group in others]]
    return names, values


def meter_series(
    columns: Mapping[str, Sequence[Number]], names: Mapping[str, str], count: int
) -> tuple[Sequence[str], Sequence[Sequence[Number]]]:
    """Names and values of at most four meters, as `largest_series`: in one order, so in the same colors everywhere.

    columns: values of each meter by its code
    names: of the meters by code; one without is shown by its code
    count: number of values, for a chart without meters
    """
    codes, values = largest_series({code: columns[code] for code in sorted(columns)}, count, "Others")
    return [names.get(code, code) for code in codes], values


def _validate(points: Sequence[ChartPoint], series: Sequence[str]) -> list[_Row]:
    if not 1 <= len(points) <= MAX_POINTS:
        raise ValueError(f"a chart has 1 to {MAX_POINTS} points, not {len(points)}")
    if not 1 <= len(series) <= MAX_SERIES:
        raise ValueError(f"a chart has 1 to {MAX_SERIES} series, not {len(series)}")
    rows = [_Row(point[0], tuple(Decimal(str(value)) for value in point[1:])) for point in points]
    for row in rows:
        if len(row.values) != len(series):
            raise ValueError(f"{row.label}: {len(row.values)} values for {len(series)} series")
        if not all(value.is_finite() and value >= 0 for value in row.values):
            raise ValueError(f"{row.label}: a value is below 0 or no number")
    return rows


def _group_by_week(rows: list[_Row], combine: Callable[[list[_Row]], tuple[Decimal, ...]]) -> list[_Row]:
    weeks = []
    for start in range(0, len(rows), _WEEK):
        week = rows[start : start + _WEEK]
        label = week[0].label if len(week) == 1 else f"{week[0].label} to {week[-1].label}"
        weeks.append(_Row(label, combine(week)))
    return weeks


def _sums(rows: list[_Row]) -> tuple[Decimal, ...]:
    return tuple(sum(column, Decimal(0)) for column in zip(*(row.values for row in rows), strict=True))


def _highest(rows: list[_Row]) -> tuple[Decimal, ...]:
    return tuple(max(column) for column in zip(*(row.values for row in rows), strict=True))


def _axis(values: list[Decimal]) -> tuple[Decimal, int]:
    """The value of the upper edge and the number of steps below it, each of 1, 2, 2.5 or 5 times a power of ten.

    The edge is the least that three to five steps can have.
    """
    highest = max(values)
    if not highest:
        return Decimal(_INTERVALS[0]), _INTERVALS[0]
    is_whole = all(value == int(value) for value in values)
    return min(
        ((_step(highest / count, is_whole=is_whole) * count, count) for count in _INTERVALS), key=lambda axis: axis[0]
    )


def _step(least: Decimal, *, is_whole: bool) -> Decimal:
    power = Decimal(1).scaleb(least.adjusted())
    step = next(factor * power for factor in _STEPS if factor * power >= least)
    return max(step, Decimal(1)) if is_whole else step


def _abbreviate(value: Decimal) -> str:
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if value >= limit:
            return formatting.format_number(value / (1000 if unit == "k" else limit)) + unit
    return formatting.format_number(value)


def _stack(n: int, count: int, values: Sequence[Decimal], top: Decimal) -> tuple[Bar, ...]:
    width = min(Decimal(_BAR_SHARE) / count, _MAX_BAR_WIDTH)
    x = Decimal(50 * (2 * n + 1)) / count - width / 2
    bars, height = [], Decimal(0)
    for k, value in enumerate(values, 1):
        height += value
        if value:
            bars.append(Bar(k, _text(x), _percent(top - height, top), _text(width), _percent(value, top)))
    return tuple(bars)


def _bucket(data: _Data, n: int, bars: tuple[Bar, ...]) -> Bucket:
    row, count = data.buckets[n], len(data.buckets)
    cells = [data.fmt(value) for value in row.values]
    text = cells[0]
    if len(cells) > 1:
        parts = [f"{name} {cell}" for name, cell, value in zip(data.series, cells, row.values, strict=True) if value]
        text = ", ".join(parts) or data.fmt(Decimal(0))
        cells.append(data.fmt(row.total))
    x, width = _percent(n, count), _percent(1, count)
    size = 1 if data.buckets is data.rows else _WEEK
    points = (n * size, min((n + 1) * size, len(data.rows)) - 1)
    return Bucket(row.label, x, width, f"{row.label}: {text}", tuple(cells), not row.total, bars, points)


def _chart(
    data: _Data, chart_id: str, title: str, grid: tuple[tuple[str, str], ...], stacks: Sequence[tuple[Bar, ...]]
) -> Chart:
    is_by_week = data.buckets is not data.rows
    totals = _sums(data.rows) if data.is_additive else _highest(data.rows)
    combines = "adds up" if data.is_additive else "is the highest of"
    return Chart(
        id=chart_id,
        title=title,
        x_name=data.x_name.capitalize() + ("s" if is_by_week else ""),
        description=_description(data, sum(totals, Decimal(0))),
        comparison=_comparison(data, sum(totals, Decimal(0))),
        note=f"Each bar {combines} {_WEEK} {data.x_name}s." if is_by_week else "",
        is_empty=not any(totals),
        legend=tuple((k, name, data.fmt(totals[k - 1])) for k, name in enumerate(data.series, 1)),
        grid=grid,
        labels=tuple(_labels([row.label for row in data.rows[:: _WEEK if is_by_week else 1]])),
        buckets=tuple(_bucket(data, n, stack) for n, stack in enumerate(stacks)),
    )


def _bucket_count(data: _Data) -> str:
    return f"{len(data.rows)} {data.x_name}{'' if len(data.rows) == 1 else 's'}"


def _description(data: _Data, total: Decimal) -> str:
    if not total:
        return f"{_bucket_count(data)}, nothing in any of them."
    highest = max(data.buckets, key=lambda row: row.total)
    in_total = f", {data.fmt(total)} in total" if data.is_additive else ""
    return f"{_bucket_count(data)}{in_total}. Highest: {data.fmt(highest.total)}, {highest.label}."


def _comparison(data: _Data, total: Decimal) -> str:
    if not data.previous:
        return ""
    change = total / Decimal(str(data.previous)) - 1
    if not change:
        return f"As much as in the {_bucket_count(data)} before"
    share = formatting.format_percent(abs(change))
    return f"{'Up' if change > 0 else 'Down'} {share} on the {_bucket_count(data)} before"


def _labels(texts: list[str]) -> list[Label]:
    count, step, labels = len(texts), math.ceil(len(texts) / MAX_LABELS), []
    for k, n in enumerate(range(0, count, step)):
        is_at_edge = count > MAX_LABELS and n == 0
        x = "0%" if is_at_edge else _text(Decimal(50 * (2 * n + 1)) / count)
        labels.append(Label(x, texts[n], "start" if is_at_edge else "middle", k % 3 > 0))
    return labels


def _percent(part: Decimal | int, whole: Decimal | int) -> str:
    return _text(100 * Decimal(part) / Decimal(whole))


def _text(percent: Decimal) -> str:
    return f"{percent:.2f}".rstrip("0").rstrip(".") + "%"
