"""The home page: onboarding, figures, keys, failures, unpaid invoices and the live chart."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import members
from saas_api.billing import current_period, usage_costs
from saas_api.billing.current_period import CurrentPeriod
from saas_api.billing.usage_costs import UsagePoint
from saas_api.core import access, clock, formatting, time_zones
from saas_api.core.access import KeyMode, require_permission
from saas_api.core.db import engine
from saas_api.core.settings import setting
from saas_api.core.web import charts, pages
from saas_api.core.web.charts import Chart, ChartPoint
from saas_api.core.web.pages import HTMX_STOP_POLLING
from saas_api.dashboard import context, navigation, requests
from saas_api.messages import messages
from saas_api.usage import meters, request_counts
from saas_api.usage.ranges import DateRange
from saas_api.usage.request_counts import RequestStatistics

bp = Blueprint("home", __name__)

MAX_ROWS = 5
LIVE_MINUTES = 60
STATISTICS_HOURS = 24

_STEPS = text("""
SELECT EXISTS (SELECT FROM api_keys k WHERE k.organization_id = :org) AS has_key,
  EXISTS (SELECT FROM messages m WHERE m.organization_id = :org) AS has_message,
  EXISTS (SELECT FROM usage_event_keys u WHERE u.organization_id = :org) AS has_usage,
  EXISTS (SELECT FROM webhook_endpoints w WHERE w.organization_id = :org AND w.deleted_at IS NULL) AS has_endpoint,
  (SELECT count(*) FROM memberships t WHERE t.organization_id = :org) > 1
    OR EXISTS (SELECT FROM invitations i WHERE i.organization_id = :org) AS has_invited,
  NOT coalesce((SELECT b.spend_cap_is_default FROM billing_profiles b WHERE b.organization_id = :org), true) AS has_cap,
  (SELECT t.onboarding_dismissed_at FROM memberships t WHERE t.organization_id = :org AND t.user_id = :user)
    IS NOT NULL AS is_dismissed
""")
_KEYS = text("""
SELECT k.id, k.name, k.mode, s.hint || '…' || s.last_four AS masked, k.last_used_at,
  k.revoked_at IS NOT NULL AS is_revoked, count(*) OVER () AS total,
  count(*) FILTER (WHERE k.revoked_at IS NULL) OVER () AS active
  FROM api_keys k LEFT JOIN LATERAL (SELECT hint, last_four FROM api_key_secrets
     WHERE organization_id = k.organization_id AND key_id = k.id ORDER BY created_at DESC LIMIT 1) s ON true
 WHERE k.organization_id = :org AND k.mode = :mode
 ORDER BY k.revoked_at IS NOT NULL, k.last_used_at DESC NULLS LAST, k.id DESC LIMIT :limit
""")
_DELIVERY = text("""
WITH latest AS (SELECT id, accepted_at, recipient, channel, error_code, status, mode FROM messages
  WHERE organization_id = :org ORDER BY accepted_at DESC, id DESC LIMIT 500),
own AS MATERIALIZED (SELECT * FROM latest WHERE mode = :mode),
failed AS (SELECT id, accepted_at, recipient, channel, error_code FROM own
  WHERE status = 'failed' ORDER BY accepted_at DESC, id DESC LIMIT :limit)
SELECT counts.*, failed.* FROM (SELECT count(*), count(*) FILTER (WHERE status IN ('sent', 'delivered')),
    count(*) FILTER (WHERE status = 'failed') FROM own) counts (messages, delivered, failed)
  LEFT JOIN failed ON true ORDER BY failed.accepted_at DESC, failed.id DESC
""")
_UNPAID = text("""
SELECT i.id, i.number, i.due_minor, i.currency, i.due_at, coalesce(p.timezone, 'UTC') FROM invoices i
  LEFT JOIN billing_periods p ON p.organization_id = i.organization_id AND p.id = i.billing_period_id
 WHERE i.organization_id = :org AND i.state = 'open' ORDER BY i.due_at LIMIT :limit
""")
_LIVE = text("""
SELECT minute, coalesce(m.messages, 0) FROM generate_series(date_trunc('minute', CAST(:since AS timestamptz)),
    date_trunc('minute', CAST(:now AS timestamptz)), interval '1 minute') minute
  LEFT JOIN (SELECT date_trunc('minute', accepted_at) AS minute, count(*) AS messages FROM messages
    WHERE organization_id = :org AND mode = :mode AND accepted_at >= :since AND accepted_at < :until GROUP BY 1) m
    USING (minute)
 ORDER BY 1
""")


DAYS = 30


@dataclass(frozen=True)
class OnboardingSteps:
    """Which onboarding steps an organization has done."""

    has_key: bool
    has_message: bool
    has_usage: bool
    has_endpoint: bool
    has_invited: bool
    has_cap: bool
    is_dismissed: bool


@dataclass(frozen=True)
class RecentKey:
    """A key with its last use.

    total, active: numbers of keys of the mode
    """

    id: UUID
    name: str
    mode: str
    masked: str | None
    last_used_at: datetime | None
    is_revoked: bool
    total: int
    active: int


@dataclass(frozen=True)
class FailedMessage:
    """A message that was not delivered."""

    id: UUID
    accepted_at: datetime
    recipient: str
    channel: str
    error_code: str | None


@dataclass(frozen=True)
class DeliveryRate:
    """How many of the newest messages were sent or delivered, and how many failed.

    messages: the newest ones, those without a result included
    failures: the newest failed ones
    """

    messages: int
    delivered: int
    failed: int
    failures: Sequence[FailedMessage]

    @property
    def share(self) -> Decimal | None:
        """The fraction that did not fail; None without a result."""
        finished = self.delivered + self.failed
        return Decimal(self.delivered) / finished if finished else None


@dataclass(frozen=True)
class UnpaidInvoice:
    """An open invoice; the amount in minor units."""

    id: UUID
    number: str
    due_minor: int
    currency: str
    due_at: datetime
    timezone: str


def get_onboarding_steps(session: Session, organization_id: UUID, user_id: UUID) -> OnboardingSteps:
    """Returns the onboarding steps and whether this member dismissed them."""
    steps = OnboardingSteps(*session.execute(_STEPS, {"org": organization_id, "user": user_id}).one())
    if steps.has_message:
        return steps
    return replace(steps, has_message=messages.has_messages(session, organization_id))


def list_recent_keys(session: Session, organization_id: UUID, mode: str) -> Sequence[RecentKey]:
    """Returns the keys with the newest last use, revoked ones last."""
    values = {"org": organization_id, "mode": mode, "limit": MAX_ROWS}
    return [RecentKey(*row) for row in session.execute(_KEYS, values)]


def get_delivery_rate(session: Session, organization_id: UUID, mode: str) -> DeliveryRate:
    """Returns the results of the last five hundred messages."""
    rows = session.execute(_DELIVERY, {"org": organization_id, "mode": mode, "limit": MAX_ROWS}).all()
    failures = [FailedMessage(*row[3:]) for row in rows if row.id is not None]
    return DeliveryRate(rows[0].messages, rows[0].delivered, rows[0].failed, failures)


def list_unpaid_invoices(session: Session, organization_id: UUID) -> Sequence[UnpaidInvoice]:
    """Returns open invoices, the first due first."""
    return [UnpaidInvoice(*row) for row in session.execute(_UNPAID, {"org": organization_id, "limit": MAX_ROWS})]


def messages_per_minute(
    session: Session, organization_id: UUID, mode: str, now: datetime
) -> Sequence[tuple[datetime, int]]:
    """Returns the accepted messages of the last hour by minute, including minutes without any."""
    since, until = now - timedelta(minutes=LIVE_MINUTES - 1), now + timedelta(minutes=1)
    values = {"org": organization_id, "mode": mode, "now": now, "since": since, "until": until}
    return [(minute, int(count)) for minute, count in session.execute(_LIVE, values)]


@dataclass(frozen=True)
class Figures:
    """The figures at the top of the page.

    days, series: of accepted calls by day and meter, twice DAYS days
    accepted, before: accepted calls of the last DAYS days and of those before
    statistics: of the calls of the last 24 hours; since: when these begin
    running: None in test mode
    """

    days: DateRange
    series: Mapping[Any, list[UsagePoint]]
    accepted: int
    before: int
    delivery: DeliveryRate
    statistics: RequestStatistics
    since: datetime
    running: CurrentPeriod | None
    keys: Sequence[RecentKey]

    @property
    def has_messages(self) -> bool:
        """Whether the organization sends messages; without any call they are an example."""
        return self.delivery.messages > 0 or not self.series


def _read_figures(zone: str) -> Figures:
    session, now = engine.session(), clock.now()
    organization_id, mode = context.current_organization_id(), g.principal.mode
    days = _last_days(2 * DAYS, now, zone)
    series = usage_costs.usage_series(session, organization_id, days, _range(mode))
    before, accepted = (_requests(series, part) for part in (_previous_period, _recent))
    since = now.replace(second=0, microsecond=0) - timedelta(hours=STATISTICS_HOURS)
    statistics = request_counts.call_statistics(session, organization_id, mode, [since], now + timedelta(minutes=1))
    is_live = mode == KeyMode.LIVE
    return Figures(
        days,
        series,
        accepted,
        before,
        get_delivery_rate(session, organization_id, mode),
        statistics[0],
        since,
        current_period.get_current_period(session, context.current_account(), now) if is_live else None,
        list_recent_keys(session, organization_id, mode),
    )


def _figures_context(zone: str) -> dict[str, Any]:
    figures = _read_figures(zone)
    log_url = functools.partial(requests.log_url, since=figures.since.isoformat(), mode=g.principal.mode)
    return {"figures": figures, "log_url": log_url}


@bp.get("")
@require_permission("organization:read")
def index() -> Any:
    """Show the home page."""
    principal, zone, now = g.principal, navigation.get_layout().organization.timezone, clock.now()
    shown = _figures_context(zone)
    figures: Figures = shown["figures"]
    is_live = principal.mode == KeyMode.LIVE
    return pages.render_page(
        "dashboard/home.html",
        steps=_steps(),
        chart=_chart(figures, zone),
        unpaid=list_unpaid_invoices(engine.session(), principal.organization_id) if is_live else (),
        live=messages_per_minute(engine.session(), principal.organization_id, principal.mode, now),
        zone=zone,
        url=setting("APP_URL"),
        **shown,
    )


@bp.get("/figures")
@require_permission("organization:read")
def live_figures() -> Response:
    """Show the figures; the home page polls this fragment."""
    return pages.render_page("dashboard/home_figures.html", **_figures_context(context.current_zone()))


@bp.get("/live")
@require_permission("organization:read")
def live_chart() -> Response:
    """Show the last hour by minute; the home page polls this fragment."""
    minutes = messages_per_minute(engine.session(), g.principal.organization_id, g.principal.mode, clock.now())
    return pages.render_page("dashboard/home_live.html", live=minutes)


@bp.get("/first-steps")
@require_permission("organization:read")
def onboarding() -> Response:
    """Show the onboarding steps; the home page polls this fragment until all are done."""
    steps = _steps()
    is_waiting = steps is not None and not all(step["is_done"] for step in steps)
    return pages.render_page(
        "dashboard/home_onboarding.html", status=200 if is_waiting else HTMX_STOP_POLLING, steps=steps
    )


@bp.post("/first-steps")
@require_permission("organization:read")
def dismiss_onboarding() -> Any:
    """Dismiss the onboarding steps for this member."""
    members.dismiss_onboarding(engine.session(), g.principal)
    return pages.redirect_to("dashboard.home.index")


def _steps() -> list[dict[str, Any]] | None:
    progress = get_onboarding_steps(engine.session(), g.principal.organization_id, g.principal.id)
    if progress.is_dismissed or g.principal.is_impersonating:
        return None
    steps = [
        ("Verify your email address", "/dashboard/account", g.principal.email_verified, None),
        ("Create an API key", "/dashboard/api-keys/new", progress.has_key, "keys:create"),
        ("Send your first message", "/dashboard/messages/new", progress.has_message, "messages:test"),
        ("Add a webhook endpoint", "/dashboard/webhooks/new", progress.has_endpoint, "webhooks:write"),
        ("Invite a member", "/dashboard/team", progress.has_invited, "members:write"),
        ("Set a spend cap", "/dashboard/billing/spending", progress.has_cap, "spend-cap:write"),
    ]
    if progress.has_usage and not progress.has_message:  # it calls other services only
        steps = [step for step in steps if step[3] != "messages:test"]
    allowed = [step for step in steps if step[3] is None or access.has_permission(g.principal, step[3])]
    if all(step[2] for step in allowed):
        return None
    return [{"text": label, "href": href, "is_done": is_done, "note": ""} for label, href, is_done, _ in allowed]


def _requests(series: Mapping[Any, list[UsagePoint]], part: Callable[[list[UsagePoint]], list[UsagePoint]]) -> int:
    return sum(point.requests for points in series.values() for point in part(points))


def _previous_period(points: list[UsagePoint]) -> list[UsagePoint]:
    return points[:DAYS]


def _recent(points: list[UsagePoint]) -> list[UsagePoint]:
    return points[DAYS:]


def _chart(figures: Figures, zone: str) -> Chart:
    days, series = figures.days, figures.series
    by_code = meters.all_meters(engine.session())
    columns = {str(code): [point.requests for point in _recent(points)] for code, points in series.items()}
    names, values = charts.meter_series(columns, {code: meter.name for code, meter in by_code.items()}, DAYS)
    recent_days = [day for day in days if day > days.last - timedelta(days=DAYS)]
    points: list[ChartPoint] = list(zip(map(formatting.format_day, recent_days), *values, strict=True))
    title = f"Accepted calls per day ({zone})"
    chart = charts.bar_chart("messages", title, points, series=names, previous=figures.before)
    return charts.with_links(chart, lambda first, last: _bar_url(recent_days[first], recent_days[last]))


def _bar_url(first: date, last: date) -> str:
    return requests.log_url(start_date=first, end_date=last, mode=g.principal.mode)


def _range(mode: str) -> dict[str, Any]:
    return {"interval": "day", "mode": mode, "meter": None, "group_by": "meter"}


def _last_days(count: int, now: datetime, zone: str) -> DateRange:
    time_zone = time_zones.get_zone(zone)
    today = now.astimezone(time_zone).date()
    return DateRange(today - timedelta(days=count - 1), today, time_zone)
