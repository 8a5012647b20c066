"""Pages of API keys: list, detail, create, update, rotate, revoke."""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Blueprint, Response, g, request
from marshmallow import fields, validate
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit_sentences
from saas_api.api_keys import key_scopes, keys
from saas_api.api_keys.models import CreatedKey, KeyStatus, KeyView
from saas_api.api_keys.schemas import MAX_KEYS_AT_ONCE, KeyIn, KeysQuery, KeyUpdate, RotateKeyIn
from saas_api.billing import plans, service_terms
from saas_api.billing.rating.plan_file import RATE_LIMIT_FEATURE
from saas_api.billing.usage_costs import CallTotals
from saas_api.core import access, brand, clock, formatting, ids, time_zones
from saas_api.core.access import KeyMode, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import DateField, Name, PrefixedId, StrictSchema, Text
from saas_api.core.settings import setting
from saas_api.core.web import charts, forms, http, pages, templating
from saas_api.core.web.charts import Chart
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.core.web.pages import PAGE_SIZE
from saas_api.dashboard import context, requests
from saas_api.usage import ranges, reports, request_counts, request_log, sources
from saas_api.usage.ranges import DateRange
from saas_api.usage.reports import TimeseriesRange
from saas_api.usage.request_log import RequestFilter

bp = Blueprint("keys", __name__)

KEY_AUDIT_ACTIONS = 20
KEY_REQUESTS = 10
_PLATFORM, _GONE = "System", "A former member"


SCOPE_PRESETS = {"all": None, "send": ["messages:write"], "read": ["messages:read", "usage:read"]}
_PRESET_TEXTS = {
    "all": ("Full access", "All scopes, including those of services added later."),
    "send": ("Send messages", "Only messages:write."),
    "read": ("Read messages and usage", "Only messages:read and usage:read."),
}
_SCOPE_NOTES = {
    "messages:write": "Send and cancel messages.",
    "messages:read": "View messages and their status.",
    "usage:read": "View usage and its cost.",
}
EXPIRIES = ("never", "30", "90", "365", "date")
DAYS, LAST_YEAR = 30, 9_998


@dataclass
class KeyUsage:
    """Calls of one key in a range of days.

    by_endpoint: by (method, route)
    """

    total: CallTotals
    by_day: Mapping[date, CallTotals]
    by_endpoint: dict[tuple[str, str], CallTotals] = field(default_factory=dict)


@dataclass(frozen=True)
class ActiveSecret:
    """A secret that authenticates."""

    masked: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class AuditEntry:
    """An audit event of a key."""

    at: datetime
    action: str
    by: str
    ip: str | None
    request_id: str | None
    data: Mapping[str, Any]


def get_key_creators(session: Session, organization_id: UUID, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Returns the name of the creator of each key."""
    rows = session.execute(
        text("""SELECT k.id, k.created_by, coalesce(nullif(u.full_name, ''), u.email) AS name
          FROM api_keys k LEFT JOIN users u ON u.id = k.created_by
          WHERE k.organization_id = :organization_id AND k.id = ANY (:ids)"""),
        {"organization_id": organization_id, "ids": list(ids)},
    )
    return {row.id: row.name or (_GONE if row.created_by else _PLATFORM) for row in rows}


def count_requests(
    session: Session, organization_id: UUID, days: DateRange, mode: str
) -> dict[UUID, Mapping[date, int]]:
    """Returns accepted and refused calls by key of a mode and by day of a range; keys without calls are missing."""
    counts: defaultdict[UUID, dict[date, int]] = defaultdict(lambda: dict.fromkeys(days, 0))
    for accepted in reports.accepted_calls(session, organization_id, days, [], mode):
        if accepted.api_key_id is not None:
            counts[accepted.api_key_id][accepted.day] += accepted.requests
    for refused in request_counts.refused_calls(session, organization_id, days, mode):
        counts[refused.api_key_id][refused.day] += refused.requests
    return dict(counts)


def get_key_usage(session: Session, organization_id: UUID, key_id: UUID, mode: str, days: DateRange) -> KeyUsage:
    """Returns the calls of a key by day and by endpoint, as the usage report counts them.

    mode: of the key
    """
    usage = KeyUsage(CallTotals(), {day: CallTotals() for day in days})
    endpoints: defaultdict[tuple[str, str], CallTotals] = defaultdict(CallTotals)
    for row in reports.accepted_calls(session, organization_id, days, [], mode):
        if row.api_key_id == key_id:
            endpoint = endpoints[sources.get_endpoint(row.source)]
            for tally in (usage.total, usage.by_day[row.day], endpoint):
                tally.success_count += row.requests
    for refused in request_counts.refused_calls(session, organization_id, days, mode):
        if refused.api_key_id == key_id:
            endpoint = endpoints[refused.method, refused.route]
            for tally in (usage.total, usage.by_day[refused.day], endpoint):
                if refused.outcome == "failed":
                    tally.failed_count += refused.requests
                else:
                    tally.limited_count += refused.requests
    usage.by_endpoint = dict(sorted(endpoints.items(), key=lambda entry: -entry[1].requests))
    return usage


def count_requests_last_day(session: Session, organization_id: UUID, key_id: UUID, mode: str, now: datetime) -> int:
    """Calls under a key in the last 24 hours; counts are by the hour, so the hour that began before them is whole."""
    since = (now - timedelta(hours=24)).replace(minute=0, second=0, microsecond=0)
    span = TimeseriesRange([since], now + timedelta(hours=1), [], None, mode)
    accepted = sum(
        row.requests for row in reports.timeseries(session, organization_id, span) if row.api_key_id == key_id
    )
    refused = request_counts.count_refused(session, organization_id, since, span.ends_at)
    return accepted + refused.get(key_id, 0)


def plan_rate_limit(session: Session, organization_id: UUID) -> int:
    """Returns the requests per minute that all keys of an organization share."""
    row = session.execute(
        text("""SELECT e.value, l.rate_limit_per_minute FROM subscription_segments g
          JOIN entitlements e ON e.plan_version_id = g.plan_version_id AND e.feature = :feature
          LEFT JOIN organization_limits l ON l.organization_id = g.organization_id
            AND (l.expires_at IS NULL OR l.expires_at > :at)
          WHERE g.organization_id = :organization_id AND g.starts_at <= :at
            AND (g.ends_at IS NULL OR g.ends_at > :at)"""),
        {"organization_id": organization_id, "at": clock.now(), "feature": RATE_LIMIT_FEATURE},
    ).first()
    if row is None:
        return service_terms.get_terms(session, organization_id).rate_limit_per_minute
    return row.rate_limit_per_minute or plans.resolve_rate_limit(row.value)


def list_active_secrets(session: Session, organization_id: UUID, key_id: UUID, now: datetime) -> list[ActiveSecret]:
    """Returns the secrets that authenticate, newest first; two during a rotation."""
    rows = session.execute(
        text("""SELECT hint || '...' || last_four, created_at, expires_at FROM api_key_secrets
          WHERE organization_id = :organization_id AND key_id = :key_id AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > :now) ORDER BY created_at DESC"""),
        {"organization_id": organization_id, "key_id": key_id, "now": now},
    )
    return [ActiveSecret(*row) for row in rows]


def list_key_audit(session: Session, organization_id: UUID, key_id: UUID) -> list[AuditEntry]:
    """Returns the newest audit events of a key, newest first."""
    rows = session.execute(
        text("""SELECT a.at, a.action, a.actor_type, coalesce(nullif(u.full_name, ''), u.email) AS name,
              host(a.ip) AS ip, a.request_id, a.data
          FROM audit_events a LEFT JOIN users u ON a.actor_type = 'user' AND u.id::text = a.actor_id
          WHERE a.organization_id = :organization_id AND a.target_type = 'api_key' AND a.target_id = :key_id
          ORDER BY a.id DESC LIMIT :limit"""),
        {"organization_id": organization_id, "key_id": str(key_id), "limit": KEY_AUDIT_ACTIONS},
    )
    return [
        AuditEntry(row.at, row.action, row.name or _actor_name(row.actor_type), row.ip, row.request_id, row.data)
        for row in rows
    ]


def _actor_name(actor_type: str) -> str:
    support = f"{brand.current_brand().name} support"
    names = {"user": _GONE, "api_key": "An API key", "portal": "Customer portal", "operator": support}
    return names.get(actor_type, _PLATFORM)


class KeyUpdateForm(KeyUpdate):
    """Name, scopes, networks, rate limit and last day of a key; without a day it never expires.

    access: "all" for full access; `scopes` counts with "own" only
    """

    class Meta(KeyUpdate.Meta):
        """The expiry is a local day."""

        exclude = ("expires_at",)

    name = Name(required=True)
    expires_on = DateField(load_default=None)
    access = fields.String(load_default="own", validate=validate.OneOf(("all", "own")))

    @ma.pre_load
    def _resolve_access(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        return {**data, "scopes": None if data.get("access") == "all" else data["scopes"] or []}


class KeyForm(KeyIn):
    """A new key; `scopes` counts with the preset "own" only.

    is_confirmed: that a live key is wanted
    """

    class Meta(KeyIn.Meta):
        """The expiry is a number of days or a local day."""

        exclude = ("expires_at",)

    expiry = fields.String(load_default="never", validate=validate.OneOf(EXPIRIES))
    expires_on = DateField(load_default=None)
    preset = fields.String(load_default="all", validate=validate.OneOf((*SCOPE_PRESETS, "own")))
    is_confirmed = fields.Boolean(load_default=False)

    @ma.pre_load
    def _resolve_preset(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        preset = data.get("preset", "all")
        return {**data, "scopes": data["scopes"] or [] if preset == "own" else SCOPE_PRESETS.get(preset)}


class RevokeKeyForm(StrictSchema):
    """The name of the key, typed to confirm."""

    confirm = Text(required=True, maximum=100, error_messages={"required": "Type the name of the key to confirm."})


class RevokeKeysForm(context.ConfirmationForm):
    """Picked keys, and their number typed to confirm."""

    key_ids = fields.List(PrefixedId("key"), data_key="ids", validate=validate.Length(max=MAX_KEYS_AT_ONCE))


@bp.before_request
def _refuse_form_of_other_mode() -> None:
    key_id = (request.view_args or {}).get("key_id")
    if request.method not in http.SAFE_METHODS and key_id is not None:
        _get(key_id)


@bp.get("/api-keys")
@require_permission("keys:read")
def index() -> Response:
    """List the keys of the current mode, newest first, with their calls of thirty days."""
    query, form = forms.parse_filters(KeysQuery(exclude=("limit",)))
    query = {"limit": PAGE_SIZE, "cursor": None, **query, "mode": g.principal.mode}
    page_request, filters = PageRequest.from_query(query)
    page, organization_id = None, context.current_organization_id()
    if not form.errors:
        page = keys.list_keys(engine.session(), organization_id, page_request, **filters)
    items = page.items if page else ()
    return pages.render_page(
        "dashboard/keys/index.html",
        status=200 if page else 422,
        form=form,
        keys=items,
        makers=get_key_creators(engine.session(), organization_id, [key.id for key in items]),
        counts=count_requests(engine.session(), organization_id, _last_days(), g.principal.mode),
        is_filtered=bool(set(form.values) - {"mode"}),
        zone=context.current_zone(),
        **pages.pagination_links(page.next_cursor if page else None),
    )


@bp.get("/api-keys/new")
@require_permission("keys:create")
def create_form(form: Form | None = None) -> Response:
    """Show the form for a new key."""
    empty = Form({"mode": KeyMode.TEST, "expiry": "never", "preset": "all"})
    return pages.render_page("dashboard/keys/create.html", form=form or empty, **_choices())


@bp.post("/api-keys/new")
@require_permission("keys:create")
@form_view(KeyForm(), form=create_form, is_idempotent=True)
def create(body: dict[str, Any]) -> Response:
    """Create a key and show its secret once, in the mode of the key; a live key after a page that asks for it."""
    if body["mode"] == KeyMode.LIVE and g.principal.mode == KeyMode.TEST:
        raise ValidationFailed.at_field("mode", "Switch to live data to create a live key.")
    _check_rate(body)
    choices = {name: body.pop(name) for name in ("expiry", "expires_on", "preset", "is_confirmed")}
    organization_id, expires_at = context.current_organization_id(), _expiry(choices)
    if body["mode"] == KeyMode.LIVE and not choices["is_confirmed"]:
        access.require_verified_email(g.principal)
        access.require_fresh_login(g.principal)
        key_scopes.check_known(body["scopes"] or (), key_scopes.list_offered_now())
        return _live_key_page(body, expires_at)
    created = keys.create_key(engine.session(), organization_id, g.principal, **body, expires_at=expires_at)
    context.follow_created(created.mode)
    return _secret_page(created)


def _live_key_page(body: Mapping[str, Any], expires_at: datetime | None) -> Response:
    """The page that shows the live key to be created, and sends the form again, confirmed."""
    unsent = (forms.CSRF_FIELD, forms.FORM_KEY_FIELD, forms.PASSWORD_FIELD)
    return pages.render_page(
        "dashboard/keys/create_live.html",
        key=body,
        expires_at=expires_at,
        fields=[(name, value) for name, value in request.form.items(multi=True) if name not in unsent],
        zone=context.current_zone(),
    )


@bp.get('/api-keys/<id("key"):key_id>')
@require_permission("keys:read")
def show(key_id: UUID, form: Form | None = None) -> Response:
    """Show a key with its scopes, calls and audit events."""
    key, days = _get(key_id), _last_days()
    usage = get_key_usage(engine.session(), context.current_organization_id(), key_id, key.mode, days)
    can_read_audit = access.has_permission(g.principal, "audit:read")
    return pages.render_page(
        "dashboard/keys/show.html",
        form=form,
        key=key,
        maker=get_key_creators(engine.session(), context.current_organization_id(), [key_id])[key_id],
        use=usage,
        chart=_chart(usage, days),
        **_requests_context(key, days),
        secrets=list_active_secrets(engine.session(), context.current_organization_id(), key_id, clock.now()),
        sentence=audit_sentences.describe,
        acts=list_key_audit(engine.session(), context.current_organization_id(), key_id) if can_read_audit else None,
        zone=days.zone.key,
    )


def _requests_context(key: KeyView, days: DateRange) -> dict[str, Any]:
    """What the page shows of a key's requests: errors and latency, the newest ones and links to the log.

    days: of the errors and latency
    """
    organization_id, filters = context.current_organization_id(), RequestFilter(api_key_id=key.id)
    statistics = request_counts.call_statistics(
        engine.session(), organization_id, key.mode, [days.starts_at], days.ends_at, api_key_id=key.id
    )
    log_filters = {"api_key_id": ids.format_id("key", key.id), "mode": key.mode, **requests.range_filters(days)}
    return {
        "statistics": statistics[0],
        "log_url": functools.partial(requests.log_url, **log_filters),
        "requests": request_log.list_latest(engine.session(), organization_id, filters, limit=KEY_REQUESTS),
    }


@bp.get('/api-keys/<id("key"):key_id>/edit')
@require_permission("keys:write")
def update_form(key_id: UUID, form: Form | None = None) -> Response:
    """Show the form that changes a key."""
    key = _get(key_id)
    access_now = "all" if key.has_full_access else "own"
    values = {**KeyUpdate().dump(key), "expires_on": _last_day(key.expires_at) or "", "access": access_now}
    return pages.render_page("dashboard/keys/update.html", key=key, form=form or Form(values), **_choices(key.scopes))


@bp.post('/api-keys/<id("key"):key_id>/edit')
@require_permission("keys:write")
@form_view(KeyUpdateForm(), form=update_form)
def update(key_id: UUID, body: dict[str, Any]) -> Any:
    """Change a key; the change applies to the next request."""
    key, last_day = _get(key_id), body.pop("expires_on")
    del body["access"]  # `scopes` says it
    if body.get("rate_limit_per_minute") != key.rate_limit_per_minute:
        _check_rate(body)
    if last_day != _last_day(key.expires_at):
        body["expires_at"] = _end_of_day(last_day) if last_day else None
    keys.update_key(engine.session(), g.principal, key_id, body)
    return pages.redirect_to(
        "dashboard.keys.show", key_id=key_id, _notice="Changes saved. They apply to the next request."
    )


@bp.get('/api-keys/<id("key"):key_id>/roll')
@require_permission("keys:write")
def rotate_form(key_id: UUID, form: Form | None = None) -> Response:
    """Show the form that rotates a key."""
    return pages.render_page(
        "dashboard/keys/rotate.html",
        form=form or Form({"grace_seconds": 86_400}),
        key=_get(key_id),
        secrets=list_active_secrets(engine.session(), context.current_organization_id(), key_id, clock.now()),
        zone=context.current_zone(),
    )


@bp.post('/api-keys/<id("key"):key_id>/roll')
@require_permission("keys:write")
@form_view(RotateKeyIn(), form=rotate_form, is_idempotent=True)
def rotate(key_id: UUID, body: dict[str, Any]) -> Response:
    """Rotate a key and show the new secret once."""
    rotated = keys.rotate_key(engine.session(), g.principal, key_id, body["grace_seconds"])
    return _secret_page(rotated, rotated.old_expires_at)


@bp.post('/api-keys/<id("key"):key_id>/end-old')
@require_permission("keys:write")
@form_view(EmptyForm(), form=show)
def revoke_previous_secret(key_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Revoke the previous secret of a rotated key."""
    keys.revoke_previous_secrets(engine.session(), g.principal, key_id)
    notice = "Old secret revoked. Requests with it are rejected immediately."
    return pages.redirect_to("dashboard.keys.show", key_id=key_id, _notice=notice)


@bp.get('/api-keys/<id("key"):key_id>/revoke')
@require_permission("keys:write")
def revoke_form(key_id: UUID, form: Form | None = None) -> Response:
    """Show the form that revokes a key."""
    key = _get(key_id)
    return pages.render_page(
        "dashboard/keys/revoke.html",
        form=form or Form(),
        key=key,
        recent=count_requests_last_day(
            engine.session(), context.current_organization_id(), key_id, key.mode, clock.now()
        ),
        zone=context.current_zone(),
    )


@bp.post('/api-keys/<id("key"):key_id>/revoke')
@require_permission("keys:write")
@form_view(RevokeKeyForm(), form=revoke_form)
def revoke(key_id: UUID, body: dict[str, Any]) -> Any:
    """Revoke a key."""
    if body["confirm"].strip() != _get(key_id).name.strip():
        raise ValidationFailed.at_field("confirm", "Type the name exactly as shown.")
    revoked = keys.revoke_key(engine.session(), g.principal, key_id)
    return pages.redirect_to(
        "dashboard.keys.show",
        key_id=key_id,
        _notice=f"{revoked.name} revoked. Requests with it are rejected immediately.",
    )


@bp.get("/api-keys/revoke")
@require_permission("keys:write")
def revoke_picked_form(form: Form | None = None) -> Response:
    """Show the form that revokes the picked keys of the current mode."""
    texts = form.value("ids") if form else request.args.getlist("ids")[:MAX_KEYS_AT_ONCE]
    key_ids = [ids.parse_id("key", text) for text in texts if ids.is_public_id(text, "key")]
    organization_id, mode = context.current_organization_id(), g.principal.mode
    picked = keys.list_keys_by_id(engine.session(), organization_id, key_ids, mode=mode)
    active = [key for key in picked if key.status != KeyStatus.REVOKED]
    return pages.render_page(
        "dashboard/keys/revoke_picked.html",
        form=form or Form(),
        keys=active,
        expected=_confirmation(len(active)),
        counts=count_requests(engine.session(), organization_id, _last_days(), mode) if active else {},
        zone=context.current_zone(),
    )


@bp.post("/api-keys/revoke")
@require_permission("keys:write")
@form_view(RevokeKeysForm(), form=revoke_picked_form)
def revoke_picked(body: dict[str, Any]) -> Any:
    """Revoke the picked keys: all that can be revoked, or none."""
    key_ids = body.get("key_ids", ())
    context.check_confirmation(body["typed"], _confirmation(len(key_ids)))
    revoked = keys.revoke_keys(engine.session(), g.principal, key_ids, mode=g.principal.mode)
    reason = "already revoked or not found"
    notice = templating.bulk_notice(revoked.count, len(revoked.skipped), "revoked", reason, "key")
    return pages.redirect_to("dashboard.keys.index", _notice=notice)


def _confirmation(count: int) -> str:
    return f"Revoke {templating.pluralize(count, 'key')}"


def _secret_page(key: CreatedKey, old_expires_at: datetime | None = None) -> Response:
    return pages.render_page(
        "dashboard/keys/secret.html",
        is_secret=True,
        key=key,
        text=key.secret,
        has_snippet=not _SCOPE_NOTES.keys().isdisjoint(key.scopes),
        old_expires_at=old_expires_at,
        is_old_over=old_expires_at is not None and old_expires_at <= clock.now(),
        app_url=setting("APP_URL"),
        zone=context.current_zone(),
    )


def _chart(usage: KeyUsage, days: DateRange) -> Chart:
    points = [
        (formatting.format_day(day), tally.success_count, tally.failed_count, tally.limited_count)
        for day, tally in usage.by_day.items()
    ]
    names = ("Accepted", "Rejected", "Rate limited")
    return charts.bar_chart("key-requests", f"Requests per day ({days.zone.key})", points, series=names)


def _get(key_id: UUID) -> KeyView:
    """Returns a key; the dashboard follows its mode."""
    key = keys.get_key(engine.session(), context.current_organization_id(), key_id)
    context.follow_mode(key.mode)
    return key


def _choices(held: Sequence[str] = ()) -> dict[str, Any]:
    """What the forms offer; scopes that the key has from a service that was revoked stay to be chosen.

    held: scopes of the key
    """
    offered = key_scopes.list_offered_now()
    groups = dict(offered.by_resource)
    if ended := sorted(set(held) - offered.names):
        groups["No longer offered"] = ended
    return {
        "scope_groups": [
            (resource, [(scope, scope, _SCOPE_NOTES.get(scope)) for scope in scopes])
            for resource, scopes in groups.items()
        ],
        "presets": [
            (preset, *_PRESET_TEXTS[preset])
            for preset, scopes in SCOPE_PRESETS.items()
            if offered.names.issuperset(scopes or ())
        ],
        "plan_limit": plan_rate_limit(engine.session(), context.current_organization_id()),
        "zone": context.current_zone(),
    }


def _check_rate(body: Mapping[str, Any]) -> None:
    requested = body.get("rate_limit_per_minute")
    if requested is not None:
        limit = plan_rate_limit(engine.session(), context.current_organization_id())
        if requested > limit:
            raise ValidationFailed.at_field(
                "rate_limit_per_minute", f"Your plan allows at most {limit:,} requests per minute."
            )


def _expiry(body: Mapping[str, Any]) -> datetime | None:
    """Returns when a new key expires: a number of days from now, or at the end of a local day."""
    if body["expiry"] == "date":
        if body["expires_on"] is None:
            raise ValidationFailed.at_field("expires_on", "Choose the day on which the key expires.")
        return _end_of_day(body["expires_on"])
    return None if body["expiry"] == "never" else clock.now() + timedelta(days=int(body["expiry"]))


def _end_of_day(day: date) -> datetime:
    """Returns the end of a local day that has not passed."""
    if day.year >= LAST_YEAR:
        raise ValidationFailed.at_field("expires_on", "Choose an earlier date.")
    end = ranges.day_start(day + timedelta(days=1), time_zones.get_zone(context.current_zone()))
    if end <= clock.now():
        raise ValidationFailed.at_field("expires_on", "This day is in the past.")
    return end


def _last_day(expires_at: datetime | None) -> date | None:
    """Returns the local day on which a key is still valid."""
    zone = time_zones.get_zone(context.current_zone())
    return (expires_at - timedelta.resolution).astimezone(zone).date() if expires_at else None


def _last_days() -> DateRange:
    zone = time_zones.get_zone(context.current_zone())
    today = clock.now().astimezone(zone).date()
    return DateRange(today - timedelta(days=DAYS - 1), today, zone)
