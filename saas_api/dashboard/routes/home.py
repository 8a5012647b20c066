"""Home: how an organization does, and its first steps."""

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g

from saas_api.billing import service as billing
from saas_api.billing.queries.usage import Point, usage_series
from saas_api.core import clock
from saas_api.core.access import allows, require
from saas_api.core.db import session
from saas_api.core.money import round_half_up
from saas_api.core.render import page, see_other
from saas_api.core.render.charts import Point as Column
from saas_api.core.render.charts import bars
from saas_api.core.render.filters import NOTHING
from saas_api.core.settings import setting
from saas_api.dashboard.queries import home as queries
from saas_api.dashboard.queries.prices import NAMES
from saas_api.dashboard.routes.site.frame import frame
from saas_api.organizations import service as organizations
from saas_api.usage.queries import requests
from saas_api.usage.rules import Days, success_rate

bp = Blueprint("home", __name__)
DAYS = 30
_SETTLED = 286


@bp.get("")
@require("organization:read")
def index() -> Any:
    """Show how the organization does."""
    principal, zone = g.principal, frame().organization.timezone
    now = clock.now()
    days = _last_days(2 * DAYS, now, zone)
    series = usage_series(session(), principal.organization_id, days, _asked(principal.mode))
    refused = requests.refused(session(), principal.organization_id, days, principal.mode)
    keys = queries.keys(session(), principal.organization_id, principal.mode)
    return page(
        "dashboard/home.html",
        steps=_steps(),
        figures=_figures(days, series, refused),
        chart=_chart(days, series, zone),
        bill=_bill() if principal.mode == "live" else None,
        keys=keys,
        failures=queries.failures(session(), principal.organization_id, principal.mode),
        unpaid=queries.unpaid(session(), principal.organization_id),
        live=queries.live(session(), principal.organization_id, principal.mode, now),
        zone=zone,
        url=setting("APP_URL"),
    )


@bp.get("/live")
@require("organization:read")
def live() -> Response:
    """Show the last hour by the minute, for a page that asks again and again."""
    found = queries.live(session(), g.principal.organization_id, g.principal.mode, clock.now())
    return page("dashboard/home_live.html", live=found, zone="UTC")


@bp.get("/first-steps")
@require("organization:read")
def first_steps() -> Response:
    """Show the first steps, for a page that waits for the first message."""
    steps = _steps()
    is_waiting = steps is not None and not all(step["is_done"] for step in steps)
    return page("dashboard/home_steps.html", status=200 if is_waiting else _SETTLED, steps=steps, zone="UTC")


@bp.post("/first-steps")
@require("organization:read")
def put_away() -> Any:
    """Put the first steps away."""
    organizations.put_onboarding_away(session(), g.principal)
    return see_other("dashboard.home.index")


def _steps() -> list[dict[str, Any]] | None:
    found = queries.steps(session(), g.principal.organization_id, g.principal.id)
    if found.is_dismissed or g.principal.is_looking:
        return None
    first = found.first_message_at
    steps = [
        ("Verify your e-mail address", "/dashboard/account", g.principal.email_verified, None),
        ("Create an API key", "/dashboard/api-keys/new", found.has_key, "keys:create"),
        ("Send your first message", "/dashboard/messages/new", first is not None, "messages:test"),
        ("Add a webhook endpoint", "/dashboard/webhooks/new", found.has_endpoint, "webhooks:write"),
        ("Invite somebody", "/dashboard/team", found.has_invited, "members:write"),
        ("Choose a spend cap", "/dashboard/billing/spending", found.has_cap, "spend-cap:write"),
    ]
    allowed = [step for step in steps if step[3] is None or allows(g.principal, step[3])]
    if all(step[2] for step in allowed):
        return None
    return [{"text": text, "href": href, "is_done": is_done, "note": ""} for text, href, is_done, _ in allowed]


def _figures(days: Days, series: Mapping[Any, list[Point]], refused: Any) -> dict[str, Any]:
    border = days.last - timedelta(days=DAYS)
    before, accepted = (_requests(series, part) for part in (_before, _recent))
    failed = sum(row.requests for row in refused if row.day > border and row.outcome == "failed")
    limited = sum(row.requests for row in refused if row.day > border and row.outcome == "rate_limited")
    older = before + sum(row.requests for row in refused if row.day <= border)
    return {
        "requests": accepted + failed + limited,
        "before": older,
        "success_rate": f"{success_rate(accepted, failed):.1f} %" if accepted or failed else NOTHING,
        "limited": limited,
    }


def _requests(series: Mapping[Any, list[Point]], part: Callable[[list[Point]], list[Point]]) -> int:
    return sum(point.requests for points in series.values() for point in part(points))


def _before(points: list[Point]) -> list[Point]:
    return points[:DAYS]


def _recent(points: list[Point]) -> list[Point]:
    return points[DAYS:]


def _chart(days: Days, series: Mapping[Any, list[Point]], zone: str) -> Any:
    meters = sorted((str(meter) for meter in series), reverse=True)[:4] or ["sms"]
    shown = [day for day in days if day > days.last - timedelta(days=DAYS)]
    points: list[Column] = []
    for n, day in enumerate(shown):
        values = [series[meter][DAYS + n].requests if meter in series else 0 for meter in meters]
        points.append((_label(day), *values))
    names = [NAMES.get(meter, meter) for meter in meters]
    before = _requests(series, _before)
    return bars("messages", f"Accepted calls per day ({zone})", points, series=names, previous=before)


def _label(day: date) -> str:
    return f"{day.day} {day:%b}"


def _bill() -> dict[str, Any]:
    cap = billing.cap_state(session(), g.principal.organization_id)
    return {"cap": cap, "spent_minor": round_half_up(cap.spent.total)}


def _asked(mode: str) -> dict[str, Any]:
    return {"interval": "day", "mode": mode, "meter": None, "group_by": "meter"}


def _last_days(count: int, now: datetime, zone: str) -> Days:
    found = clock.zone(zone)
    today = now.astimezone(found).date()
    return Days(today - timedelta(days=count - 1), today, found)
