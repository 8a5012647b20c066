"""Pages of events: the stream, one with its payload and deliveries, and the catalogue of types."""

from typing import Any
from uuid import UUID

import orjson
from flask import Response, g

from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.lists import neighbours, read_filters
from saas_api.dashboard.queries import webhooks as reads
from saas_api.dashboard.routes.webhooks.door import bp, organization_id, zone
from saas_api.dashboard.schemas.webhooks import LIMIT, EventsFilter, NothingForm, TypeFilter
from saas_api.webhooks import queries, rules
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.models import Event


@bp.get("/webhooks/events")
@require("webhooks:read")
def events() -> Response:
    """List what happened, newest first."""
    query, form = read_filters(EventsFilter())
    asked = {**query, "limit": LIMIT}
    found = None if form.errors else queries.page_of_events(session(), organization_id(), asked)
    return page(
        "dashboard/webhooks/events.html",
        status=422 if found is None else 200,
        form=form,
        events=[(event, orjson.loads(event.payload)) for event in found.items] if found else [],
        types=list(rules.CATALOGUE),
        zone=zone(),
        **neighbours(found.next_cursor if found else None),
    )


@bp.get('/webhooks/events/<id("evt"):event_id>')
@require("webhooks:read")
def event(event_id: UUID, form: Form | None = None) -> Response:
    """Show an event: what it says, and where it was sent."""
    found: Event = reads.get_event(session(), organization_id(), event_id)
    payload = orjson.loads(found.payload)
    return page(
        "dashboard/webhooks/event.html",
        event=found,
        payload=payload,
        pretty=orjson.dumps(payload, option=orjson.OPT_INDENT_2).decode(),
        description=rules.CATALOGUE[found.type].description if found.type in rules.CATALOGUE else "",
        deliveries=reads.deliveries_of_event(session(), organization_id(), event_id),
        form=form,
        zone=zone(),
    )


@bp.post('/webhooks/events/<id("evt"):event_id>/replay')
@require("webhooks:write")
@submits(NothingForm(), again=event, is_once=True)
def replay(event_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Send an event anew to every endpoint that wants its type."""
    count = len(webhooks.replay(session(), g.principal, event_id))
    notice = f"Endpoints it is on its way to: {count}." if count else "No enabled endpoint wants this event."
    return see_other("dashboard.webhooks.event", event_id=event_id, _notice=notice)


@bp.get("/webhooks/event-types")
@require("webhooks:read")
def event_types() -> Response:
    """Show the catalogue, and one type of it in full."""
    query, form = read_filters(TypeFilter())
    chosen = rules.CATALOGUE.get(query.get("type") or "")
    return page(
        "dashboard/webhooks/event_types.html",
        status=422 if form.errors else 200,
        form=form,
        types=rules.CATALOGUE.values(),
        chosen=chosen,
        example=_pretty(chosen.example) if chosen else "",
        schema=_pretty(chosen.schema) if chosen else "",
        only_by_name=rules.ONLY_BY_NAME,
    )


def _pretty(value: dict[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
