"""HTTP API of usage with its cost, the spend cap, and alerts."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.accounts import audit, organizations
from saas_api.billing import alerts, periods, spend_cap, usage_costs, usage_csv
from saas_api.billing.rating.thresholds import AlertRuleInput
from saas_api.billing.spend_cap import SpendCapState
from saas_api.billing.usage_costs import UsagePoint, UsageReport
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
from saas_api.core import clock, ids, time_zones
from saas_api.core.access import FreshLoginRequired, require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.web import endpoint as web_endpoint
from saas_api.core.web import pages
from saas_api.core.web.endpoint import endpoint
from saas_api.usage import meters, ranges
from saas_api.usage.ranges import DateRange, InvalidDateRange
from saas_api.usage.reports import DIMENSION_PREFIX

bp = Blueprint("billing_usage", __name__)


@bp.put("/billing/spend-cap")
@require_permission("spend-cap:write")
@endpoint(
    operation_id="set_spend_cap",
    tag="billing",
    body=SpendCapIn(),
    returns=SpendCapOut(),
    errors=(FreshLoginRequired, ValidationFailed),
)
def set_spend_cap(body: dict[str, Any]) -> SpendCapState:
    """Limit the cost of a period, base included, from the next request on; null removes the cap."""
    return spend_cap.set_spend_cap(engine.session(), g.principal, body["amount"], body["action"])


@bp.get("/billing/alerts")
@require_permission("billing:read")
@endpoint(operation_id="list_alerts", tag="billing", returns=AlertsOut())
def list_alerts() -> dict[str, Any]:
    """List the alerts, when they fired in the current period, and the spend cap."""
    return _alerts_and_cap()


@bp.put("/billing/alerts")
@require_permission("spend-cap:write")
@endpoint(operation_id="set_alerts", tag="billing", body=AlertsIn(), returns=AlertsOut(), errors=(ValidationFailed,))
def set_alerts(body: dict[str, Any]) -> dict[str, Any]:
    """Replace all alerts. Each fires at most once in a period."""
    rules = [AlertRuleInput(row["subject"], row["meter"], row["threshold"], row["enabled"]) for row in body["alerts"]]
    alerts.replace_alert_rules(engine.session(), g.principal.organization_id, rules, audit.actor_for(g.principal))
    return _alerts_and_cap()


def _alerts_and_cap() -> dict[str, Any]:
    organization_id = g.principal.organization_id
    state = spend_cap.get_cap_state(engine.session(), organization_id)
    return {
        "alerts": alerts.list_alert_rules(engine.session(), organization_id, state.period_id),
        "spend_cap": state,
    }


@bp.get("/usage")
@require_permission("usage:read")
@endpoint(
    operation_id="get_usage",
    tag="billing",
    reads_replica=True,
    query=UsageQuery(),
    returns=UsageOut(),
    errors=(ValidationFailed,),
    produces="text/csv",
)
def show_usage(query: Mapping[str, Any]) -> UsageReport | Response:
    """Show usage and its cost by meter, endpoint, key and day, or `format=csv` for its rows."""
    organization_id = g.principal.organization_id
    periods.ensure_account(engine.session(), organization_id)
    days = _parse_days(organization_id, query)
    mode, meter = query["mode"] or g.principal.mode, query["meter"]
    _check_meter(query)
    if query["format"] == "csv":
        rows = usage_csv.list_rows(engine.session(), organization_id, days, mode, meter)
        return pages.csv_response(f"usage-{days.first}-{days.last}-{mode}.csv", usage_csv.COLUMNS, rows)
    return usage_costs.usage_report(engine.session(), organization_id, days, mode, meter=meter)


def _check_meter(query: Mapping[str, Any]) -> None:
    by_code, group_by = meters.all_meters(engine.session()), query.get("group_by") or ""
    if query["meter"] and query["meter"] not in by_code:
        raise ValidationFailed.at_field("meter", "There is no such meter.")
    if not group_by.startswith(DIMENSION_PREFIX):
        return
    if not query["meter"]:
        raise ValidationFailed.at_field("group_by", "Choose the meter whose dimension it is.")
    dimensions = by_code[query["meter"]].dimensions
    if group_by.removeprefix(DIMENSION_PREFIX) not in dimensions:
        names = ", ".join(dimensions) or "none"
        raise ValidationFailed.at_field("group_by", f"The meter has no such dimension; it has {names}.")


def _parse_days(organization_id: UUID, query: Mapping[str, Any]) -> DateRange:
    zone = time_zones.get_zone(organizations.get_organization(engine.session(), organization_id).timezone)
    today = clock.now().astimezone(zone).date()
    try:
        return ranges.parse_date_range(query["start_date"], query["end_date"], today, zone)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause


bp.get("/billing/usage", endpoint="show_billing_usage")(web_endpoint.alias(show_usage, "get_billing_usage"))


@bp.get("/usage/timeseries")
@require_permission("usage:read")
@endpoint(
    operation_id="get_usage_timeseries",
    tag="billing",
    reads_replica=True,
    query=TimeseriesQuery(),
    returns=TimeseriesOut(),
    errors=(ValidationFailed,),
)
def show_timeseries(query: dict[str, Any]) -> dict[str, Any]:
    """Show accepted calls and their cost over time, with a point for every hour or day."""
    organization_id = g.principal.organization_id
    periods.ensure_account(engine.session(), organization_id)
    days = _parse_days(organization_id, query)
    query = {**query, "mode": query["mode"] or g.principal.mode}
    _check_meter(query)
    try:
        series = usage_costs.usage_series(engine.session(), organization_id, days, query)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause
    points = usage_costs.total_series(engine.session(), organization_id, days, query, series)
    by_code = meters.all_meters(engine.session())
    counted = [query["meter"]] if query["meter"] else map(str, series) if query["group_by"] == "meter" else []
    exact_meters = [code for code in counted if not by_code[code].aggregation.is_additive]
    return {
        **query,
        "points": points if query["meter"] else _without_quantities(points),
        "series": _series(series, organization_id, query) if query["group_by"] else [],
        "currency": usage_costs.report_currency(engine.session(), organization_id),
        "days": days,
        "archived_before": usage_costs.find_archive(
            engine.session(), organization_id, days, query["mode"], exact_meters
        ),
    }


def _series(
    series: Mapping[Any, list[UsagePoint]], organization_id: UUID, query: Mapping[str, Any]
) -> list[dict[str, Any]]:
    is_one_meter = query["meter"] is not None or query["group_by"] == "meter"
    names = usage_costs.get_key_names(engine.session(), organization_id) if query["group_by"] == "key" else {}
    return [
        {
            "group": ids.format_id("key", group) if isinstance(group, UUID) else group,
            "name": names.get(group) if isinstance(group, UUID) else group,
            "points": points if is_one_meter else _without_quantities(points),
        }
        for group, points in sorted(series.items(), key=lambda item: str(item[0]))
    ]


def _without_quantities(points: list[UsagePoint]) -> list[dict[str, Any]]:
    return [{**vars(point), "quantity": None} for point in points]
