"""`GET /usage` (also `/billing/usage`) and `/usage/timeseries`: what was used in a range of days, at what cost."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, g

from saas_api.billing import service as billing
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.usage import (
    Point,
    Report,
    Tally,
    key_names,
    report_currency,
    total,
    usage_report,
    usage_rows,
    usage_series,
)
from saas_api.billing.schemas.usage import TimeseriesOut, TimeseriesQuery, UsageOut, UsageQuery
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import alias, endpoint
from saas_api.core.ids import wire_id
from saas_api.core.money import amount_text, minor_to_text, unit_price_text
from saas_api.core.render import csv_response
from saas_api.organizations import service as organizations
from saas_api.usage.rules import BadRange, Days, read_days

bp = Blueprint("usage", __name__)
COLUMNS = (
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
@require("usage:read")
@endpoint(
    operation_id="get_usage",
    tag="billing",
    query=UsageQuery(),
    returns=UsageOut(),
    errors=(Invalid,),
    produces="text/csv",
)
def show_usage(query: Mapping[str, Any]) -> dict[str, Any] | Response:
    """Show what was used, by meter, endpoint, key and day; `format=csv` for the table behind it."""
    organization_id = g.principal.organization_id
    billing.ensure_account(session(), organization_id)
    days = _days(organization_id, query)
    mode = query["mode"] or g.principal.mode
    if query["format"] == "csv":
        return _table(organization_id, days, mode)
    return answer(usage_report(session(), organization_id, days, mode), mode)


bp.get("/billing/usage", endpoint="show_billing_usage")(alias(show_usage, "get_billing_usage"))


@bp.get("/usage/timeseries")
@require("usage:read")
@endpoint(
    operation_id="get_usage_timeseries",
    tag="billing",
    query=TimeseriesQuery(),
    returns=TimeseriesOut(),
    errors=(Invalid,),
)
def show_timeseries(query: dict[str, Any]) -> dict[str, Any]:
    """Show accepted calls and their cost over time, by hour or day, empty ones included."""
    organization_id = g.principal.organization_id
    billing.ensure_account(session(), organization_id)
    days = _days(organization_id, query)
    asked = {**query, "mode": query["mode"] or g.principal.mode}
    if query["meter"] and query["meter"] not in catalogue.units(session()):
        raise Invalid.at("meter", "There is no such meter.")
    try:
        found = usage_series(session(), organization_id, days, asked)
    except BadRange as cause:
        raise Invalid.at(cause.field, cause.reason) from cause
    return {**asked, **_series(found, organization_id, days, asked), **_range(organization_id, days)}


def _table(organization_id: UUID, days: Days, mode: str) -> Response:
    names, units = key_names(session(), organization_id), catalogue.units(session())
    currency = report_currency(session(), organization_id)
    rows = [
        (
            *(str(day), method, route, key and wire_id("key", key), names.get(key), meter),
            *(quantity and Decimal(unit_price_text(quantity)), units.get(meter), outcome, calls),
            *((None, None) if cost is None else (Decimal(amount_text(cost)), currency)),
        )
        for day, method, route, key, meter, quantity, outcome, calls, cost in usage_rows(
            session(), organization_id, days, mode
        )
    ]
    return csv_response(f"usage-{days.first}-{days.last}-{mode}.csv", COLUMNS, rows)


def _series(
    found: Mapping[Any, list[Point]], organization_id: UUID, days: Days, query: Mapping[str, Any]
) -> dict[str, Any]:
    group_by, zone = query["group_by"], days.zone
    names = key_names(session(), organization_id) if group_by == "key" else {}
    has_one_meter = query["meter"] is not None
    return {
        "points": [_point(point, zone, is_countable=has_one_meter) for point in total(found, days, query["interval"])],
        "series": [
            {
                "group": wire_id("key", group) if isinstance(group, UUID) else group,
                "name": names.get(group) if isinstance(group, UUID) else group,
                "points": [_point(p, zone, is_countable=has_one_meter or group_by == "meter") for p in points],
            }
            for group, points in sorted(found.items(), key=lambda item: str(item[0]))
        ]
        if group_by
        else [],
    }


def _point(point: Point, zone: ZoneInfo, *, is_countable: bool) -> dict[str, Any]:
    return {
        "at": point.at,
        "date": point.at.astimezone(zone).date(),
        "requests": point.requests,
        "quantity": unit_price_text(point.quantity) if is_countable else None,
        "cost": amount_text(point.cost),
    }


def _range(organization_id: UUID, days: Days) -> dict[str, Any]:
    return {
        "currency": report_currency(session(), organization_id),
        "period": {"start_date": days.first, "end_date": days.last, "timezone": days.zone.key},
    }


def _days(organization_id: UUID, query: Mapping[str, Any]) -> Days:
    zone = clock.zone(organizations.get(session(), organization_id).timezone)
    today = clock.now().astimezone(zone).date()
    try:
        return read_days(query["start_date"], query["end_date"], today, zone)
    except BadRange as cause:
        raise Invalid.at(cause.field, cause.reason) from cause


def answer(report: Report, mode: str) -> dict[str, Any]:
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
            "total_cost": minor_to_text(report.total_cost_minor, report.currency),
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
                "quantity": unit_price_text(use.quantity),
                "included": unit_price_text(use.included),
                "overage": unit_price_text(use.overage),
                "cost": amount_text(use.cost),
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


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "success_count": tally.success_count,
        "error_count": tally.error_count,
        "cost": tally.cost_text,
    }
