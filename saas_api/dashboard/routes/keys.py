"""Pages about API keys: the list, one with its use, and everything that can be done to it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.api_keys import queries as keys
from saas_api.api_keys import service as api_keys
from saas_api.api_keys.queries import Described
from saas_api.core import clock
from saas_api.core.access import SCOPES, allows, check_fresh, require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.render import Form, charts, page, see_other, submits
from saas_api.core.render.lists import neighbours, read_filters
from saas_api.core.settings import setting
from saas_api.dashboard.queries import keys as reads
from saas_api.dashboard.schemas import keys as forms
from saas_api.organizations import service as organizations
from saas_api.usage.rules import Days, first_instant

bp = Blueprint("keys", __name__)
LIMIT, DAYS, LAST_YEAR = 25, 30, 9_998


@bp.get("/api-keys")
@require("keys:read")
def index() -> Response:
    """List the keys, newest first, with what each sent in thirty days."""
    query, form = read_filters(forms.KeyFilters())
    found = None if form.errors else keys.list_keys(session(), _organization_id(), {**query, "limit": LIMIT})
    items = found.items if found else ()
    modes = sorted({key.mode for key in items})
    return page(
        "dashboard/keys/index.html",
        status=200 if found else 422,
        form=form,
        keys=items,
        makers=reads.makers(session(), _organization_id(), [key.id for key in items]),
        counts=reads.request_counts(session(), _organization_id(), _last_days(), modes),
        all_scopes=len(SCOPES),
        is_filtered=bool(form.values),
        zone=_zone(),
        **neighbours(found.next_cursor if found else None),
    )


@bp.get("/api-keys/new")
@require("keys:create")
def new(form: Form | None = None) -> Response:
    """Ask what a new key may do."""
    empty = Form({"mode": g.principal.mode, "expiry": "never", "preset": "all"})
    return page("dashboard/keys/new.html", form=form or empty, **_choices())


@bp.post("/api-keys/new")
@require("keys:create")
@submits(forms.KeyForm(), again=new, is_once=True)
def create(body: dict[str, Any]) -> Response:
    """Make a key; its secret is shown this once."""
    if body["mode"] == "live":
        check_fresh(g.principal)
    _check_rate(body)
    scopes = body["scopes"] if body["preset"] == "own" else forms.PRESETS[body["preset"]]
    made = api_keys.create(
        session(),
        _organization_id(),
        g.principal,
        name=body["name"],
        mode=body["mode"],
        scopes=scopes,
        expires_at=_end(body),
        allowed_ips=body["allowed_ips"],
        rate_limit_per_minute=body["rate_limit_per_minute"],
    )
    return _shown_once(made.key, made.text)


@bp.get('/api-keys/<id("key"):key_id>')
@require("keys:read")
def show(key_id: UUID, form: Form | None = None) -> Response:
    """Show a key: what it may do, what it sent, what was done to it."""
    key, days = _get(key_id), _last_days()
    use = reads.use_of(session(), _organization_id(), key_id, key.mode, days)
    may_read_acts = allows(g.principal, "audit:read")
    return page(
        "dashboard/keys/show.html",
        form=form,
        key=key,
        maker=reads.makers(session(), _organization_id(), [key_id])[key_id],
        use=use,
        chart=_chart(use, days),
        secrets=reads.live_secrets(session(), _organization_id(), key_id, clock.now()),
        acts=reads.acts_on(session(), _organization_id(), key_id) if may_read_acts else None,
        zone=days.zone.key,
    )


@bp.get('/api-keys/<id("key"):key_id>/edit')
@require("keys:write")
def edit(key_id: UUID, form: Form | None = None) -> Response:
    """Ask what is to be otherwise about a key."""
    key = _get(key_id)
    kept = {
        "name": key.name,
        "scopes": key.scopes,
        "allowed_ips": "\n".join(str(network) for network in key.allowed_ips),
        "rate_limit_per_minute": key.rate_limit_per_minute,
    }
    return page("dashboard/keys/edit.html", key=key, form=form or Form(kept), **_choices())


@bp.post('/api-keys/<id("key"):key_id>/edit')
@require("keys:write")
@submits(forms.KeyChangeForm(), again=edit)
def change(key_id: UUID, body: dict[str, Any]) -> Any:
    """Change a key; it acts on the next request."""
    if body["rate_limit_per_minute"] != _get(key_id).rate_limit_per_minute:
        _check_rate(body)
    api_keys.change(session(), g.principal, key_id, body)
    return see_other("dashboard.keys.show", key_id=key_id, _notice="Saved. It acts on the next request.")


@bp.get('/api-keys/<id("key"):key_id>/roll')
@require("keys:write")
def ask_roll(key_id: UUID, form: Form | None = None) -> Response:
    """Ask how long the old secret of a key goes on."""
    return page(
        "dashboard/keys/roll.html",
        form=form or Form({"grace_seconds": "86400"}),
        key=_get(key_id),
        secrets=reads.live_secrets(session(), _organization_id(), key_id, clock.now()),
        zone=_zone(),
    )


@bp.post('/api-keys/<id("key"):key_id>/roll')
@require("keys:write")
@submits(forms.RollForm(), again=ask_roll, is_once=True, is_fresh=True)
def roll(key_id: UUID, body: dict[str, Any]) -> Response:
    """Give a key a new secret, which is shown this once."""
    made = api_keys.rotate(session(), g.principal, key_id, forms.GRACES[body["grace_seconds"]])
    return _shown_once(made.key, made.text, made.old_expires_at)


@bp.post('/api-keys/<id("key"):key_id>/end-old')
@require("keys:write")
@submits(forms.NoFields(), again=show)
def end_old(key_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """End the secret that a rolled key had before."""
    api_keys.end_old(session(), g.principal, key_id)
    notice = "The old secret has ended. It is refused from now on."
    return see_other("dashboard.keys.show", key_id=key_id, _notice=notice)


@bp.get('/api-keys/<id("key"):key_id>/revoke')
@require("keys:write")
def ask_revoke(key_id: UUID, form: Form | None = None) -> Response:
    """Say what ends with a key, and ask for its name."""
    key = _get(key_id)
    return page(
        "dashboard/keys/revoke.html",
        form=form or Form(),
        key=key,
        recent=reads.requests_of_a_day(session(), _organization_id(), key_id, key.mode, clock.now()),
        zone=_zone(),
    )


@bp.post('/api-keys/<id("key"):key_id>/revoke')
@require("keys:write")
@submits(forms.RevokeForm(), again=ask_revoke, is_fresh=True)
def revoke(key_id: UUID, body: dict[str, Any]) -> Any:
    """End a key for good."""
    if body["confirm"].strip() != _get(key_id).name.strip():
        raise Invalid.at("confirm", "Type the name exactly as it is shown.")
    ended = api_keys.revoke(session(), g.principal, key_id)
    return see_other(
        "dashboard.keys.show", key_id=key_id, _notice=f"{ended.name} is revoked. It is refused from now on."
    )


def _shown_once(key: Described, text: str, old_expires_at: datetime | None = None) -> Response:
    return page(
        "dashboard/keys/secret.html",
        is_secret=True,
        key=key,
        text=text,
        old_expires_at=old_expires_at,
        is_old_over=old_expires_at is not None and old_expires_at <= clock.now(),
        app_url=setting("APP_URL"),
        zone=_zone(),
    )


def _chart(use: reads.Use, days: Days) -> charts.Chart:
    points = [
        (f"{day.day} {day:%b}", tally.success_count, tally.failed_count, tally.limited_count)
        for day, tally in use.by_day.items()
    ]
    names = ("Accepted", "Failed", "Rate limited")
    return charts.bars("key-requests", f"Requests per day ({days.zone.key})", points, series=names)


def _get(key_id: UUID) -> Described:
    return api_keys.get(session(), _organization_id(), key_id)


def _choices() -> dict[str, Any]:
    return {"plan_limit": reads.plan_limit(session(), _organization_id()), "zone": _zone()}


def _check_rate(body: Mapping[str, Any]) -> None:
    wanted = body["rate_limit_per_minute"]
    if wanted is not None:
        limit = reads.plan_limit(session(), _organization_id())
        if wanted > limit:
            raise Invalid.at("rate_limit_per_minute", f"Your plan allows {limit:,} requests a minute.")


def _end(body: Mapping[str, Any]) -> datetime | None:
    """When a new key ends: a number of days from now, or with a day of the organization's calendar."""
    if body["expiry"] == "date":
        if body["expires_on"].year >= LAST_YEAR:
            raise Invalid.at("expires_on", "Outside the calendar.")
        end = first_instant(body["expires_on"] + timedelta(days=1), clock.zone(_zone()))
        if end <= clock.now():
            raise Invalid.at("expires_on", "This day has passed.")
        return end
    days = forms.EXPIRY_DAYS.get(body["expiry"])
    return clock.now() + timedelta(days=days) if days else None


def _last_days() -> Days:
    zone = clock.zone(_zone())
    today = clock.now().astimezone(zone).date()
    return Days(today - timedelta(days=DAYS - 1), today, zone)


def _zone() -> str:
    return organizations.get(session(), _organization_id()).timezone


def _organization_id() -> UUID:
    found: UUID = g.principal.organization_id
    return found
