"""The overview of the platform."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from saas_api.admin import context, revenue
from saas_api.core import clock, formatting
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.web import charts, pages
from saas_api.core.web.charts import Chart, ChartPoint
from saas_api.usage import meters

bp = Blueprint("home", __name__)

OVERVIEW_DAYS = 30
_FIGURES = sa.text("""
SELECT
  (SELECT count(*) FROM organizations WHERE status <> 'closed') AS organizations,
  (SELECT count(*) FROM organizations WHERE status = 'suspended') AS suspended,
  (SELECT count(DISTINCT organization_id) FROM usage_rollups WHERE bucket_at >= :since AND quantity > 0) AS active,
  (SELECT count(*) FROM messages WHERE status IN ('queued', 'sending')) AS waiting_messages,
  (SELECT min(next_at) FROM messages WHERE status IN ('queued', 'sending')) AS oldest_message,
  (SELECT count(*) FROM webhook_deliveries WHERE status IN ('queued', 'sending')) AS waiting_deliveries,
  (SELECT min(next_at) FROM webhook_deliveries WHERE status IN ('queued', 'sending')) AS oldest_delivery,
  (SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL
     AND (consecutive_failures > 0 AND status = 'enabled' OR status IN ('disabled_failing', 'disabled_gone')))
   AS failing_endpoints,
  (SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL AND status = 'enabled') AS enabled_endpoints,
  (SELECT count(*) FROM billing_profiles WHERE parked_at IS NOT NULL) AS on_hold,
  (SELECT count(*) FROM provider_events WHERE status = 'quarantined') AS quarantined""")
_OLDEST = ("oldest_message", "oldest_delivery")
_MONEY = sa.text("""
SELECT currency, coalesce(sum(total_minor - credited_minor) FILTER (WHERE state <> 'void' AND finalized_at >= :since),
    0)::bigint AS revenue_minor,
  coalesce(sum(due_minor) FILTER (WHERE state = 'open'), 0)::bigint AS unpaid_minor,
  coalesce(sum(due_minor) FILTER (WHERE state = 'open' AND due_at < :at), 0)::bigint AS overdue_minor
FROM invoices WHERE state <> 'draft' GROUP BY currency ORDER BY currency""")
_USAGE_BY_DAY = sa.text("""
SELECT (bucket_at AT TIME ZONE 'UTC')::date AS day, meter_code, sum(event_count)::bigint AS requests
FROM usage_rollups WHERE bucket_at >= :since GROUP BY 1, 2""")


@dataclass(frozen=True)
class Overview:
    """Figures of the platform now, of the last 30 days by day, and of the last 12 months, all in UTC.

    money: a row for each currency, in minor units: revenue_minor (finalized in 30 days, less credit notes),
        unpaid_minor, overdue_minor
    usage: accepted requests by meter and day
    mrr, net_revenue: rows of `revenue.read_figure`
    meter_names: names of meters by code
    missing_cells: cells that did not respond; their organizations are not in the figures
    """

    figures: Any
    money: Sequence[Any]
    days: Sequence[date]
    usage: Mapping[str, Mapping[date, int]]
    mrr: Sequence[Any]
    net_revenue: Sequence[Any]
    meter_names: Mapping[str, str]
    missing_cells: Sequence[str]

    @property
    def requests(self) -> int:
        """Accepted requests of 30 days."""
        return sum(count for by_day in self.usage.values() for count in by_day.values())

    @property
    def oldest_due(self) -> datetime | None:
        """When the oldest pending message or delivery became due."""
        due = [self.figures.oldest_message, self.figures.oldest_delivery]
        return min((at for at in due if at), default=None)


def get_overview(at: datetime) -> Overview:
    """Figures of the platform at an instant, of all cells together."""
    today = at.date()
    days = [today - timedelta(days=back) for back in range(OVERVIEW_DAYS - 1, -1, -1)]
    since = at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=OVERVIEW_DAYS - 1)
    values = {"at": at, "since": since}

    def read(session: SystemSession) -> tuple[Any, ...]:
        return (
            session.execute(_FIGURES, values).one(),
            session.execute(_MONEY, values).all(),
            session.execute(_USAGE_BY_DAY, values).all(),
            revenue.read_figure(session, "mrr", at),
            revenue.read_figure(session, "net-revenue", at),
            {code: meter.name for code, meter in meters.all_meters(session).items()},
        )

    found, missing_cells = context.read_each_cell(read)
    figures, amounts, usage, mrr, net_revenue, meter_names = zip(*found, strict=True)
    return Overview(
        _add_figures(figures),
        context.add_up(amounts, "currency"),
        days,
        _by_day(context.add_up(usage, "meter_code", "day")),
        revenue.add_up("mrr", mrr),
        revenue.add_up("net-revenue", net_revenue),
        meter_names[0],
        missing_cells,
    )


def _add_figures(parts: Sequence[Any]) -> Any:
    """The figures of all cells: sums, and the oldest of instants."""
    total = SimpleNamespace()
    for name in parts[0]._fields:
        values = [value for part in parts if (value := getattr(part, name)) is not None]
        setattr(total, name, min(values, default=None) if name in _OLDEST else sum(values))
    return total


def _by_day(rows: Sequence[Any]) -> dict[str, dict[date, int]]:
    amounts: dict[str, dict[date, int]] = {}
    for row in rows:
        amounts.setdefault(row.meter_code, {})[row.day] = int(row.requests)
    return amounts


@bp.get("/admin")
@require_operator("support")
def index() -> Response:
    """Show the overview."""
    now = clock.now()
    overview = get_overview(now)
    return pages.render_page(
        "admin/home.html",
        overview=overview,
        missing_cells=overview.missing_cells,
        now=now,
        usage=_usage_chart(overview),
        mrr=_last_rows(overview.mrr),
        revenue=_revenue_charts(overview),
    )


def _last_rows(rows: Sequence[Any]) -> Mapping[str, Any]:
    """The row of the running month by currency."""
    return {row.currency: row for row in rows}


def _revenue_charts(overview: Overview) -> list[Chart]:
    """Recurring and net revenue of each currency."""
    drawn: list[Chart] = []
    for currency in sorted({row.currency for row in (*overview.mrr, *overview.net_revenue)}):
        for rows, draw in ((overview.mrr, revenue.mrr_chart), (overview.net_revenue, revenue.net_revenue_chart)):
            own = [row for row in rows if row.currency == currency]
            drawn += [draw(own, currency)] if own else []
    return drawn


def _usage_chart(overview: Overview) -> Chart:
    columns = {code: [by_day.get(day, 0) for day in overview.days] for code, by_day in overview.usage.items()}
    names, values = charts.meter_series(columns, overview.meter_names, len(overview.days))
    points: list[ChartPoint] = list(zip(map(formatting.format_day, overview.days), *values, strict=True))
    return charts.bar_chart("usage", "Accepted requests per day, all organizations (UTC)", points, series=names)
