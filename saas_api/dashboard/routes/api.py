"""JSON of the dashboard; its figures are those of `GET /usage`, from the same report."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.billing import service as billing
from saas_api.billing.queries.usage import Report, Tally, usage_report
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import endpoint
from saas_api.core.money import minor_to_text
from saas_api.dashboard.queries import figures as queries
from saas_api.dashboard.schemas.api import GraphOut, GraphQuery, KeysOut, StatsOut
from saas_api.organizations import service as organizations
from saas_api.usage.rules import Days

bp = Blueprint("api", __name__)
DAYS = 30


@bp.get("/stats")
@require("billing:read")
@endpoint(operation_id="get_dashboard_stats", tag="dashboard", returns=StatsOut())
def stats() -> dict[str, Any]:
    """Show the figures at the head of the dashboard."""
    organization = organizations.get(session(), _organization_id())
    recent, month = _report(_last_days(DAYS)), _report(_month(), is_billed=True)
    keys = queries.keys(session(), organization.id, clock.now())
    return {
        "organization": {
            "id": organization.id,
            "name": organization.name,
            "plan": queries.plan(session(), organization.id, clock.now()),
        },
        "stats": {
            "total_requests_30d": recent.total.requests,
            "current_month_requests": month.total.requests,
            "current_month_cost": minor_to_text(month.total_cost_minor, month.currency),
            "currency": month.currency,
            "success_rate": recent.total.success_rate,
            "active_api_keys": sum(key.is_active for key in keys),
            "total_api_keys": len(keys),
        },
    }


@bp.get("/usage-graph")
@require("usage:read")
@endpoint(
    operation_id="get_dashboard_usage_graph", tag="dashboard", query=GraphQuery(), returns=GraphOut(), errors=(Invalid,)
)
def usage_graph(query: Mapping[str, Any]) -> dict[str, Any]:
    """Show calls by day, days without calls included."""
    report = _report(_last_days(query["days"]))
    days = report.days
    return {
        "period": {
            "start_date": days.first,
            "end_date": days.last,
            "timezone": days.zone.key,
            "days": query["days"],
        },
        "data": [
            {
                "date": day,
                "requests": tally.requests,
                "success_count": tally.success_count,
                "error_count": tally.error_count,
            }
            for day, tally in report.by_day.items()
        ],
    }


@bp.get("/api-keys")
@require("keys:read")
@endpoint(operation_id="list_dashboard_keys", tag="dashboard", returns=KeysOut())
def api_keys() -> dict[str, Any]:
    """Show every key with its calls of the last thirty days."""
    live, test = _report(_last_days(DAYS)), _report(_last_days(DAYS), "test")
    tallies = {"live": live.by_api_key, "test": test.by_api_key}
    rows = []
    for key in queries.keys(session(), _organization_id(), clock.now()):
        tally = tallies[key.mode].get(key.id, Tally())
        rows.append({**asdict(key), "key": key.masked, "requests_30d": tally.requests, "cost_30d": tally.cost_text})
    return {"api_keys": rows}


def _organization_id() -> UUID:
    return g.principal.organization_id


def _report(days: Days, mode: str = "live", *, is_billed: bool = False) -> Report:
    billing.ensure_account(session(), _organization_id())
    return usage_report(session(), _organization_id(), days, mode, is_billed=is_billed)


def _last_days(count: int) -> Days:
    zone = clock.zone(organizations.get(session(), _organization_id()).timezone)
    today = clock.now().astimezone(zone).date()
    return Days(today - timedelta(days=count - 1), today, zone)


def _month() -> Days:
    today = _last_days(1)
    return Days(today.first.replace(day=1), today.last, today.zone)
