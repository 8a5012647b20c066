"""Usage of one meter for the usage page: by endpoint, key, day or dimension, with a chart and CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import usage_costs
from saas_api.billing.usage_costs import UsagePoint
from saas_api.core import formatting, ids, money
from saas_api.core.access import KeyMode
from saas_api.core.web import charts
from saas_api.core.web.charts import Chart
from saas_api.usage import meter_file, ranges, sources
from saas_api.usage.meter_file import MeterContent
from saas_api.usage.ranges import DateRange
from saas_api.usage.reports import DIMENSION_PREFIX

_GROUP_BY = {"endpoint": "source", "key": "key"}
_CSV_HEADINGS = {"endpoint": ("method", "endpoint"), "key": ("api_key_id", "name"), "day": ("date",)}


@dataclass(frozen=True)
class UsageOfGroup:
    """Usage of one endpoint, key, day or value of a dimension.

    group: of the source, the key or the value; None for calls without one
    """

    group: Any
    heading: str
    usage: UsagePoint


@dataclass(frozen=True)
class MeterUsageView:
    """Usage of one meter in a range.

    tab: "endpoint", "key", "day" or "dimension:NAME"
    total: of the whole range, also of a meter whose values do not add up
    archived_before: as of `usage_costs.find_archive`
    """

    meter: MeterContent
    tab: str
    days: DateRange
    mode: str
    currency: str
    total: UsagePoint
    rows: Sequence[UsageOfGroup]
    chart: Chart
    archived_before: datetime | None

    @property
    def is_priced_by_call(self) -> bool:
        """Whether calls have a cost of their own: the usage of other meters is priced by the period."""
        return self.mode == KeyMode.LIVE and self.meter.aggregation.is_additive

    @property
    def heading(self) -> str:
        """What the rows are."""
        if self.tab.startswith(DIMENSION_PREFIX):
            return self.tab.removeprefix(DIMENSION_PREFIX)
        return {"endpoint": "Endpoint", "key": "Key", "day": "Day"}[self.tab]

    @property
    def units(self) -> str:
        """Several of the meter's unit."""
        return meter_file.plural_unit(self.meter.unit)


def tab_choices(meter: MeterContent) -> list[tuple[str, str]]:
    """Tabs of a meter, with their texts."""
    dimensions = [(f"{DIMENSION_PREFIX}{name}", f"By {name}") for name in meter.dimensions]
    return [("endpoint", "By endpoint"), ("key", "By key"), ("day", "By day"), *dimensions]


def get_meter_usage(
    session: Session, organization_id: UUID, days: DateRange, mode: str, meter: MeterContent, tab: str
) -> MeterUsageView:
    """Read the usage of a meter.

    tab: one of `tab_choices`
    """
    query = {"meter": meter.code, "mode": mode, "group_by": None}
    whole = usage_costs.usage_by_group(session, organization_id, days, query)
    total = whole.get(None) or UsagePoint(days.starts_at, days.first)
    names = usage_costs.get_key_names(session, organization_id) if tab == "key" else {}
    rows = sorted(_rows(session, organization_id, days, query, tab, names), key=_rank)
    return MeterUsageView(
        meter=meter,
        tab=tab,
        days=days,
        mode=mode,
        currency=usage_costs.report_currency(session, organization_id),
        total=total,
        rows=rows if tab != "day" else rows[::-1],
        chart=_chart(session, organization_id, days, query, meter, tab),
        archived_before=usage_costs.find_archive(
            session, organization_id, days, mode, () if meter.aggregation.is_additive else (meter.code,)
        ),
    )


def _rank(row: UsageOfGroup) -> tuple[Any, ...]:
    return (0, row.group) if isinstance(row.group, datetime) else (-row.usage.quantity, row.heading)


def _rows(
    session: Session,
    organization_id: UUID,
    days: DateRange,
    query: Mapping[str, Any],
    tab: str,
    names: Mapping[Any, str],
) -> Iterator[UsageOfGroup]:
    if tab == "day":
        series = usage_costs.usage_series(session, organization_id, days, {**query, "interval": "day"})
        yield from (UsageOfGroup(point.at, str(point.date), point) for point in series[None])
        return
    groups = usage_costs.usage_by_group(session, organization_id, days, {**query, "group_by": _GROUP_BY.get(tab, tab)})
    for group, usage in groups.items():
        if tab == "key":
            heading = names.get(group) or ids.format_id("key", group) if isinstance(group, UUID) else "Dashboard"
        elif tab == "endpoint":
            heading = " ".join(sources.get_endpoint(str(group))).strip()
        else:
            heading = "Not set" if group is None else str(group)
        yield UsageOfGroup(group, heading, usage)


def _chart(
    session: Session, organization_id: UUID, days: DateRange, query: Mapping[str, Any], meter: MeterContent, tab: str
) -> Chart:
    interval = "hour" if (days.last - days.first).days < 2 else "day"
    is_split = meter.aggregation.is_additive and tab.startswith(DIMENSION_PREFIX)
    query = {**query, "interval": interval, "group_by": tab if is_split else None}
    starts = ranges.bucket_starts(days, interval)
    series = usage_costs.usage_series(session, organization_id, days, query)
    columns = {
        "Not set" if group is None else str(group): [point.quantity for point in points]
        for group, points in series.items()
    }
    if not is_split:
        columns = {meter.name: next(iter(columns.values()))}
    names, values = charts.largest_series(columns, len(starts), "Others")
    units = meter_file.plural_unit(meter.unit)
    of_units = "" if units == meter.name.lower() else f", in {units}"
    title = f"{meter.name} per {interval}{of_units} ({days.zone.key})"
    labels = [_label(at.astimezone(days.zone), interval, days) for at in starts]
    points = list(zip(labels, *values, strict=True))
    if meter.aggregation.is_additive:
        return charts.bar_chart("usage", title, points, series=names, x_name=interval)
    return charts.level_chart("usage", title, points, name=names[0], x_name=interval)


def _label(at: datetime, interval: str, days: DateRange) -> str:
    zone = days.zone.key
    if interval == "hour":
        return f"{formatting.format_day(at, zone)}, {formatting.format_clock_time(at, zone)}"
    return (formatting.format_day if days.first.year == days.last.year else formatting.format_date)(at, zone)


def csv_columns(view: MeterUsageView) -> tuple[str, ...]:
    """Columns of the rows of `csv_rows`."""
    groups = _CSV_HEADINGS.get(view.tab, (view.heading,))
    return (*groups, "meter", "quantity", "unit", "requests", "cost", "currency")


def csv_rows(view: MeterUsageView) -> Iterator[Sequence[Any]]:
    """Rows of a tab; usage that is priced by the period has no cost."""
    for row in view.rows:
        match view.tab:
            case "endpoint":
                groups: Sequence[Any] = sources.get_endpoint(str(row.group))
            case "key":
                is_key = isinstance(row.group, UUID)
                groups = (ids.format_id("key", row.group), row.heading) if is_key else (None, None)
            case "day":
                groups = (str(row.usage.date),)
            case _:
                groups = (row.group,)
        cost = Decimal(money.format_exact_amount(row.usage.cost, view.currency)) if view.is_priced_by_call else None
        quantity = Decimal(money.format_unit_price(row.usage.quantity))
        yield *groups, view.meter.code, quantity, view.meter.unit, row.usage.requests, cost, view.currency
