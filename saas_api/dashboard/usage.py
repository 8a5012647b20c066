"""The usage page: calls by endpoint, key, day and meter, charts and CSV."""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, g, url_for
from marshmallow import fields, validate
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import organizations
from saas_api.billing import periods, plans, usage_costs
from saas_api.billing.rating.plan_file import RATE_LIMIT_FEATURE
from saas_api.billing.usage_costs import CallTotals, UsageReport
from saas_api.core import clock, formatting, ids, money, time_zones
from saas_api.core.access import KeyMode, require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import DateField, StrictSchema
from saas_api.core.settings import setting
from saas_api.core.web import charts, forms, pages
from saas_api.core.web.charts import Chart
from saas_api.core.web.forms import Form
from saas_api.dashboard import meter_usage, requests
from saas_api.usage import meters, ranges, reports, request_counts
from saas_api.usage.meter_file import MeterContent
from saas_api.usage.ranges import DateRange, HourRange, InvalidDateRange
from saas_api.usage.reports import TimeseriesRange
from saas_api.usage.request_counts import RequestStatistics

bp = Blueprint("usage", __name__)

_HOUR, _DAYS = timedelta(hours=1), {"7d": 7, "30d": 30}
_EARLIEST = date(2, 1, 1)
MAX_ROWS = 25
"""Of a table, until all are asked for."""


TEMPLATE = "dashboard/usage/index.html"
RANGE_CHOICES = [
    ("24h", "Last 24 hours"),
    ("7d", "Last 7 days"),
    ("30d", "Last 30 days"),
    ("period", "This billing period"),
    ("last_period", "Last billing period"),
    ("custom", "Custom dates"),
]
TABS = [("endpoint", "By endpoint"), ("key", "By key"), ("day", "By day"), ("meter", "By meter")]
TABLE_FIELDS = {"range", "start_date", "end_date", "meter"}
COUNT_COLUMNS = ("requests", "success_count", "error_count", "cost", "currency")
USAGE_CSV_COLUMNS = {
    "endpoint": ("method", "endpoint", *COUNT_COLUMNS),
    "key": ("api_key_id", "name", *COUNT_COLUMNS),
    "day": ("date", *COUNT_COLUMNS),
    "meter": ("meter", "unit", "requests", "quantity", "included", "overage", "cost", "currency"),
}


@dataclass(frozen=True)
class CallSeries:
    """Accepted calls over time.

    interval: "hour" or "day"
    starts: of each point
    by_meter: calls of each point, by meter
    before: calls of the preceding range of the same length
    """

    interval: str
    starts: list[datetime]
    by_meter: Mapping[str, list[int]]
    before: int


@dataclass(frozen=True)
class RateLimitUsage:
    """The rate limit of an organization and its busiest minute.

    per_minute: calls per minute of all keys of a mode
    peak: messages accepted in the busiest minute of the last 24 hours; peak_at: its start
    """

    per_minute: int
    peak: int
    peak_at: datetime | None


def parse_range(session: Session, organization_id: UUID, query: Mapping[str, Any], zone: ZoneInfo) -> DateRange:
    """Returns the requested range in whole local days, or hours for `24h`; thirty days by default.

    query: `range`, `start_date`, `end_date`; dates take precedence over the range
    raises: ValidationFailed for dates that are no range, and for a period before the first
    """
    now = clock.now()
    named_range = "custom" if query["start_date"] or query["end_date"] else query["range"] or "custom"
    today = now.astimezone(zone).date()
    if named_range == "24h":
        ends = now.astimezone(zone).replace(minute=0, second=0, microsecond=0).astimezone(now.tzinfo) + _HOUR
        begins = ends - 24 * _HOUR
        return HourRange(begins.astimezone(zone).date(), today, zone, begins, ends)
    if named_range in _DAYS:
        return DateRange(today - timedelta(days=_DAYS[named_range] - 1), today, zone)
    if named_range != "custom":
        return _period(session, organization_id, now, zone, is_last=named_range == "last_period")
    try:
        return ranges.parse_date_range(query["start_date"], query["end_date"], today, zone)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause


def _period(session: Session, organization_id: UUID, now: datetime, zone: ZoneInfo, *, is_last: bool) -> DateRange:
    row = session.execute(
        text("""SELECT starts_at, ends_at FROM billing_periods WHERE organization_id = :organization_id
            AND starts_at <= :now ORDER BY starts_at DESC LIMIT 1 OFFSET :skipped"""),
        {"organization_id": organization_id, "now": now, "skipped": int(is_last)},
    ).first()
    if row is None:
        raise ValidationFailed.at_field("range", "This billing period does not exist yet.")
    ends = min(row.ends_at - timedelta(microseconds=1), now)
    return DateRange(row.starts_at.astimezone(zone).date(), ends.astimezone(zone).date(), zone)


def get_call_series(session: Session, organization_id: UUID, report: UsageReport) -> CallSeries:
    """Returns the accepted calls of a report by hour for at most two days, by day otherwise, including empty ones."""
    days, mode = report.days, report.mode
    length = (days.last - days.first).days + 1
    interval = "hour" if length <= 2 else "day"
    starts = ranges.bucket_starts(days, interval)
    if isinstance(days, HourRange):
        earlier = days.begins - (days.ends - days.begins)
    else:
        earlier = ranges.day_start(max(days.first - timedelta(days=length), _EARLIEST), days.zone)
    if interval == "day":
        by_day = {code: [counts[day] for day in days] for code, counts in report.accepted_by_meter.items()}
        before = reports.count_accepted(session, organization_id, earlier, starts[0], mode)
        return CallSeries(interval, starts, by_day, before)
    calls_by_meter: dict[str, list[int]] = {}
    before = 0
    span = TimeseriesRange([earlier, *starts], days.ends_at, [], None, mode)
    for row in reports.timeseries(session, organization_id, span):
        if row.point == 0:
            before += row.requests
        else:
            calls_by_meter.setdefault(row.meter, [0] * len(starts))[row.point - 1] += row.requests
    return CallSeries(interval, starts, calls_by_meter, before)


_LIMIT = text("""
SELECT e.value, (SELECT rate_limit_per_minute FROM organization_limits
    WHERE organization_id = :organization_id AND (expires_at IS NULL OR expires_at > :at)) AS exception,
  coalesce(m.calls, 0) AS peak, m.at
FROM subscription_segments s JOIN entitlements e ON e.plan_version_id = s.plan_version_id AND e.feature = :feature
LEFT JOIN LATERAL (SELECT date_trunc('minute', accepted_at) AS at, count(*) AS calls FROM messages
  WHERE organization_id = :organization_id AND mode = :mode AND accepted_at > :since AND accepted_at <= :at
  GROUP BY 1 ORDER BY 2 DESC, 1 DESC LIMIT 1) m ON true
WHERE s.organization_id = :organization_id ORDER BY s.starts_at <= :at DESC, s.seq DESC LIMIT 1""")


def get_rate_limit_usage(session: Session, organization_id: UUID, mode: str, at: datetime) -> RateLimitUsage:
    """Returns the rate limit in force and the busiest minute of the 24 hours before."""
    values = {"organization_id": organization_id, "mode": mode, "at": at, "since": at - 24 * _HOUR}
    row = session.execute(_LIMIT, {**values, "feature": RATE_LIMIT_FEATURE}).one()
    return RateLimitUsage(row.exception or plans.resolve_rate_limit(row.value), row.peak, row.at)


def list_priced_meters(session: Session, organization_id: UUID, at: datetime) -> set[str]:
    """Returns the codes of the meters that the plan in force prices."""
    sql = text("""SELECT meter_code FROM prices WHERE plan_version_id = (
      SELECT plan_version_id FROM subscription_segments WHERE organization_id = :organization_id
      ORDER BY starts_at <= :at DESC, seq DESC LIMIT 1)""")
    return set(session.scalars(sql, {"organization_id": organization_id, "at": at}))


class UsageFilters(StrictSchema):
    """Filters of the usage page: range, mode, meter and tab; all rows of a table, or the first of them."""

    range = fields.String(load_default=None, validate=validate.OneOf([code for code, _ in RANGE_CHOICES]))
    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)
    mode = fields.String(load_default=None, validate=validate.OneOf(list(KeyMode)))
    meter = fields.String(load_default=None, validate=validate.Length(max=100))
    tab = fields.String(load_default="endpoint", validate=validate.Length(max=100))
    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))
    rows = fields.String(load_default=None, validate=validate.OneOf(("all",)))


@bp.get("/usage")
@require_permission("usage:read")
def index() -> Response:
    """Show the usage of a range of days, or download one of its tables as CSV."""
    periods.ensure_account(engine.session(), g.principal.organization_id)
    zone = time_zones.get_zone(organizations.get_organization(engine.session(), g.principal.organization_id).timezone)
    query, form = forms.parse_filters(UsageFilters())
    by_code = meters.all_meters(engine.session())
    try:
        days = None if form.errors else parse_range(engine.session(), g.principal.organization_id, query, zone)
        tabs = [] if form.errors else _tabs(query, by_code)
    except ValidationFailed as error:
        days, form = (
            None,
            Form(form.values, {str(problem["field"]): str(problem["reason"]) for problem in error.details["fields"]}),
        )
    if days is None:
        return pages.render_page(
            TEMPLATE,
            status=422,
            form=_refused(form),
            tab="",
            tabs=[],
            zone=zone.key,
            ranges=RANGE_CHOICES,
            meters=_meter_choices(by_code, form.value("meter"), ()),
        )
    view = _View(form, tabs, query["tab"], query["mode"] or g.principal.mode, zone, by_code)
    if query["meter"]:
        return _meter_rows(view, days, by_code[query["meter"]], is_table=bool(query["format"]))
    report = usage_costs.usage_report(engine.session(), g.principal.organization_id, days, view.mode, by_code=by_code)
    if query["format"]:
        return _table(report, view.tab, view.mode)
    return _render(view, report)


@dataclass(frozen=True)
class _View:
    """What every tab of the page is rendered with."""

    form: Form
    tabs: Sequence[tuple[str, str]]
    tab: str
    mode: str
    zone: ZoneInfo
    by_code: Mapping[str, MeterContent]


def _tabs(query: Mapping[str, Any], by_code: Mapping[str, MeterContent]) -> list[tuple[str, str]]:
    """The tabs of the chosen meter, or of all.

    raises: ValidationFailed for an unknown meter or tab
    """
    if query["meter"] and query["meter"] not in by_code:
        raise ValidationFailed.at_field("meter", "This meter does not exist.")
    tabs = meter_usage.tab_choices(by_code[query["meter"]]) if query["meter"] else TABS
    if query["tab"] not in [code for code, _ in tabs]:
        raise ValidationFailed.at_field("tab", "This tab does not exist.")
    return tabs


def _meter_choices(by_code: Mapping[str, MeterContent], chosen: str, used: Collection[str]) -> list[tuple[str, str]]:
    """The meters of the filter: the chosen one, those with usage in the range, and those that the plan prices."""
    offered = {chosen, *used, *list_priced_meters(engine.session(), g.principal.organization_id, clock.now())}
    named = sorted((meter.name, code) for code, meter in by_code.items() if code in offered)
    return [("", "All meters"), *((code, name) for name, code in named)]


def _meter_rows(view: _View, days: DateRange, meter: MeterContent, *, is_table: bool) -> Response:
    usage = meter_usage.get_meter_usage(engine.session(), g.principal.organization_id, days, view.mode, meter, view.tab)
    if is_table:
        group = view.tab.rpartition(":")[2]
        name = f"usage-of-{meter.code}-by-{group}-{days.first}-{days.last}-{view.mode}.csv"
        return pages.csv_response(name, meter_usage.csv_columns(usage), meter_usage.csv_rows(usage))
    return pages.render_page(
        TEMPLATE,
        form=_filled(view.form),
        tab=view.tab,
        view=usage,
        **_shown_rows(view, usage.rows),
        range_label=_format_range(days),
        **_range_links(view, reports.used_meters(engine.session(), g.principal.organization_id, days, view.mode)),
    )


def _render(view: _View, report: UsageReport) -> Response:
    days, now, organization_id = report.days, clock.now(), g.principal.organization_id
    calls = get_call_series(engine.session(), organization_id, report)
    statistics = request_counts.call_statistics(
        engine.session(), organization_id, view.mode, calls.starts, days.ends_at
    )
    return pages.render_page(
        TEMPLATE,
        form=_filled(view.form),
        tab=view.tab,
        report=report,
        **_shown_rows(view, _rows(report, view.tab, view.by_code)),
        chart=charts.with_links(
            call_chart(calls, days, view.by_code), lambda first, last: _bar_url(calls, days, view.mode, first, last)
        ),
        statistics=request_counts.sum_statistics(statistics),
        latency_chart=latency_chart(calls, days, statistics),
        log_url=functools.partial(requests.log_url, **requests.range_filters(days), mode=view.mode),
        limit=get_rate_limit_usage(engine.session(), organization_id, view.mode, now),
        range_label=_format_range(days),
        app_url=setting("APP_URL"),
        **_range_links(view, {usage.meter for usage in report.by_meter}),
    )


def _shown_rows(view: _View, rows: Sequence[Any]) -> dict[str, Any]:
    """The first rows of a table, unless all are asked for, and the number of all."""
    return {"rows": rows if view.form.value("rows") else rows[:MAX_ROWS], "row_count": len(rows)}


def _range_links(view: _View, used: Collection[str] = ()) -> dict[str, Any]:
    """Returns what every tab shows: links to the other tabs and the CSV, and the time of the figures.

    used: meters with usage in the range
    """
    filters = {name: value for name, value in view.form.values.items() if name not in ("tab", "format", "rows")}
    addresses = {code: url_for("dashboard.usage.index", **filters, tab=code) for code, _ in view.tabs}
    return {
        "tabs": [(text, addresses[code], code == view.tab) for code, text in view.tabs],
        "table": url_for("dashboard.usage.index", **filters, tab=view.tab, format="csv"),
        "mode": view.mode,
        "ranges": RANGE_CHOICES,
        "meters": _meter_choices(view.by_code, view.form.value("meter"), used),
        "zone": view.zone.key,
        "until": formatting.format_clock_time(clock.now(), view.zone.key, has_seconds=True),
    }


def _filled(form: Form) -> Form:
    """Returns the filters with the range in force: custom with dates, otherwise thirty days by default."""
    has_dates = form.value("start_date") or form.value("end_date")
    values = {**form.values, "range": "custom"} if has_dates else {"range": "30d", **form.values}
    return Form(values, form.errors, form.problem)


def _refused(form: Form) -> Form:
    """Returns the filters with their errors: beside a field, or above the form where the page has no such field."""
    filled, problem = _filled(form), None
    for name in form.errors.keys() - TABLE_FIELDS:
        problem = f"Unknown {name}: {form.value(name)}"
    errors = {
        name: reason.replace("start_date", "the first day")
        for name, reason in form.errors.items()
        if name in TABLE_FIELDS
    }
    return Form(filled.values, errors, problem)


def _format_range(days: DateRange) -> str:
    if isinstance(days, HourRange):
        return "Last 24 hours, including the current hour"
    return formatting.format_days(days.first, days.last)


def call_chart(calls: CallSeries, days: DateRange, by_code: Mapping[str, MeterContent]) -> Chart:
    """Returns the chart of accepted calls by meter; of more than four meters the three most used and the rest."""
    meter_names = {code: meter.name for code, meter in by_code.items()}
    names, values = charts.meter_series(calls.by_meter, meter_names, len(calls.starts))
    title = f"Accepted calls per {calls.interval}, by meter ({days.zone.key})"
    points = list(zip(_labels(calls, days), *values, strict=True))
    return charts.bar_chart("usage", title, points, series=names, x_name=calls.interval, previous=calls.before)


def latency_chart(calls: CallSeries, days: DateRange, statistics: Sequence[RequestStatistics]) -> Chart:
    """Returns the chart of the latency that 95 % of the calls did not exceed, over the points of the calls."""
    values = [round(point.percentile_ms(95) or 0) for point in statistics]
    title = f"95th percentile of latency per {calls.interval}, in milliseconds ({days.zone.key})"
    points = list(zip(_labels(calls, days), values, strict=True))
    return charts.level_chart("latency", title, points, name="p95, ms", x_name=calls.interval)


def _bar_url(calls: CallSeries, days: DateRange, mode: str, first: int, last: int) -> str:
    """The requests of the log from the time of a bar."""
    if calls.interval == "day":
        first_day, last_day = (calls.starts[n].astimezone(days.zone).date() for n in (first, last))
        return requests.log_url(**requests.range_filters(DateRange(first_day, last_day, days.zone)), mode=mode)
    ends_at = calls.starts[last + 1] if last + 1 < len(calls.starts) else days.ends_at
    return requests.log_url(since=calls.starts[first].isoformat(), until=ends_at.isoformat(), mode=mode)


def _labels(calls: CallSeries, days: DateRange) -> list[str]:
    zone = days.zone.key
    if calls.interval == "hour":
        is_short = isinstance(days, HourRange) or days.first == days.last
        prefixes = ["" if is_short else f"{formatting.format_day(at, zone)}, " for at in calls.starts]
        times = [formatting.format_clock_time(at, zone) for at in calls.starts]
        return [f"{prefix}{time}" for prefix, time in zip(prefixes, times, strict=True)]
    format_start = formatting.format_day if days.first.year == days.last.year else formatting.format_date
    return [format_start(at, zone) for at in calls.starts]


def _rows(report: UsageReport, tab: str, by_code: Mapping[str, MeterContent]) -> list[tuple[Any, ...]]:
    """What a tab lists: its heading cells, then the tally; of meters their usage and content."""
    if tab == "meter":
        return sorted(((usage, by_code[usage.meter]) for usage in report.by_meter), key=lambda row: row[1].name)
    if tab == "endpoint":
        return [(*endpoint, tally) for endpoint, tally in sorted(report.by_endpoint.items())]
    if tab == "day":
        return [(day, tally) for day, tally in sorted(report.by_day.items(), reverse=True)]
    totals = sorted(report.by_api_key.items(), key=lambda item: (-item[1].requests, str(item[0])))
    return [(key_id, report.key_names.get(key_id) if key_id else None, tally) for key_id, tally in totals]


def _table(report: UsageReport, tab: str, mode: str) -> Response:
    days = report.days
    name = f"usage-by-{tab}-{days.first}-{days.last}-{mode}.csv"
    if tab == "meter":
        return pages.csv_response(name, USAGE_CSV_COLUMNS[tab], _meter_table(report))
    rows = [(*_cells(tab, row[:-1]), *_counts(row[-1], report.currency)) for row in _rows(report, tab, {})]
    return pages.csv_response(name, USAGE_CSV_COLUMNS[tab], rows)


def _meter_table(report: UsageReport) -> list[tuple[Any, ...]]:
    return [
        (
            *(usage.meter, usage.unit, usage.requests),
            *(Decimal(money.format_unit_price(part)) for part in (usage.quantity, usage.included, usage.overage)),
            *(Decimal(money.format_exact_amount(usage.cost, report.currency)), report.currency),
        )
        for usage in report.by_meter
    ]


def _cells(tab: str, heading: Sequence[Any]) -> Sequence[Any]:
    if tab == "key":
        return heading[0] and ids.format_id("key", heading[0]), heading[1]
    return [str(part) for part in heading]


def _counts(tally: CallTotals, currency: str) -> tuple[Any, ...]:
    return tally.requests, tally.success_count, tally.error_count, Decimal(tally.format_cost(currency)), currency
