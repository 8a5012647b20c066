"""Revenue of the platform, each currency apart: recurring and net revenue, customers, payments and overdue invoices.

Months are calendar months in UTC. The page defines every figure, and has each as a CSV file.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import chain, groupby, islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, request
from marshmallow import fields, validate

from saas_api.admin import context, lists
from saas_api.admin.context import ReasonForm
from saas_api.admin.lists import Columns
from saas_api.core import clock, formatting, ids, money
from saas_api.core.access import require_operator
from saas_api.core.db import cells
from saas_api.core.db.cells import CellUnavailable
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.core.fields import StrictSchema
from saas_api.core.web import charts, http, pages
from saas_api.core.web.charts import Chart, ChartPoint
from saas_api.core.web.pages import MAX_EXPORT_ROWS

bp = Blueprint("revenue", __name__)

Rows = Sequence[Any]
"""Rows of a figure."""

MONTHS, COMPARED_MONTHS, MAX_CUSTOMERS, PAYMENT_DAYS = 12, 3, 10, 30

# A fee is in force at a bound when it is so just before, so that a change at midnight of the first belongs to that
# month. What changes in month n happens between the bounds n and n + 1.
_MRR = """
WITH bounds AS (SELECT n, at FROM unnest(CAST(:bounds AS timestamptz[])) WITH ORDINALITY AS b (at, n)),
fees AS (
  SELECT b.n, g.organization_id, v.currency, v.base_amount_minor AS minor FROM bounds b
  JOIN subscription_segments g ON g.starts_at < b.at AND (g.ends_at IS NULL OR g.ends_at >= b.at)
  JOIN plan_versions v ON v.id = g.plan_version_id AND v.base_amount_minor > 0
  JOIN organizations o ON o.id = g.organization_id AND (o.closed_at IS NULL OR o.closed_at >= b.at)
  WHERE NOT EXISTS (SELECT FROM billing_pauses p WHERE p.organization_id = g.organization_id AND p.starts_at < b.at
    AND (p.ends_at IS NULL OR p.ends_at >= b.at))),
changes AS (
  SELECT n, organization_id, currency, sum(before) AS before, sum(after) AS after FROM (
    SELECT n - 1 AS n, organization_id, currency, 0 AS before, minor AS after FROM fees
    UNION ALL SELECT n, organization_id, currency, minor, 0 FROM fees) sides
  GROUP BY 1, 2, 3)
SELECT (b.at AT TIME ZONE 'UTC')::date AS month, k.currency, coalesce(sum(before), 0)::bigint AS start_minor,
  coalesce(sum(after) FILTER (WHERE before = 0), 0)::bigint AS new_minor,
  coalesce(sum(after - before) FILTER (WHERE before > 0 AND after > before), 0)::bigint AS expansion_minor,
  coalesce(sum(before - after) FILTER (WHERE after > 0 AND after < before), 0)::bigint AS contraction_minor,
  coalesce(sum(before) FILTER (WHERE after = 0), 0)::bigint AS churn_minor,
  coalesce(sum(after), 0)::bigint AS end_minor, count(*) FILTER (WHERE after > 0) AS customers
FROM bounds b CROSS JOIN (SELECT DISTINCT currency FROM fees) k
LEFT JOIN changes c ON c.n = b.n AND c.currency = k.currency
WHERE b.n < (SELECT max(n) FROM bounds) GROUP BY 1, 2 ORDER BY 2, 1"""

# Credit that an invoice carries to the next one lowers the month in which it arose: the negative line counts, the line
# that brings the total back to zero does not.
_ENTRIES = """
WITH entries AS (
  SELECT i.organization_id, i.currency, i.finalized_at AS at, 'invoiced' AS source, l.kind, l.plan_version_id,
    l.meter_code, l.amount_minor - l.discount_minor AS minor
  FROM invoices i
  JOIN invoice_lines l ON l.organization_id = i.organization_id AND l.invoice_id = i.id AND l.kind <> 'carry'
  WHERE i.state NOT IN ('draft', 'void') AND i.finalized_at >= :since
    AND (CAST(:organization_id AS uuid) IS NULL OR i.organization_id = :organization_id)
  UNION ALL
  SELECT c.organization_id, c.currency, c.issued_at, 'credit_note', l.kind, l.plan_version_id, l.meter_code,
    -x.amount_minor
  FROM credit_notes c
  JOIN credit_note_lines x ON x.organization_id = c.organization_id AND x.credit_note_id = c.id
  JOIN invoice_lines l ON l.organization_id = x.organization_id AND l.id = x.invoice_line_id
  JOIN invoices i ON i.organization_id = c.organization_id AND i.id = c.invoice_id AND i.state <> 'void'
  WHERE c.issued_at >= :since
    AND (CAST(:organization_id AS uuid) IS NULL OR c.organization_id = :organization_id)
  UNION ALL
  SELECT e.organization_id, i.currency, e.at, 'promotion', 'promotion', NULL, NULL, e.delta_minor
  FROM credit_entries e
  JOIN credit_grants g ON g.organization_id = e.organization_id AND g.id = e.grant_id AND g.kind = 'promotional'
  JOIN invoices i ON i.organization_id = e.organization_id AND i.id = e.invoice_id AND i.state NOT IN ('draft', 'void')
  WHERE e.at >= :since AND (CAST(:organization_id AS uuid) IS NULL OR e.organization_id = :organization_id))"""
_NET_REVENUE = f"""{_ENTRIES}
SELECT m.month, k.currency, coalesce(sum(minor) FILTER (WHERE source = 'invoiced'), 0)::bigint AS invoiced_minor,
  coalesce(-sum(minor) FILTER (WHERE source = 'credit_note'), 0)::bigint AS credited_minor,
  coalesce(-sum(minor) FILTER (WHERE source = 'promotion'), 0)::bigint AS promotion_minor,
  coalesce(sum(minor), 0)::bigint AS net_minor
FROM unnest(CAST(:months AS date[])) AS m (month) CROSS JOIN (SELECT DISTINCT currency FROM entries) k
LEFT JOIN entries e ON e.currency = k.currency AND date_trunc('month', e.at AT TIME ZONE 'UTC')::date = m.month
GROUP BY 1, 2 ORDER BY 2, 1"""
_BY_PLAN = f"""{_ENTRIES}
SELECT date_trunc('month', e.at AT TIME ZONE 'UTC')::date AS month, e.currency,
  coalesce(p.name, CASE e.kind WHEN 'promotion' THEN 'Promotional credit' ELSE 'Manual lines' END) AS name,
  sum(e.minor)::bigint AS net_minor
FROM entries e LEFT JOIN plan_versions v ON v.id = e.plan_version_id LEFT JOIN plans p ON p.code = v.plan_code
GROUP BY 1, 2, 3 HAVING sum(e.minor) <> 0 ORDER BY 2, 1, 3"""
_BY_METER = f"""{_ENTRIES}
SELECT date_trunc('month', e.at AT TIME ZONE 'UTC')::date AS month, e.currency,
  CASE e.kind WHEN 'base' THEN 'Plan fees' WHEN 'minimum' THEN 'Minimum spend'
    WHEN 'promotion' THEN 'Promotional credit' ELSE coalesce(m.name, 'Manual lines') END AS name,
  sum(e.minor)::bigint AS net_minor
FROM entries e LEFT JOIN meters m ON m.code = e.meter_code
GROUP BY 1, 2, 3 HAVING sum(e.minor) <> 0 ORDER BY 2, 1, 3"""
_CUSTOMERS = f"""{_ENTRIES},
totals AS (
  SELECT organization_id, currency, sum(minor)::bigint AS net_minor,
    coalesce(sum(minor) FILTER (WHERE at >= :recent_since AND at < :recent_until), 0)::bigint AS recent_minor,
    coalesce(sum(minor) FILTER (WHERE at >= :earlier_since AND at < :recent_since), 0)::bigint AS earlier_minor
  FROM entries GROUP BY 1, 2),
ranked AS (
  SELECT t.*, row_number() OVER (PARTITION BY currency ORDER BY net_minor DESC, organization_id) AS by_revenue,
    earlier_minor > 0 AND recent_minor <= earlier_minor * 0.8 AS is_fading,
    row_number() OVER (PARTITION BY currency ORDER BY earlier_minor > 0 AND recent_minor <= earlier_minor * 0.8 DESC,
      recent_minor - earlier_minor, organization_id) AS by_decline
  FROM totals t)
SELECT o.id, o.name, r.currency, r.net_minor, r.recent_minor, r.earlier_minor
FROM ranked r JOIN organizations o ON o.id = r.organization_id"""
_TOP_CUSTOMERS = f"{_CUSTOMERS} WHERE by_revenue <= :most AND net_minor > 0 ORDER BY currency, by_revenue"
_FADING_CUSTOMERS = f"""{_CUSTOMERS} WHERE by_decline <= :most AND is_fading ORDER BY currency, by_decline"""
# A cohort's organizations had their first invoice above 0 in its month; each month counts those with net revenue in it.
_COHORTS = f"""{_ENTRIES},
firsts AS (
  SELECT organization_id, currency, date_trunc('month', min(finalized_at) AT TIME ZONE 'UTC')::date AS cohort
  FROM invoices WHERE state NOT IN ('draft', 'void') AND total_minor > 0
    AND (CAST(:organization_id AS uuid) IS NULL OR organization_id = :organization_id)
  GROUP BY 1, 2),
cohorts AS (
  SELECT cohort, currency, count(*) AS organizations FROM firsts WHERE cohort = ANY (CAST(:months AS date[]))
  GROUP BY 1, 2),
revenue AS (
  SELECT f.cohort, f.currency, date_trunc('month', e.at AT TIME ZONE 'UTC')::date AS month, f.organization_id,
    sum(e.minor) AS minor
  FROM firsts f JOIN entries e ON e.organization_id = f.organization_id AND e.currency = f.currency
  GROUP BY 1, 2, 3, 4)
SELECT c.cohort, c.currency, c.organizations, m.month, count(r.minor) FILTER (WHERE r.minor > 0) AS paying,
  coalesce(sum(r.minor), 0)::bigint AS net_minor
FROM cohorts c JOIN unnest(CAST(:months AS date[])) AS m (month) ON m.month >= c.cohort
LEFT JOIN revenue r ON r.cohort = c.cohort AND r.currency = c.currency AND r.month = m.month
GROUP BY 1, 2, 3, 4 ORDER BY 2, 1, 4"""
_PAYMENTS = """
SELECT provider, currency, count(*) FILTER (WHERE state = 'succeeded' AND created_at >= :payments_since) AS recent_paid,
  count(*) FILTER (WHERE state = 'failed' AND created_at >= :payments_since) AS recent_failed,
  count(*) FILTER (WHERE state = 'succeeded') AS paid, count(*) FILTER (WHERE state = 'failed') AS failed,
  count(*) FILTER (WHERE state NOT IN ('succeeded', 'failed', 'canceled')) AS in_progress,
  sum(captured_minor)::bigint AS captured_minor
FROM payments WHERE created_at >= :since AND provider <> 'offline' GROUP BY 1, 2 ORDER BY 2, 1"""
_OVERDUE = """
WITH ages (least, most) AS (VALUES (0, 7), (8, 30), (31, 60), (61, 90), (91, NULL)),
overdue AS (
  SELECT currency, organization_id, due_minor, extract(epoch FROM :at - due_at)::bigint / 86400 AS days
  FROM invoices WHERE state = 'open' AND due_at < :at)
SELECT a.least, a.most, k.currency, count(o.days) AS invoices, count(DISTINCT o.organization_id) AS organizations,
  coalesce(sum(o.due_minor), 0)::bigint AS due_minor
FROM ages a CROSS JOIN (SELECT DISTINCT currency FROM overdue) k
LEFT JOIN overdue o ON o.currency = k.currency AND o.days BETWEEN a.least AND coalesce(a.most, o.days)
GROUP BY 1, 2, 3 ORDER BY 3, 1"""


def _minor(name: str) -> Any:
    return lambda row: lists.csv_money(getattr(row, name), row.currency)


def _share(part: int, rest: int) -> Decimal | None:
    return Decimal(part) / (part + rest) if part + rest else None


_MONTH_COLUMNS: Columns = {"month": lambda row: row.month, "currency": lambda row: row.currency}
_CUSTOMER_COLUMNS: Columns = {
    "organization_id": lambda row: ids.format_id("org", row.id),
    "organization": lambda row: row.name,
    "currency": lambda row: row.currency,
    "net_revenue": _minor("net_minor"),
    "recent_3_months": _minor("recent_minor"),
    "earlier_3_months": _minor("earlier_minor"),
}


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    statement: reads its rows in one cell
    columns: of its CSV file
    key: columns of the statement by which rows of several cells are added up; none for lists of customers
    """

    statement: sa.TextClause
    columns: Columns
    key: Sequence[str] = ()


FIGURES: Mapping[str, Figure] = {
    "mrr": Figure(
        sa.text(_MRR),
        {
            **_MONTH_COLUMNS,
            **{name: _minor(f"{name}_minor") for name in ("start", "new", "expansion", "contraction", "churn", "end")},
            "customers": lambda row: row.customers,
        },
        ("currency", "month"),
    ),
    "net-revenue": Figure(
        sa.text(_NET_REVENUE),
        {
            **_MONTH_COLUMNS,
            "invoiced": _minor("invoiced_minor"),
            "credit_notes": _minor("credited_minor"),
            "promotional_credit": _minor("promotion_minor"),
            "net_revenue": _minor("net_minor"),
        },
        ("currency", "month"),
    ),
    "plans": Figure(
        sa.text(_BY_PLAN),
        {**_MONTH_COLUMNS, "plan": lambda row: row.name, "net_revenue": _minor("net_minor")},
        ("currency", "month", "name"),
    ),
    "meters": Figure(
        sa.text(_BY_METER),
        {**_MONTH_COLUMNS, "charge": lambda row: row.name, "net_revenue": _minor("net_minor")},
        ("currency", "month", "name"),
    ),
    "top-customers": Figure(sa.text(_TOP_CUSTOMERS), _CUSTOMER_COLUMNS),
    "fading-customers": Figure(sa.text(_FADING_CUSTOMERS), _CUSTOMER_COLUMNS),
    "cohorts": Figure(
        sa.text(_COHORTS),
        {
            "cohort": lambda row: row.cohort,
            **_MONTH_COLUMNS,
            "organizations": lambda row: row.organizations,
            "paying_organizations": lambda row: row.paying,
            "net_revenue": _minor("net_minor"),
        },
        ("currency", "cohort", "month"),
    ),
    "payments": Figure(
        sa.text(_PAYMENTS),
        {
            "provider": lambda row: row.provider,
            "currency": lambda row: row.currency,
            "succeeded_30d": lambda row: row.recent_paid,
            "failed_30d": lambda row: row.recent_failed,
            "succeeded": lambda row: row.paid,
            "failed": lambda row: row.failed,
            "in_progress": lambda row: row.in_progress,
            "collected": _minor("captured_minor"),
        },
        ("currency", "provider"),
    ),
    "overdue": Figure(
        sa.text(_OVERDUE),
        {
            "from_days": lambda row: row.least,
            "to_days": lambda row: "" if row.most is None else row.most,
            "currency": lambda row: row.currency,
            "organizations": lambda row: row.organizations,
            "invoices": lambda row: row.invoices,
            "amount_due": _minor("due_minor"),
        },
        ("currency", "least", "most"),
    ),
}
_RANKS: Mapping[str, Callable[[Any], Any]] = {
    "top-customers": lambda row: (row.currency, -row.net_minor, row.id),
    "fading-customers": lambda row: (row.currency, row.recent_minor - row.earlier_minor, row.id),
}
"""Order of the lists of customers, as their statements have it."""


@dataclass(frozen=True)
class Split:
    """Net revenue of one plan or of one kind of charge, in minor units.

    share: of the net revenue of twelve months; None when that is 0
    """

    name: str
    this_month_minor: int
    last_month_minor: int
    total_minor: int
    share: Decimal | None


@dataclass(frozen=True)
class Cohort:
    """Organizations that paid first in one month.

    month: first day
    organizations: their number
    months: rows of the figure "cohorts", from the first month to the running one
    """

    month: date
    organizations: int
    months: Sequence[Any]


class RevenueQuery(StrictSchema):
    """The currency that the page shows; by default the first with a figure."""

    currency = fields.String(load_default=None, validate=validate.OneOf(list(money.CURRENCY_EXPONENTS)))


def list_months(at: datetime, count: int = MONTHS) -> list[date]:
    """First days of the last months in UTC, the running one last."""
    today = at.astimezone(UTC).date()
    numbers = (today.year * 12 + today.month - 1 - back for back in range(count - 1, -1, -1))
    return [date(number // 12, number % 12 + 1, 1) for number in numbers]


def read_figure(
    session: SystemSession,
    name: str,
    at: datetime,
    most: int = MAX_CUSTOMERS,
    organization_id: UUID | None = None,
) -> Rows:
    """Rows of a figure of all currencies in the cell of a session; amounts are in minor units.

    name: of FIGURES
    most: customers in each currency
    organization_id: only its invoices; None for all
    raises: NotFound
    """
    if name not in FIGURES:
        raise NotFound
    months = list_months(at)
    starts = [datetime(month.year, month.month, 1, tzinfo=UTC) for month in months]
    values = {
        "at": at,
        "months": months,
        "bounds": [*starts, at],
        "since": starts[0],
        "recent_since": starts[-1 - COMPARED_MONTHS],
        "recent_until": starts[-1],
        "earlier_since": starts[-1 - 2 * COMPARED_MONTHS],
        "payments_since": at - timedelta(days=PAYMENT_DAYS),
        "most": most,
        "organization_id": organization_id,
    }
    return session.execute(FIGURES[name].statement, values).all()


def read_figures(names: Iterable[str], at: datetime, most: int = MAX_CUSTOMERS) -> tuple[dict[str, Rows], list[str]]:
    """Rows of figures of all cells together, and the names of the cells that do not respond.

    names: of FIGURES
    most: customers in each currency
    raises: NotFound
    """
    found, missing_cells = context.read_each_cell(
        lambda session: {name: read_figure(session, name, at, most) for name in names}
    )
    return {name: add_up(name, [rows[name] for rows in found], most) for name in found[0]}, missing_cells


def add_up(name: str, parts: Sequence[Rows], most: int = MAX_CUSTOMERS) -> Rows:
    """The rows of a figure in several cells as one; an organization is in one of them.

    most: customers in each currency
    """
    if name not in _RANKS:
        return context.add_up(parts, *FIGURES[name].key)
    ranked = sorted(chain.from_iterable(parts), key=_RANKS[name])
    return [row for _, rows in groupby(ranked, lambda row: row.currency) for row in islice(rows, most)]


def mrr_chart(rows: Sequence[Any], currency: str) -> Chart:
    """Recurring revenue at the end of each month.

    rows: of the figure "mrr" in the currency
    """
    title = f"Monthly recurring revenue at the end of each month ({currency}, UTC)"
    points = [_point(row.month, row.end_minor, currency) for row in rows]
    fmt = _amount_format(currency)
    return charts.level_chart(f"mrr-{currency.lower()}", title, points, name="MRR", x_name="month", fmt=fmt)


def net_revenue_chart(rows: Sequence[Any], currency: str) -> Chart:
    """Net revenue by month; a month in which more was credited than invoiced has no bar.

    rows: of the figure "net-revenue" in the currency
    """
    title = f"Net revenue per month ({currency}, UTC)"
    points = [_point(row.month, max(0, row.net_minor), currency) for row in rows]
    chart_id, fmt = f"net-revenue-{currency.lower()}", _amount_format(currency)
    return charts.bar_chart(chart_id, title, points, series=["Net revenue"], x_name="month", fmt=fmt)


@bp.get("/admin/revenue")
@require_operator("support")
def index() -> Response:
    """Show every figure in one currency."""
    query, now = lists.parse_query(RevenueQuery()), clock.now()
    figures, missing_cells = read_figures(FIGURES, now)
    currencies = sorted({row.currency for rows in figures.values() for row in rows})
    currency = query["currency"] or next(iter(currencies), money.DEFAULT_CURRENCY)
    shown = {name: [row for row in rows if row.currency == currency] for name, rows in figures.items()}
    payments = shown["payments"]
    return pages.render_page(
        "admin/revenue.html",
        figures=shown,
        currency=currency,
        currencies=currencies,
        mrr_chart=mrr_chart(shown["mrr"], currency) if shown["mrr"] else None,
        net_revenue_chart=net_revenue_chart(shown["net-revenue"], currency) if shown["net-revenue"] else None,
        splits_of={name: _splits(shown[name], list_months(now)) for name in ("plans", "meters")},
        since=_first_month(shown),
        cohorts=list_cohorts(shown["cohorts"]),
        overdue_minor=sum(row.due_minor for row in shown["overdue"]),
        payment_success=_share(sum(row.recent_paid for row in payments), sum(row.recent_failed for row in payments)),
        share=_share,
        missing_cells=missing_cells,
    )


@bp.get("/admin/revenue/<figure>.csv")
@require_operator("admin")
def export(figure: str) -> Response:
    """Export a figure of all currencies; the reason is recorded."""
    http.load_schema(ReasonForm(), request.args)
    figures, missing_cells = read_figures([figure], clock.now(), MAX_EXPORT_ROWS)
    if missing_cells:  # a file would not say what it lacks
        raise CellUnavailable(retry_after=cells.RETRY_SECONDS)
    rows = figures[figure]
    return lists.csv_export(f"revenue-{figure}", FIGURES[figure].columns, Page(rows, None, len(rows)))


def _first_month(figures: Mapping[str, Sequence[Any]]) -> date | None:
    """The first month that has a figure; a young platform shows no months before it."""
    has_fee = [row.month for row in figures["mrr"] if row.start_minor or row.end_minor]
    return min([*has_fee, *(row.month for row in figures["plans"])], default=None)


def _splits(rows: Sequence[Any], months: Sequence[date]) -> list[Split]:
    amounts: dict[str, dict[date, int]] = {}
    for row in rows:
        amounts.setdefault(row.name, {})[row.month] = row.net_minor
    total = sum(row.net_minor for row in rows)
    splits = [
        Split(
            name,
            by_month.get(months[-1], 0),
            by_month.get(months[-2], 0),
            sum(by_month.values()),
            Decimal(sum(by_month.values())) / total if total else None,
        )
        for name, by_month in amounts.items()
    ]
    return sorted(splits, key=lambda split: (-split.total_minor, split.name))


def list_cohorts(rows: Sequence[Any]) -> list[Cohort]:
    """Cohorts, the newest first.

    rows: of the figure "cohorts" in one currency
    """
    by_month: dict[date, list[Any]] = {}
    for row in rows:
        by_month.setdefault(row.cohort, []).append(row)
    return [Cohort(month, own[0].organizations, own) for month, own in sorted(by_month.items(), reverse=True)]


def _point(month: date, amount_minor: int, currency: str) -> ChartPoint:
    return (formatting.format_month(month), Decimal(amount_minor).scaleb(-money.currency_exponent(currency)))


def _amount_format(currency: str) -> charts.ValueFormat:
    return lambda amount: formatting.format_cost(amount, currency)
