"""The usage page: what was called in a time, over time and by endpoint, key and day; what the running period used."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, g, url_for

from saas_api.billing import service as billing
from saas_api.billing.queries.usage import Report, Tally, usage_report
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text, unit_price_text
from saas_api.core.render import Form, csv_response, page
from saas_api.core.render.charts import MOST_SERIES, Chart, bars, plain
from saas_api.core.render.lists import read_filters
from saas_api.core.settings import setting
from saas_api.dashboard.queries import usage as queries
from saas_api.dashboard.schemas.usage import UsageFilters
from saas_api.organizations import service as organizations
from saas_api.usage.rules import Days

bp = Blueprint("usage", __name__)
TEMPLATE = "dashboard/usage/index.html"
RANGES = [
    ("24h", "Last 24 hours"),
    ("7d", "Last 7 days"),
    ("30d", "Last 30 days"),
    ("period", "This billing period"),
    ("last_period", "Last billing period"),
    ("custom", "Custom dates"),
]
TABS = (("endpoint", "By endpoint"), ("key", "By key"), ("day", "By day"), ("period", "This period"))
FIELDS = {"range", "start_date", "end_date"}
COUNTS = ("requests", "success_count", "error_count", "cost", "currency")
COLUMNS = {
    "endpoint": ("method", "endpoint", *COUNTS),
    "key": ("api_key_id", "name", *COUNTS),
    "day": ("date", *COUNTS),
    "period": ("meter", "unit", "quantity", "included", "overage", "amount", "currency"),
}


@dataclass(frozen=True)
class Metered:
    """A meter in the running period; quantities in its unit, None where included quantities do not apply.

    name: with the plan under which it was used
    covered: what included quantities paid for
    """

    meter: str
    name: str
    unit: str
    quantity: Decimal
    included: Decimal | None
    amount_minor: int

    @property
    def covered(self) -> Decimal | None:
        """What included quantities pay for."""
        return None if self.included is None else min(self.quantity, self.included)

    @property
    def overage(self) -> Decimal:
        """What they do not."""
        return self.quantity - (self.covered or 0)


@bp.get("/usage")
@require("usage:read")
def index() -> Response:
    """Show the usage of a range of days, or give one of its tables as CSV."""
    billing.ensure_account(session(), g.principal.organization_id)
    zone = clock.zone(organizations.get(session(), g.principal.organization_id).timezone)
    query, form = read_filters(UsageFilters())
    try:
        days = None if form.errors else queries.days_of(session(), g.principal.organization_id, query, zone)
    except Invalid as error:
        days, form = None, Form(form.values, {str(one["field"]): str(one["reason"]) for one in error.details["fields"]})
    if days is None:
        return page(TEMPLATE, status=422, form=_refused(form), tab="", tabs=[], zone=zone.key, ranges=RANGES)
    mode = query["mode"] or g.principal.mode
    if query["tab"] == "period":
        return _period(form, zone, mode, is_table=bool(query["format"]))
    report = usage_report(session(), g.principal.organization_id, days, mode)
    if query["format"]:
        return _table(report, query["tab"], mode)
    return _shown(form, report, query["tab"], mode)


def _shown(form: Form, report: Report, tab: str, mode: str) -> Response:
    days, now, organization_id = report.days, clock.now(), g.principal.organization_id
    meters = queries.meters(session(), organization_id, now)
    chart = chart_of(queries.calls(session(), organization_id, days, mode), days, meters)
    return page(
        TEMPLATE,
        form=_filled(form),
        tab=tab,
        report=report,
        rows=_rows(report, tab),
        chart=chart,
        limit=queries.limit(session(), organization_id, mode, now),
        told=_told(days),
        app_url=setting("APP_URL"),
        **_around(form, tab, mode, days.zone),
    )


def _period(form: Form, zone: ZoneInfo, mode: str, *, is_table: bool) -> Response:
    if mode == "test":
        return page(TEMPLATE, form=_filled(form), tab="period", **_around(form, "period", mode, zone))
    meters = queries.meters(session(), g.principal.organization_id, clock.now())
    found = billing.preview(session(), g.principal.organization_id)
    metered = _metered(found, meters)
    if is_table:
        return _period_table(metered, found, zone)
    return page(
        TEMPLATE,
        form=_filled(form),
        tab="period",
        period=found,
        metered=metered,
        exact=plain,
        **_around(form, "period", mode, zone),
    )


def _around(form: Form, tab: str, mode: str, zone: ZoneInfo) -> dict[str, Any]:
    """What both kinds of tabs show: where the others are, where the table is, until when it is counted."""
    kept = {name: value for name, value in form.values.items() if name not in ("tab", "format")}
    addresses = {code: url_for("dashboard.usage.index", **kept, tab=code) for code, _ in TABS}
    return {
        "tabs": [(text, addresses[code], code == tab) for code, text in TABS],
        "table": url_for("dashboard.usage.index", **kept, tab=tab, format="csv"),
        "mode": mode,
        "ranges": RANGES,
        "zone": zone.key,
        "until": f"{clock.now().astimezone(zone):%H:%M:%S}",
    }


def _filled(form: Form) -> Form:
    """The filters as they act: what was left out stands for thirty days."""
    acting = "custom" if form.value("start_date") or form.value("end_date") else "30d"
    values = {"range": acting, **form.values}
    if values["range"] != "custom" and not form.errors:
        values = {name: value for name, value in values.items() if not name.endswith("_date")}
    return Form(values, form.errors, form.problem)


def _refused(form: Form) -> Form:
    """The filters with what is wrong: beside its field, or above them where no field is."""
    filled, problem = _filled(form), None
    for name in form.errors.keys() - FIELDS:
        problem = f"There is no such {name}: {form.value(name)}"
    told = {name: why.replace("start_date", "the first day") for name, why in form.errors.items() if name in FIELDS}
    return Form(filled.values, told, problem)


def _told(days: Days) -> str:
    if isinstance(days, queries.Hours):
        return "Last 24 hours, the running one included"
    first, last = (f"{day.day} {day:%b %Y}" for day in (days.first, days.last))
    return first if first == last else f"{first} to {last}"


def chart_of(calls: queries.Calls, days: Days, meters: Mapping[str, queries.Meter]) -> Chart:
    """Accepted calls over time by meter; of more than four meters the three most used and the others."""
    used = sorted(calls.by_meter, key=lambda code: (-sum(calls.by_meter[code]), code))
    kept = sorted(used if len(used) <= MOST_SERIES else used[: MOST_SERIES - 1])
    names = [meters[code].name for code in kept] or ["All"]
    columns = [calls.by_meter[code] for code in kept] or [[0] * len(calls.starts)]
    if len(kept) < len(used):
        names.append("Others")
        rest = (calls.by_meter[code] for code in used if code not in kept)
        columns.append([sum(values) for values in zip(*rest, strict=True)])
    title = f"Accepted calls per {calls.interval}, by meter ({days.zone.key})"
    points = list(zip(_labels(calls, days), *columns, strict=True))
    return bars("usage", title, points, series=names, x_name=calls.interval, previous=calls.before)


def _labels(calls: queries.Calls, days: Days) -> list[str]:
    starts = [at.astimezone(days.zone) for at in calls.starts]
    if calls.interval == "hour":
        is_short = isinstance(days, queries.Hours) or days.first == days.last
        return [f"{at:%H:%M}" if is_short else f"{at.day} {at:%b}, {at:%H:%M}" for at in starts]
    year = "" if days.first.year == days.last.year else " %Y"
    return [f"{at.day} {at:%b{year}}" for at in starts]


def _rows(report: Report, tab: str) -> list[tuple[Any, ...]]:
    """What a tab lists: its heading cells, then the tally."""
    if tab == "endpoint":
        return [(*place, tally) for place, tally in sorted(report.by_endpoint.items())]
    if tab == "day":
        return [(day, tally) for day, tally in sorted(report.by_day.items(), reverse=True)]
    found = sorted(report.by_api_key.items(), key=lambda item: (-item[1].requests, str(item[0])))
    return [(key_id, report.key_names.get(key_id) if key_id else None, tally) for key_id, tally in found]


def _table(report: Report, tab: str, mode: str) -> Response:
    rows = [(*_cells(tab, row[:-1]), *_counts(row[-1], report.currency)) for row in _rows(report, tab)]
    days = report.days
    return csv_response(f"usage-by-{tab}-{days.first}-{days.last}-{mode}.csv", COLUMNS[tab], rows)


def _cells(tab: str, heading: Sequence[Any]) -> Sequence[Any]:
    if tab == "key":
        return heading[0] and wire_id("key", heading[0]), heading[1]
    return [str(part) for part in heading]


def _counts(tally: Tally, currency: str) -> tuple[Any, ...]:
    return tally.requests, tally.success_count, tally.error_count, Decimal(tally.cost_text), currency


def _metered(found: billing.Preview, meters: Mapping[str, queries.Meter]) -> list[Metered]:
    """The lines of the bill that are about usage; a meter without use is told with what is included of it."""
    lines = [line for line in found.draft.lines if line.meter is not None]
    known = Counter(line.meter for line in lines)
    rows = []
    for line in lines:
        meter, included = meters[str(line.meter)], line.calculation.get("included")
        name = meter.name if known[line.meter] == 1 and line.kind == "usage" else f"{meter.name} ({line.description})"
        share = None if included is None else Decimal(included)
        rows.append(Metered(str(line.meter), name, meter.unit, line.quantity, share, line.amount_minor))
    seen = {row.meter for row in rows}
    rows += [
        Metered(code, meter.name, meter.unit, Decimal(0), meter.included, 0)
        for code, meter in meters.items()
        if code not in seen and meter.included
    ]
    return rows


def _period_table(metered: list[Metered], found: billing.Preview, zone: ZoneInfo) -> Response:
    currency = found.draft.currency
    rows = [
        (
            *(row.meter, row.unit, Decimal(unit_price_text(row.quantity)), row.covered, row.overage),
            *(Decimal(minor_to_text(row.amount_minor, currency)), currency),
        )
        for row in metered
    ]
    starts = found.starts_at.astimezone(zone).date()
    return csv_response(f"usage-period-{starts}-live.csv", COLUMNS["period"], rows)
