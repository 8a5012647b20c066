"""`GET /billing/usage` and `GET /usage`: what was used in a range of local days, and what it costs."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.billing import service as billing
from saas_api.billing.queries.usage import Report, Tally, amount_text, usage_report
from saas_api.billing.schemas.usage import UsageOut, UsageQuery
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import endpoint
from saas_api.core.money import minor_to_text, unit_price_text
from saas_api.organizations import service as organizations
from saas_api.usage.rules import BadRange, Days, read_days

bp = Blueprint("usage", __name__)


@bp.get("/usage")
@bp.get("/billing/usage")
@require("usage:read")
@endpoint(query=UsageQuery(), returns=UsageOut(), errors=(Invalid,))
def show_usage(query: Mapping[str, Any]) -> dict[str, Any]:
    """Show what was used, by meter, endpoint, key and day."""
    organization_id = g.principal.organization_id
    billing.ensure_account(session(), organization_id)
    days = _days(organization_id, query)
    mode = query["mode"] or g.principal.mode
    return answer(usage_report(session(), organization_id, days, mode), mode)


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
