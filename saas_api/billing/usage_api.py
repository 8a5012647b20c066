"""Usage, time series, spend cap, alerts."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, g

from saas_api.accounts import audit, organizations
from saas_api.billing import alerts, periods, plans, spend_cap, usage_costs
from saas_api.billing.rating.thresholds import AlertRuleInput
from saas_api.billing.spend_cap import SpendCapState
from saas_api.billing.usage_costs import CallTotals, UsagePoint, UsageReport
from saas_api.billing.usage_schemas import (
    AlertsIn,
    AlertsOut,
    SpendCapIn,
    SpendCapOut,
    TimeseriesOut,
    TimeseriesQuery,
    UsageOut,
    UsageQuery,
)
from saas_api.core import clock, ids, money
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.web import endpoint as web_endpoint
from saas_api.core.web import pages
from saas_api.core.web.endpoint import endpoint
from saas_api.usage import ranges
from saas_api.usage.ranges import DateRange, InvalidDateRange

bp = Blueprint("billing_usage", __name__)


@bp.put("/billing/spend-cap")
@require_permission("spend-cap:write")
@endpoint(
    operation_id="set_spend_cap", tag="billing", body=SpendCapIn(), returns=SpendCapOut(), errors=(ValidationFailed,)
)
def set_spend_cap(body: dict[str, Any]) -> dict[str, Any]:
    """Cap what a period may cost, base included, from the next request on; null removes the cap."""
    organization_id, actor = g.principal.organization_id, audit.actor_for(g.principal)
    return _spend_cap_body(
        spend_cap.set_spend_cap(engine.session(), organization_id, body["amount"], body["action"], actor)
    )


@bp.get("/billing/alerts")
@require_permission("billing:read")
@endpoint(operation_id="list_alerts", tag="billing", returns=AlertsOut())
def list_alerts() -> dict[str, Any]:
    """List the alerts with what they raised in the running period, and the spend cap."""
    return _alerts_body()


@bp.put("/billing/alerts")
@require_permission("spend-cap:write")
@endpoint(operation_id="set_alerts", tag="billing", body=AlertsIn(), returns=AlertsOut(), errors=(ValidationFailed,))
def set_alerts(body: dict[str, Any]) -> dict[str, Any]:
    """Replace all alerts; each is raised at most once a period."""
    rules = [AlertRuleInput(row["subject"], row["meter"], row["threshold"], row["enabled"]) for row in body["alerts"]]
    alerts.replace_alert_rules(engine.session(), g.principal.organization_id, rules, audit.actor_for(g.principal))
    return _alerts_body()


def _alerts_body() -> dict[str, Any]:
    organization_id = g.principal.organization_id
    state = spend_cap.get_cap_state(engine.session(), organization_id)
    return {
        "alerts": [
            {
                "id": row.id,
                "subject": row.subject,
                "meter": row.meter_code,
                "threshold": money.format_unit_price(row.threshold),
                "enabled": row.enabled,
                "fired_at": row.fired_at,
            }
            for row in alerts.list_alert_rules(engine.session(), organization_id, state.period_id)
        ],
        "spend_cap": _spend_cap_body(state),
    }


def _spend_cap_body(state: SpendCapState) -> dict[str, Any]:
    return {
        "amount": None if state.amount_minor is None else money.format_minor(state.amount_minor, state.currency),
        "action": state.action,
        "is_default": state.is_default,
        "base": money.format_minor(state.spent.base_minor, state.currency),
        "used": money.format_exact_amount(state.spent.total.scaleb(-money.currency_exponent(state.currency))),
        "currency": state.currency,
    }


USAGE_CSV_COLUMNS = (
    "date",
    "method",
    "endpoint",
    "api_key_id",
    "api_key_name",
    "meter",
    "quantity",
    "unit",
    "outcome",
    "requests",
    "cost",
    "currency",
)


@bp.get("/usage")
@require_permission("usage:read")
@endpoint(
    operation_id="get_usage",
    tag="billing",
    query=UsageQuery(),
    returns=UsageOut(),
    errors=(ValidationFailed,),
    produces="text/csv",
)
def show_usage(query: Mapping[str, Any]) -> dict[str, Any] | Response:
    """Show what was used, by meter, endpoint, key and day; `format=csv` for the table behind it."""
    organization_id = g.principal.organization_id
    periods.ensure_account(engine.session(), organization_id)
    days = _days(organization_id, query)
    mode = query["mode"] or g.principal.mode
    if query["format"] == "csv":
        return _table(organization_id, days, mode)
    return usage_body(usage_costs.usage_report(engine.session(), organization_id, days, mode), mode)


def _table(organization_id: UUID, days: DateRange, mode: str) -> Response:
    names, units = usage_costs.get_key_names(engine.session(), organization_id), plans.meter_units(engine.session())
    currency = usage_costs.report_currency(engine.session(), organization_id)
    rows = [
        (
            *(str(day), method, route, key and ids.format_id("key", key), names.get(key), meter),
            *(quantity and Decimal(money.format_unit_price(quantity)), units.get(meter), outcome, calls),
            *((None, None) if cost is None else (Decimal(money.format_exact_amount(cost)), currency)),
        )
        for day, method, route, key, meter, quantity, outcome, calls, cost in usage_costs.usage_rows(
            engine.session(), organization_id, days, mode
        )
    ]
    return pages.csv_response(f"usage-{days.first}-{days.last}-{mode}.csv", USAGE_CSV_COLUMNS, rows)


def _days(organization_id: UUID, query: Mapping[str, Any]) -> DateRange:
    zone = clock.get_zone(organizations.get(engine.session(), organization_id).timezone)
    today = clock.now().astimezone(zone).date()
    try:
        return ranges.parse_date_range(query["start_date"], query["end_date"], today, zone)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause


def usage_body(report: UsageReport, mode: str) -> dict[str, Any]:
    """The wire's shape of a report."""
    total = report.total
    return {
        "mode": mode,
        "summary": {
            "total_requests": total.requests,
            "successful_requests": total.success_count,
            "failed_requests": total.failed_count,
            "rate_limited_requests": total.limited_count,
            "success_rate": total.success_rate,
            "total_cost": money.format_minor(report.total_cost_minor, report.currency),
            "list_cost": total.cost_text,
            "currency": report.currency,
            "period": {
                "start_date": report.days.first,
                "end_date": report.days.last,
                "timezone": report.days.zone.key,
            },
        },
        "by_meter": [
            {
                "meter": use.meter,
                "unit": use.unit,
                "quantity": money.format_unit_price(use.quantity),
                "included": money.format_unit_price(use.included),
                "overage": money.format_unit_price(use.overage),
                "cost": money.format_exact_amount(use.cost),
            }
            for use in report.by_meter
        ],
        "by_endpoint": [
            {"method": method, "endpoint": route, **_counts(tally)}
            for (method, route), tally in sorted(report.by_endpoint.items())
        ],
        "by_api_key": [
            {"api_key_id": key_id, "name": report.key_names.get(key_id) if key_id else None, **_counts(tally)}
            for key_id, tally in sorted(report.by_api_key.items(), key=lambda item: str(item[0]))
        ],
        "daily_breakdown": [{"date": day, **_counts(tally)} for day, tally in report.by_day.items()],
    }


def _counts(tally: CallTotals) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "success_count": tally.success_count,
        "error_count": tally.error_count,
        "cost": tally.cost_text,
    }


bp.get("/billing/usage", endpoint="show_billing_usage")(web_endpoint.alias(show_usage, "get_billing_usage"))


@bp.get("/usage/timeseries")
@require_permission("usage:read")
@endpoint(
    operation_id="get_usage_timeseries",
    tag="billing",
    query=TimeseriesQuery(),
    returns=TimeseriesOut(),
    errors=(ValidationFailed,),
)
def show_timeseries(query: dict[str, Any]) -> dict[str, Any]:
    """Show accepted calls and their cost over time, by hour or day, empty ones included."""
    organization_id = g.principal.organization_id
    periods.ensure_account(engine.session(), organization_id)
    days = _days(organization_id, query)
    asked = {**query, "mode": query["mode"] or g.principal.mode}
    if query["meter"] and query["meter"] not in plans.meter_units(engine.session()):
        raise ValidationFailed.at_field("meter", "There is no such meter.")
    try:
        found = usage_costs.usage_series(engine.session(), organization_id, days, asked)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause
    return {**asked, **_series(found, organization_id, days, asked), **_range(organization_id, days)}


def _series(
    found: Mapping[Any, list[UsagePoint]], organization_id: UUID, days: DateRange, query: Mapping[str, Any]
) -> dict[str, Any]:
    group_by, zone = query["group_by"], days.zone
    names = usage_costs.get_key_names(engine.session(), organization_id) if group_by == "key" else {}
    has_one_meter = query["meter"] is not None
    return {
        "points": [
            _point(point, zone, is_countable=has_one_meter)
            for point in usage_costs.sum_series(found, days, query["interval"])
        ],
        "series": [
            {
                "group": ids.format_id("key", group) if isinstance(group, UUID) else group,
                "name": names.get(group) if isinstance(group, UUID) else group,
                "points": [_point(p, zone, is_countable=has_one_meter or group_by == "meter") for p in points],
            }
            for group, points in sorted(found.items(), key=lambda item: str(item[0]))
        ]
        if group_by
        else [],
    }


def _point(point: UsagePoint, zone: ZoneInfo, *, is_countable: bool) -> dict[str, Any]:
    return {
        "at": point.at,
        "date": point.at.astimezone(zone).date(),
        "requests": point.requests,
        "quantity": money.format_unit_price(point.quantity) if is_countable else None,
        "cost": money.format_exact_amount(point.cost),
    }


def _range(organization_id: UUID, days: DateRange) -> dict[str, Any]:
    return {
        "currency": usage_costs.report_currency(engine.session(), organization_id),
        "period": {"start_date": days.first, "end_date": days.last, "timezone": days.zone.key},
    }
