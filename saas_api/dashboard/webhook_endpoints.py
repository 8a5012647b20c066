"""Pages of webhook endpoints: list, detail, create, update, secrets, test events, recovery."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo

import marshmallow as ma
import sqlalchemy as sa
from flask import Blueprint, Response, g, render_template
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.core import access, clock, formatting, ids, time_zones
from saas_api.core.access import KeyMode, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.fields import StrictSchema, Timestamp
from saas_api.core.web import charts, pages, templating
from saas_api.core.web.charts import Chart
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.dashboard import context, webhook_deliveries
from saas_api.dashboard.context import ConfirmationForm
from saas_api.webhooks import deliveries, endpoints, event_types, secrets, throttles
from saas_api.webhooks.event_types import TEST_EVENT_TYPE
from saas_api.webhooks.events import IS_SUBSCRIBED_CLAUSE
from saas_api.webhooks.models import Endpoint, EndpointSecret
from saas_api.webhooks.schemas import EndpointIn, RecoverIn, RotateSecretIn, TestEventIn

bp = Blueprint("webhook_endpoints", __name__)

OUTCOME_DAYS = 7
EVENT_RETENTION = timedelta(days=30)
MAX_COUNTED = 1000
_OUTCOMES = sa.text("""
SELECT (created_at AT TIME ZONE :zone)::date AS day,
       count(*) FILTER (WHERE status = 'delivered') AS delivered,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status IN ('queued', 'sending')) AS waiting,
       count(*) FILTER (WHERE status = 'canceled') AS canceled
  FROM webhook_deliveries
 WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id AND created_at >= :since
 GROUP BY 1""")
_DISABLED_AT = sa.text("""
SELECT at FROM audit_events WHERE organization_id = :organization_id AND target_type = 'webhook_endpoint'
   AND target_id = :endpoint_id AND (action = 'webhook_endpoint.disabled'
     OR action = 'webhook_endpoint.changed' AND data -> 'after' ->> 'status' = 'disabled_manual')
 ORDER BY id DESC LIMIT 1""")
_MISSED = sa.text(f"""
SELECT count(*) FROM (SELECT 1 FROM events e
 JOIN webhook_endpoints w ON w.organization_id = e.organization_id AND w.id = :endpoint_id
 WHERE e.organization_id = :organization_id AND e.created_at >= :since AND e.subject_version >= 0
   AND CASE WHEN EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                           AND d.event_id = e.id AND d.endpoint_id = w.id)
       THEN NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
                          AND d.event_id = e.id AND d.endpoint_id = w.id
                          AND d.status IN ('delivered', 'queued', 'sending'))
       ELSE {IS_SUBSCRIBED_CLAUSE} END LIMIT {MAX_COUNTED + 1}) missed""")


GRACE_PERIODS = {
    0: "immediately",
    3_600: "in 1 hour",
    86_400: "in 24 hours",
    604_800: "in 7 days",
}
"""Seconds for which the previous secret goes on signing, and their labels."""
RECOVERY_RANGES = {
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}
"""Time ranges of a recovery, by name."""
RECOVERY_KINDS = {
    "all": "All missed events",
    "failed": "Only failed or canceled deliveries",
    "missing": "Only events that were never sent",
}
RECENT_DELIVERIES = 5


@dataclass(frozen=True)
class DailyOutcomes:
    """Deliveries that were created on one local day, by outcome."""

    day: date
    delivered: int = 0
    failed: int = 0
    waiting: int = 0
    canceled: int = 0


@dataclass(frozen=True)
class DisabledPeriod:
    """Since when an endpoint is disabled, and how many events it missed.

    since: None when the audit log has no entry
    missed: at most MAX_COUNTED + 1
    missed_since: where a recovery would start
    """

    since: datetime | None
    missed: int
    missed_since: datetime


def list_daily_outcomes(session: Session, endpoint: Endpoint, zone: str) -> list[DailyOutcomes]:
    """Returns an endpoint's deliveries of the last seven local days by outcome, today last."""
    today = clock.now().astimezone(time_zones.get_zone(zone)).date()
    days = [today - timedelta(days=back) for back in reversed(range(OUTCOME_DAYS))]
    values = {
        "organization_id": endpoint.organization_id,
        "endpoint_id": endpoint.id,
        "zone": zone,
        "since": datetime.combine(days[0], datetime.min.time(), time_zones.get_zone(zone)),
    }
    outcomes = {row.day: DailyOutcomes(*row) for row in session.execute(_OUTCOMES, values)}
    return [outcomes.get(day, DailyOutcomes(day)) for day in days]


def list_active_secrets(session: Session, endpoint: Endpoint) -> Sequence[EndpointSecret]:
    """Returns the secrets that sign now, newest first."""
    is_live = sa.or_(EndpointSecret.expires_at.is_(None), EndpointSecret.expires_at > clock.now())
    of_endpoint = sa.and_(
        EndpointSecret.organization_id == endpoint.organization_id, EndpointSecret.endpoint_id == endpoint.id
    )
    return session.scalars(
        sa.select(EndpointSecret).where(of_endpoint, is_live).order_by(EndpointSecret.id.desc())
    ).all()


def get_disabled_period(session: Session, endpoint: Endpoint) -> DisabledPeriod:
    """Returns since when an endpoint is disabled, and what it missed since then or since it began to fail."""
    values = {"organization_id": endpoint.organization_id, "endpoint_id": str(endpoint.id)}
    since = session.scalar(_DISABLED_AT, values)
    missed_since = recovery_start(session, endpoint, since)
    explicit_only = event_types.explicit_only_names()
    missed_values = {**values, "endpoint_id": endpoint.id, "since": missed_since, "explicit_only": explicit_only}
    return DisabledPeriod(since, int(session.scalar(_MISSED, missed_values) or 0), missed_since)


def recovery_start(session: Session, endpoint: Endpoint, disabled_at: datetime | None = None) -> datetime:
    """Returns the instant at which a recovery starts.

    disabled_at: if the caller knows it already
    """
    values = {"organization_id": endpoint.organization_id, "endpoint_id": str(endpoint.id)}
    failing_since = (
        endpoint.first_failure_at or disabled_at or session.scalar(_DISABLED_AT, values) or endpoint.created_at
    )
    return max(failing_since, clock.now() - EVENT_RETENTION)


class LocalTimeField(Timestamp):
    """A local time as the browser's field submits it, without a zone."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> datetime:
        try:
            instant = datetime.fromisoformat(value)
        except ValueError as cause:
            raise ma.ValidationError("Enter a time like 2026-03-31T14:30.") from cause
        if instant.tzinfo is not None or not 2 <= instant.year <= 9998:
            raise ma.ValidationError("Enter a time like 2026-03-31T14:30.")
        return instant


def to_utc(local: datetime, zone: ZoneInfo) -> datetime:
    """Returns the instant of a local time; of an ambiguous hour the first."""
    return local.replace(tzinfo=zone).astimezone(UTC)


class EndpointForm(EndpointIn):
    """What the form of an endpoint changes: anything but its mode, which the session decides when it is created."""

    class Meta(EndpointIn.Meta):
        """Leave out the mode."""

        exclude = ("mode",)

    @ma.pre_load
    def expand_groups(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        """Replace groups of types, such as "invoice.*", by their types."""
        chosen = data.get("event_types") or ()
        groups = {name.removesuffix("*") for name in chosen if name.endswith(".*")}
        own = [name for name in chosen if not name.endswith(".*")]
        of_groups = [name for name in sorted(event_types.names()) if name.startswith(tuple(groups))]
        return {**data, "event_types": own + of_groups or None}


class RecoverForm(RecoverIn):
    """What to recover.

    since: a local time; it wins over the span
    """

    span = fields.String(load_default="24h", validate=validate.OneOf(list(RECOVERY_RANGES)))
    since = LocalTimeField(load_default=None)


class EnableForm(StrictSchema):
    """Whether to recover missed events."""

    recover = fields.Boolean(load_default=False)


def get_endpoint(endpoint_id: UUID) -> Endpoint:
    """Returns an endpoint of the organization; the dashboard follows its mode.

    raises: EndpointNotFound, Conflict
    """
    endpoint = endpoints.get_endpoint(engine.session(), context.current_organization_id(), endpoint_id)
    context.follow_mode(endpoint.mode)
    return endpoint


@bp.get("/webhooks")
@require_permission("webhooks:read")
def index() -> Response:
    """List the endpoints of the current mode with their health."""
    organization_id, request = context.current_organization_id(), PageRequest(limit=100)
    is_shown = access.has_permission(g.principal, "webhooks:write")
    endpoint_views = None
    if is_shown:
        page = endpoints.list_endpoints(engine.session(), organization_id, request, mode=g.principal.mode)
        endpoint_views = page.items
    return pages.render_page(
        "dashboard/webhooks/index.html",
        endpoints=endpoint_views,
        mode=g.principal.mode,
        zone=context.current_zone(),
    )


@bp.get('/webhooks/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
def show(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show an endpoint with its health and latest deliveries."""
    endpoint, zone = get_endpoint(endpoint_id), context.current_zone()
    (view,) = endpoints.list_endpoint_views(engine.session(), context.current_organization_id(), [endpoint])
    filters = webhook_deliveries.DeliveryFilter(endpoint.mode, endpoint_id)
    return pages.render_page(
        "dashboard/webhooks/show.html",
        view=view,
        endpoint=endpoint,
        zone=zone,
        form=form or Form({"event_type": TEST_EVENT_TYPE, "recover": True}),
        types=[(name, name) for name in sorted(event_types.names())] if endpoint.mode == KeyMode.TEST else [],
        chart=_chart(list_daily_outcomes(engine.session(), endpoint, zone), zone),
        secrets=list_active_secrets(engine.session(), endpoint),
        deliveries=webhook_deliveries.list_all_deliveries(
            engine.session(), context.current_organization_id(), filters, PageRequest(RECENT_DELIVERIES)
        ).items,
        pause=None if view.is_enabled else get_disabled_period(engine.session(), endpoint),
    )


@bp.get('/webhooks/<id("whe"):endpoint_id>/edit')
@require_permission("webhooks:write")
def update_form(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the form that changes an endpoint."""
    endpoint = get_endpoint(endpoint_id)
    form = form or Form(EndpointForm().dump(endpoint))
    return pages.render_page("dashboard/webhooks/update.html", endpoint=endpoint, form=form, types=_grouped_types())


@bp.post('/webhooks/<id("whe"):endpoint_id>/edit')
@require_permission("webhooks:write")
@form_view(EndpointForm(), form=update_form)
def update(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Change an endpoint."""
    endpoints.update_endpoint(engine.session(), g.principal, endpoint_id, body)
    return pages.redirect_to("dashboard.webhook_endpoints.show", endpoint_id=endpoint_id)


@bp.post('/webhooks/<id("whe"):endpoint_id>/disable')
@require_permission("webhooks:write")
@form_view(EmptyForm(), form=show)
def disable(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Disable an endpoint; pending deliveries are canceled."""
    endpoints.update_endpoint(engine.session(), g.principal, endpoint_id, {**body, "is_enabled": False})
    notice = "Endpoint disabled. Pending deliveries were canceled."
    return pages.redirect_to("dashboard.webhook_endpoints.show", endpoint_id=endpoint_id, _notice=notice)


@bp.post('/webhooks/<id("whe"):endpoint_id>/enable')
@require_permission("webhooks:write")
@form_view(EnableForm(), form=show, is_idempotent=True)
def enable(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Enable an endpoint, and recover missed events if requested."""
    since = recovery_start(engine.session(), get_endpoint(endpoint_id))
    endpoints.update_endpoint(engine.session(), g.principal, endpoint_id, {"is_enabled": True})
    notice = "Endpoint enabled."
    if body["recover"]:
        count = deliveries.recover_endpoint(
            engine.session(), g.principal, context.current_organization_id(), endpoint_id, since
        )
        notice = f"Endpoint enabled. Replaying {templating.pluralize(count, 'missed event')}."
    return pages.redirect_to("dashboard.webhook_endpoints.show", endpoint_id=endpoint_id, _notice=notice)


@bp.post('/webhooks/<id("whe"):endpoint_id>/test')
@require_permission("webhooks:write")
@throttles.limit_test_events
@form_view(TestEventIn(), form=show, is_idempotent=True)
def send_test_event(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an example event and show its delivery."""
    delivery = deliveries.send_test_event(engine.session(), g.principal, endpoint_id, body["event_type"])
    return pages.redirect_to("dashboard.webhook_deliveries.show", delivery_id=delivery.id, _notice="Test event sent.")


@bp.get('/webhooks/<id("whe"):endpoint_id>/recover')
@require_permission("webhooks:write")
def recover_form(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the recovery form."""
    return pages.render_page(
        "dashboard/webhooks/recover.html",
        endpoint=get_endpoint(endpoint_id),
        zone=context.current_zone(),
        form=form or Form({"span": "24h", "only": "all"}),
        spans=[(name, text) for name, (text, _) in RECOVERY_RANGES.items()],
        kinds=list(RECOVERY_KINDS.items()),
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/recover')
@require_permission("webhooks:write")
@form_view(RecoverForm(), form=recover_form, is_idempotent=True)
def recover(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Recover missed events."""
    span, local = body.pop("span"), body.pop("since")
    since = (
        to_utc(local, time_zones.get_zone(context.current_zone())) if local else clock.now() - RECOVERY_RANGES[span][1]
    )
    count = deliveries.recover_endpoint(
        engine.session(), g.principal, context.current_organization_id(), endpoint_id, since, **body
    )
    events = templating.pluralize(count, "missed event")
    notice = f"Replaying {events}." if count else "No missed events in this time range."
    return pages.redirect_to(
        "dashboard.webhook_deliveries.index", endpoint_id=ids.format_id("whe", endpoint_id), _notice=notice
    )


@bp.get('/webhooks/<id("whe"):endpoint_id>/delete')
@require_permission("webhooks:write")
def delete_form(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the form that deletes an endpoint."""
    endpoint = get_endpoint(endpoint_id)
    (view,) = endpoints.list_endpoint_views(engine.session(), context.current_organization_id(), [endpoint])
    return pages.render_page(
        "dashboard/webhooks/delete.html", endpoint=endpoint, view=view, host=_host(endpoint), form=form or Form()
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/delete')
@require_permission("webhooks:write")
@form_view(ConfirmationForm(), form=delete_form)
def delete(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Delete an endpoint."""
    context.check_confirmation(body["typed"], _host(get_endpoint(endpoint_id)))
    endpoints.delete(engine.session(), g.principal, endpoint_id)
    return pages.redirect_to("dashboard.webhook_endpoints.index", _notice="Endpoint deleted.")


def _grouped_types() -> list[tuple[str, list[tuple[str, ...]]]]:
    """The choices of event types by object, each group beginning with all its types."""
    groups: list[tuple[str, list[tuple[str, ...]]]] = []
    for name, of_object in groupby(event_types.list_types(), key=lambda entry: entry.name.partition(".")[0]):
        types = [(entry.name, entry.name, entry.description.replace("`", "")) for entry in of_object]
        title = name.replace("_", " ").capitalize().replace("Api", "API")
        every = [(f"{name}.*", f"All of these ({len(types)})")] if len(types) > 1 else []
        groups.append((title, [*every, *types]))
    return groups


def _host(endpoint: Endpoint) -> str:
    """The host of an endpoint, which the user types to confirm."""
    return urlsplit(endpoint.url).netloc


def _chart(outcomes: list[DailyOutcomes], zone: str) -> Chart:
    points = [
        (formatting.format_day(day.day), day.delivered, day.failed, day.waiting, day.canceled) for day in outcomes
    ]
    series = ("Delivered", "Failed", "Pending", "Canceled")
    return charts.bar_chart("outcomes", f"Deliveries per day ({zone})", points, series=series)


@bp.get("/webhooks/new")
@require_permission("webhooks:write")
def create_form(form: Form | None = None) -> Response:
    """Show the form for a new endpoint."""
    return pages.render_page(
        "dashboard/webhooks/create.html",
        form=form or Form({"payload": "full"}),
        mode=g.principal.mode,
        types=_grouped_types(),
    )


@bp.post("/webhooks/new")
@require_permission("webhooks:write")
@form_view(EndpointForm(), form=create_form, is_idempotent=True)
def create(body: dict[str, Any]) -> Response:
    """Create an endpoint of the current mode and show its secret once."""
    endpoint = endpoints.create_endpoint(engine.session(), g.principal, {**body, "mode": g.principal.mode})
    secret = secrets.create_secret(engine.session(), endpoint)
    return _secret_page(endpoint, secret, is_new=True, old_ends_at=None)


@bp.get('/webhooks/<id("whe"):endpoint_id>/roll')
@require_permission("webhooks:write")
def rotate_secret_form(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the form that rotates the signing secret."""
    endpoint = get_endpoint(endpoint_id)
    (view,) = endpoints.list_endpoint_views(engine.session(), context.current_organization_id(), [endpoint])
    return pages.render_page(
        "dashboard/webhooks/rotate.html",
        endpoint=endpoint,
        view=view,
        form=form or Form({"grace_seconds": 86_400}),
        graces=list(GRACE_PERIODS.items()),
        secrets=list_active_secrets(engine.session(), endpoint),
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/roll')
@require_permission("webhooks:write")
@form_view(RotateSecretIn(), form=rotate_secret_form, is_idempotent=True)
def rotate_secret(endpoint_id: UUID, body: dict[str, Any]) -> Response:
    """Rotate the signing secret and show it once."""
    secret, ends_at = secrets.rotate_secret(engine.session(), g.principal, endpoint_id, body["grace_seconds"])
    return _secret_page(
        get_endpoint(endpoint_id), secret, is_new=False, old_ends_at=ends_at if body["grace_seconds"] else None
    )


def _secret_page(endpoint: Endpoint, secret: str, *, is_new: bool, old_ends_at: datetime | None) -> Response:
    return pages.render_page(
        "dashboard/webhooks/secret.html",
        is_secret=True,
        endpoint=endpoint,
        secret=secret,
        old_ends_at=old_ends_at,
        is_new=is_new,
        verifier=render_template("dashboard/webhooks/verify.txt"),
        zone=context.current_zone(),
    )
