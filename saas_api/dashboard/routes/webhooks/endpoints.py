"""Pages of endpoints: the list, one with how it has been doing, and everything that changes one."""

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from flask import Response, g

from saas_api.core import clock
from saas_api.core.access import allows, require
from saas_api.core.db import session
from saas_api.core.ids import wire_id
from saas_api.core.limits import limiter
from saas_api.core.render import Form, charts, page, see_other, submits
from saas_api.dashboard.queries import webhooks as reads
from saas_api.dashboard.routes.webhooks.door import bp, check_typed, get, organization_id, zone
from saas_api.dashboard.schemas.webhooks import (
    KINDS_OF_MISSED,
    SPANS,
    EnableForm,
    EndpointForm,
    NothingForm,
    RecoverForm,
    TestForm,
    TypedForm,
    in_zone,
)
from saas_api.webhooks import queries, rules
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.models import Endpoint

RECENT = 5


def _caller() -> str:
    return str(g.principal.organization_id)


@bp.get("/webhooks")
@require("webhooks:read")
def index() -> Response:
    """Show the endpoints with how they have been doing."""
    query = {"limit": 100, "cursor": None}
    is_shown = allows(g.principal, "webhooks:write")
    found = queries.page_of_endpoints(session(), organization_id(), query).items if is_shown else None
    return page("dashboard/webhooks/index.html", endpoints=found, zone=zone())


@bp.get('/webhooks/<id("whe"):endpoint_id>')
@require("webhooks:write")
def show(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show an endpoint: what it gets, how it has been doing, and its latest deliveries."""
    endpoint, local = get(endpoint_id), zone()
    (shown,) = queries.show(session(), organization_id(), [endpoint])
    asked = {"endpoint_id": endpoint_id, "status": None, "event_type": None, "cursor": None}
    return page(
        "dashboard/webhooks/show.html",
        shown=shown,
        endpoint=endpoint,
        zone=local,
        form=form or Form({"event_type": rules.TEST, "recover": True}),
        types=[(kind, kind) for kind in rules.CATALOGUE],
        chart=_chart(reads.outcomes(session(), endpoint, local), local),
        secrets=reads.live_secrets(session(), endpoint),
        deliveries=reads.page_of_deliveries(session(), organization_id(), asked, RECENT).items,
        pause=None if shown.is_enabled else reads.pause_of(session(), endpoint),
    )


@bp.get('/webhooks/<id("whe"):endpoint_id>/edit')
@require("webhooks:write")
def edit(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the form that changes an endpoint."""
    endpoint = get(endpoint_id)
    kept = {
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": endpoint.event_types or [],
        "payload": endpoint.payload,
    }
    return page(
        "dashboard/webhooks/edit.html", endpoint=endpoint, form=form or Form(kept), types=rules.CATALOGUE.values()
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/edit')
@require("webhooks:write")
@submits(EndpointForm(), again=edit)
def change(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Change where an endpoint is and what it gets."""
    values = {**body, "event_types": body["event_types"] or None}
    webhooks.change(session(), g.principal, endpoint_id, values)
    return see_other("dashboard.webhooks.show", endpoint_id=endpoint_id)


@bp.post('/webhooks/<id("whe"):endpoint_id>/disable')
@require("webhooks:write")
@submits(NothingForm(), again=show)
def disable(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send nothing to an endpoint until it is enabled."""
    webhooks.change(session(), g.principal, endpoint_id, {**body, "is_enabled": False})
    notice = "Disabled. What waited for it was canceled."
    return see_other("dashboard.webhooks.show", endpoint_id=endpoint_id, _notice=notice)


@bp.post('/webhooks/<id("whe"):endpoint_id>/enable')
@require("webhooks:write")
@submits(EnableForm(), again=show, is_once=True)
def enable(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send to an endpoint again, and what it missed if that is wanted."""
    since = reads.missed_since(session(), get(endpoint_id))
    webhooks.change(session(), g.principal, endpoint_id, {"is_enabled": True})
    notice = "Enabled."
    if body["recover"]:
        count = webhooks.recover(session(), g.principal, (organization_id(), endpoint_id), since)
        notice = f"Enabled. Events it missed that are on their way now: {count}."
    return see_other("dashboard.webhooks.show", endpoint_id=endpoint_id, _notice=notice)


@bp.post('/webhooks/<id("whe"):endpoint_id>/test')
@require("webhooks:write")
@limiter.shared_limit("20 per hour", scope="webhook-tests", key_func=_caller)
@submits(TestForm(), again=show, is_once=True)
def test(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an example event, and show what comes of it."""
    delivery = webhooks.try_out(session(), g.principal, endpoint_id, body["event_type"])
    return see_other("dashboard.webhooks.delivery", delivery_id=delivery.id, _notice="The test event is on its way.")


@bp.get('/webhooks/<id("whe"):endpoint_id>/recover')
@require("webhooks:write")
def ask_recover(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the form that sends an endpoint what it missed."""
    return page(
        "dashboard/webhooks/recover.html",
        endpoint=get(endpoint_id),
        zone=zone(),
        form=form or Form({"span": "24h", "which": "all"}),
        spans=[(name, text) for name, (text, _) in SPANS.items()],
        kinds=list(KINDS_OF_MISSED.items()),
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/recover')
@require("webhooks:write")
@submits(RecoverForm(), again=ask_recover, is_once=True)
def recover(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an endpoint what it missed."""
    since = in_zone(body["since"], clock.zone(zone())) if body["since"] else clock.now() - SPANS[body["span"]][1]
    target = (organization_id(), endpoint_id)
    count = webhooks.recover(session(), g.principal, target, since, which=body["which"])
    notice = f"Events on their way to it now: {count}." if count else "It missed nothing in that time."
    return see_other("dashboard.webhooks.deliveries", endpoint_id=wire_id("whe", endpoint_id), _notice=notice)


@bp.get('/webhooks/<id("whe"):endpoint_id>/delete')
@require("webhooks:write")
def ask_delete(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show what deleting an endpoint means."""
    endpoint = get(endpoint_id)
    (shown,) = queries.show(session(), organization_id(), [endpoint])
    return page(
        "dashboard/webhooks/delete.html", endpoint=endpoint, shown=shown, host=_host(endpoint), form=form or Form()
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/delete')
@require("webhooks:write")
@submits(TypedForm(), again=ask_delete)
def delete(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Delete an endpoint."""
    check_typed(body["typed"], _host(get(endpoint_id)))
    webhooks.delete(session(), g.principal, endpoint_id)
    return see_other("dashboard.webhooks.index", _notice="The endpoint was deleted.")


def _host(endpoint: Endpoint) -> str:
    """What somebody types to show that they mean this endpoint."""
    return urlsplit(endpoint.url).netloc


def _chart(days: list[reads.Outcomes], local: str) -> charts.Chart:
    points = [(f"{one.day.day} {one.day:%b}", one.delivered, one.failed, one.waiting, one.canceled) for one in days]
    series = ("Delivered", "Failed", "Waiting", "Canceled")
    return charts.bars("outcomes", f"Deliveries per day ({local})", points, series=series)
