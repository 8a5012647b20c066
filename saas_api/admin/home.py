"""The overview of the platform."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from saas_api.admin import context
from saas_api.core import clock, formatting, money
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.web import charts, pages
from saas_api.core.web.charts import Chart, ChartPoint

bp = Blueprint("home", __name__)

OVERVIEW_DAYS, MAX_METERS = 30, 4
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
_MONEY = sa.text("""
SELECT currency, sum(revenue)::bigint AS revenue_minor, sum(unpaid)::bigint AS unpaid_minor,
  sum(overdue)::bigint AS overdue_minor, sum(monthly)::bigint AS monthly_minor FROM (
  SELECT currency, CASE WHEN state <> 'void' AND finalized_at >= :since THEN total_minor - credited_minor ELSE 0 END
      AS revenue,
    CASE WHEN state = 'open' THEN due_minor ELSE 0 END AS unpaid,
    CASE WHEN state = 'open' AND due_at < :at THEN due_minor ELSE 0 END AS overdue, 0 AS monthly
  FROM invoices WHERE state <> 'draft'
  UNION ALL
  SELECT v.currency, 0, 0, 0, v.base_amount_minor FROM subscription_segments g
    JOIN plan_versions v ON v.id = g.plan_version_id
    JOIN organizations o ON o.id = g.organization_id AND o.status <> 'closed'
   WHERE g.starts_at <= :at AND (g.ends_at IS NULL OR g.ends_at > :at)) found
GROUP BY currency ORDER BY currency""")
_USAGE_BY_DAY = sa.text("""
SELECT (bucket_at AT TIME ZONE 'UTC')::date AS day, meter_code, sum(event_count)::bigint AS requests
FROM usage_rollups WHERE bucket_at >= :since GROUP BY 1, 2""")
_REVENUE_BY_DAY = sa.text("""
SELECT (finalized_at AT TIME ZONE 'UTC')::date AS day, currency, sum(total_minor - credited_minor)::bigint AS minor
FROM invoices WHERE state NOT IN ('draft', 'void') AND finalized_at >= :since GROUP BY 1, 2""")


@dataclass(frozen=True)
class Overview:
    """Figures of the platform now, and of the last 30 days by day in UTC.

    money: a row for each currency, in minor units: revenue_minor (finalized in 30 days, less credit notes),
        unpaid_minor, overdue_minor, monthly_minor (base amounts of the plans in force)
    usage: accepted requests by meter and day
    revenue: finalized totals by currency and day, in minor units
    """

    figures: Any
    money: Sequence[Any]
    days: Sequence[date]
    usage: Mapping[str, Mapping[date, int]]
    revenue: Mapping[str, Mapping[date, int]]

    @property
    def requests(self) -> int:
        """Accepted requests of 30 days."""
        return sum(count for by_day in self.usage.values() for count in by_day.values())

    @property
    def oldest_due(self) -> datetime | None:
        """When the oldest pending message or delivery became due."""
        due = [self.figures.oldest_message, self.figures.oldest_delivery]
        return min((at for at in due if at), default=None)


def get_overview(session: SystemSession, at: datetime) -> Overview:
    """Figures of the platform at an instant."""
    today = at.date()
    days = [today - timedelta(days=back) for back in range(OVERVIEW_DAYS - 1, -1, -1)]
    since = at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=OVERVIEW_DAYS - 1)
    values = {"at": at, "since": since}
    return Overview(
        session.execute(_FIGURES, values).one(),
        session.execute(_MONEY, values).all(),
        days,
        _by_day(session.execute(_USAGE_BY_DAY, values).all()),
        _by_day(session.execute(_REVENUE_BY_DAY, values).all()),
    )


def _by_day(rows: Sequence[Any]) -> dict[str, dict[date, int]]:
    amounts: dict[str, dict[date, int]] = {}
    for day, name, amount in rows:
        amounts.setdefault(name, {})[day] = int(amount)
    return amounts


@bp.get("/admin")
@require_operator("support")
def index() -> Response:
    """Show the overview."""
    now = clock.now()
    with context.read_session() as session:
        overview = get_overview(session, now)
    return pages.render_page(
        "admin/home.html",
        overview=overview,
        now=now,
        usage=_usage_chart(overview),
        revenue=[_revenue_chart(overview, currency) for currency in sorted(overview.revenue)],
    )


def _usage_chart(overview: Overview) -> Chart:
    meters = sorted(overview.usage, key=lambda name: -sum(overview.usage[name].values()))[:MAX_METERS] or ["requests"]
    points: list[ChartPoint] = [
        (formatting.format_day(day), *(overview.usage.get(name, {}).get(day, 0) for name in meters))
        for day in overview.days
    ]
    return charts.bar_chart("usage", "Accepted requests per day, all organizations (UTC)", points, series=meters)


def _revenue_chart(overview: Overview, currency: str) -> Chart:
    by_day = overview.revenue[currency]
    places = money.currency_exponent(currency)
    points = [
        (formatting.format_day(day), Decimal(max(0, by_day.get(day, 0))).scaleb(-places)) for day in overview.days
    ]

    def format_amount(value: Decimal) -> str:
        return formatting.format_money(int(value.scaleb(places)), currency)

    title = f"Invoiced per day, less credit notes ({currency}, UTC)"
    return charts.bar_chart(f"revenue-{currency.lower()}", title, points, series=[currency], fmt=format_amount)
