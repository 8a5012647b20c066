"""Pages of deliveries: the list over all endpoints, and one with every attempt."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from flask import Response, g

from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.lists import neighbours, read_filters
from saas_api.core.render.pages import is_fragment
from saas_api.dashboard.queries import webhooks as reads
from saas_api.dashboard.routes.webhooks.door import bp, organization_id, zone
from saas_api.dashboard.schemas.webhooks import DELIVERY_STATUSES, LIMIT, DeliveriesFilter, NothingForm
from saas_api.webhooks import queries, rules
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.models import Delivery

WATCHED = timedelta(minutes=15)
STOP_POLLING = 286


@bp.get("/webhooks/deliveries")
@require("webhooks:read")
def deliveries() -> Response:
    """List what was sent, newest first."""
    query, form = read_filters(DeliveriesFilter())
    found = None if form.errors else reads.page_of_deliveries(session(), organization_id(), query, LIMIT)
    return page(
        "dashboard/webhooks/deliveries.html",
        status=422 if found is None else 200,
        form=form,
        deliveries=found.items if found else (),
        endpoints=reads.endpoints(session(), organization_id()),
        statuses=DELIVERY_STATUSES,
        types=list(rules.CATALOGUE),
        zone=zone(),
        **neighbours(found.next_cursor if found else None),
    )


@bp.get('/webhooks/deliveries/<id("whd"):delivery_id>')
@require("webhooks:read")
def delivery(delivery_id: UUID, form: Form | None = None) -> Response:
    """Show a delivery with what it carries and every attempt."""
    found = webhooks.get_delivery(session(), organization_id(), delivery_id)
    endpoint = reads.endpoint_of(session(), organization_id(), found.endpoint_id)
    shown = queries.show_delivery(session(), found)
    body = rules.thin_payload(shown.event.payload) if endpoint.payload == "thin" else shown.event.payload
    is_watched = _is_watched(found)
    return page(
        "dashboard/webhooks/delivery.html",
        status=STOP_POLLING if is_fragment() and not is_watched else 200,
        block="live",
        delivery=found,
        event=shown.event,
        attempts=shown.attempts[::-1],
        endpoint=endpoint,
        body=body,
        pretty=orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode(),
        is_watched=is_watched,
        is_due=found.next_at is not None and found.next_at <= clock.now(),
        form=form,
        zone=zone(),
    )


@bp.post('/webhooks/deliveries/<id("whd"):delivery_id>/resend')
@require("webhooks:write")
@submits(NothingForm(), again=delivery, is_once=True)
def resend(delivery_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Send what a delivery carried once more."""
    made = webhooks.resend(session(), g.principal, delivery_id)
    notice = "Sent once more, as a new delivery."
    return see_other("dashboard.webhooks.delivery", delivery_id=made.id, _notice=notice)


def _is_watched(found: Delivery) -> bool:
    """Whether its page looks again by itself: not once it has ended, nor while its next try is far away."""
    return found.next_at is not None and found.next_at - clock.now() < WATCHED
