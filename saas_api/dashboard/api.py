"""The JSON API of the dashboard: figures, a graph, keys with their usage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint
from marshmallow import fields
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import organizations
from saas_api.api_keys import keys
from saas_api.api_keys.models import KeyView
from saas_api.api_keys.schemas import KeyOut
from saas_api.billing import periods, usage_costs
from saas_api.billing.usage_costs import CallTotals, UsageReport
from saas_api.core import clock, money, time_zones
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import PrefixedId, QueryInteger, StrictSchema
from saas_api.core.web.endpoint import endpoint
from saas_api.core.web.pages import MAX_EXPORT_ROWS
from saas_api.dashboard import context
from saas_api.usage.ranges import DateRange

bp = Blueprint("api", __name__)


GRAPH_DAYS = 30


@dataclass(frozen=True)
class KeyWithUsage(KeyView):
    """An API key with its calls of the last thirty days."""

    requests_30d: int
    cost_30d: str


def list_keys(session: Session, organization_id: UUID) -> Sequence[KeyView]:
    """Returns all keys, newest first, including revoked ones."""
    return keys.list_keys(session, organization_id, PageRequest(MAX_EXPORT_ROWS)).items


def current_plan_code(session: Session, organization_id: UUID, at: datetime) -> str:
    """Returns the code of the plan in force at an instant."""
    return str(
        session.scalar(
            text("""SELECT v.plan_code FROM subscription_segments s JOIN plan_versions v ON v.id = s.plan_version_id
              WHERE s.organization_id = :organization_id AND s.starts_at <= :at
                AND (s.ends_at IS NULL OR s.ends_at > :at)"""),
            {"organization_id": organization_id, "at": at},
        )
    )


class GraphQuery(StrictSchema):
    """Number of days of the graph."""

    days = QueryInteger(minimum=1, maximum=366, load_default=30)


class StatsOrganizationOut(StrictSchema):
    """The organization of the dashboard."""

    id = PrefixedId("org")
    name = fields.String()
    plan = fields.String()


class StatsFiguresOut(StrictSchema):
    """Figures of the last thirty days and the current month."""

    total_requests_30d = fields.Integer()
    current_month_requests = fields.Integer()
    current_month_cost = fields.String()
    currency = fields.String()
    success_rate = fields.Float()
    active_api_keys = fields.Integer()
    total_api_keys = fields.Integer()


class StatsOut(StrictSchema):
    """GET /dashboard/stats."""

    organization = fields.Nested(StatsOrganizationOut())
    stats = fields.Nested(StatsFiguresOut())


class GraphRangeOut(StrictSchema):
    """Local days, both inclusive."""

    start_date = fields.Date()
    end_date = fields.Date()
    timezone = fields.String()
    days = fields.Integer()


class GraphPointOut(StrictSchema):
    """One day of the graph."""

    date = fields.Date()
    requests = fields.Integer()
    success_count = fields.Integer()
    error_count = fields.Integer()


class GraphOut(StrictSchema):
    """GET /dashboard/usage-graph."""

    period = fields.Nested(GraphRangeOut())
    data = fields.List(fields.Nested(GraphPointOut()))


class DashboardKeyOut(KeyOut):
    """A key with its calls of the last thirty days."""

    class Meta(KeyOut.Meta):
        """The part of the key that the dashboard shows."""

        fields = ("id", "name", "key", "mode", "is_active", "created_at", "requests_30d", "cost_30d")

    key = fields.String(attribute="masked", metadata={"description": "masked"})
    requests_30d = fields.Integer()
    cost_30d = fields.String()


class KeysUsageOut(StrictSchema):
    """GET /dashboard/api-keys."""

    api_keys = fields.List(fields.Nested(DashboardKeyOut()))


@bp.get("/stats")
@require_permission("billing:read")
@endpoint(operation_id="get_dashboard_stats", tag="dashboard", returns=StatsOut())
def stats() -> dict[str, Any]:
    """Show figures of the last thirty days and the current month."""
    organization = organizations.get_organization(engine.session(), context.current_organization_id())
    recent, month = _report(_last_days(GRAPH_DAYS)), _report(_month(), is_billed=True)
    organization_keys = list_keys(engine.session(), organization.id)
    return {
        "organization": {
            "id": organization.id,
            "name": organization.name,
            "plan": current_plan_code(engine.session(), organization.id, clock.now()),
        },
        "stats": {
            "total_requests_30d": recent.total.requests,
            "current_month_requests": month.total.requests,
            "current_month_cost": money.format_minor(month.total_cost_minor, month.currency),
            "currency": month.currency,
            "success_rate": recent.total.success_rate,
            "active_api_keys": sum(key.is_active for key in organization_keys),
            "total_api_keys": len(organization_keys),
        },
    }


@bp.get("/usage-graph")
@require_permission("usage:read")
@endpoint(
    operation_id="get_dashboard_usage_graph",
    tag="dashboard",
    query=GraphQuery(),
    returns=GraphOut(),
    errors=(ValidationFailed,),
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
@require_permission("keys:read")
@endpoint(operation_id="list_dashboard_keys", tag="dashboard", returns=KeysUsageOut())
def api_keys() -> dict[str, Any]:
    """Show every key with its calls of the last thirty days."""
    live, test = _report(_last_days(GRAPH_DAYS)), _report(_last_days(GRAPH_DAYS), "test")
    tallies = {"live": live.by_api_key, "test": test.by_api_key}
    rows = []
    for key in list_keys(engine.session(), context.current_organization_id()):
        tally = tallies[key.mode].get(key.id, CallTotals())
        cost = tally.format_cost(live.currency)
        rows.append(KeyWithUsage(**vars(key), requests_30d=tally.requests, cost_30d=cost))
    return {"api_keys": rows}


def _report(days: DateRange, mode: str = "live", *, is_billed: bool = False) -> UsageReport:
    periods.ensure_account(engine.session(), context.current_organization_id())
    return usage_costs.usage_report(
        engine.session(), context.current_organization_id(), days, mode, is_billed=is_billed
    )


def _last_days(count: int) -> DateRange:
    zone = time_zones.get_zone(
        organizations.get_organization(engine.session(), context.current_organization_id()).timezone
    )
    today = clock.now().astimezone(zone).date()
    return DateRange(today - timedelta(days=count - 1), today, zone)


def _month() -> DateRange:
    today = _last_days(1)
    return DateRange(today.first.replace(day=1), today.last, today.zone)
