"""Pages that show a secret once: a new endpoint's, and the one that takes over from an older one."""

from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Response, g, render_template

from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.render import Form, page, submits
from saas_api.dashboard.queries import webhooks as reads
from saas_api.dashboard.routes.webhooks.door import bp, get, organization_id, zone
from saas_api.dashboard.schemas.webhooks import GRACES, EndpointForm, RollForm
from saas_api.webhooks import queries, rules
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.models import Endpoint


@bp.get("/webhooks/new")
@require("webhooks:write")
def new(form: Form | None = None) -> Response:
    """Show the form for a new endpoint."""
    return page("dashboard/webhooks/new.html", form=form or Form({"payload": "full"}), types=rules.CATALOGUE.values())


@bp.post("/webhooks/new")
@require("webhooks:write")
@submits(EndpointForm(), again=new, is_once=True, is_fresh=True)
def create(body: dict[str, Any]) -> Response:
    """Make an endpoint, and show its secret this once."""
    made = webhooks.create(session(), g.principal, {**body, "event_types": body["event_types"] or None})
    secret = webhooks.issue(session(), made)
    return _shown(made, secret, is_new=True, old_ends_at=None)


@bp.get('/webhooks/<id("whe"):endpoint_id>/roll')
@require("webhooks:write")
def ask_roll(endpoint_id: UUID, form: Form | None = None) -> Response:
    """Show the form that gives an endpoint a new secret."""
    endpoint = get(endpoint_id)
    (shown,) = queries.show(session(), organization_id(), [endpoint])
    return page(
        "dashboard/webhooks/roll.html",
        endpoint=endpoint,
        shown=shown,
        form=form or Form({"grace_seconds": 86_400}),
        graces=list(GRACES.items()),
        secrets=reads.live_secrets(session(), endpoint),
        zone=zone(),
    )


@bp.post('/webhooks/<id("whe"):endpoint_id>/roll')
@require("webhooks:write")
@submits(RollForm(), again=ask_roll, is_once=True, is_fresh=True)
def roll(endpoint_id: UUID, body: dict[str, Any]) -> Response:
    """Give an endpoint a new secret, and show it this once."""
    secret, ends_at = webhooks.rotate(session(), g.principal, endpoint_id, body["grace_seconds"])
    return _shown(get(endpoint_id), secret, is_new=False, old_ends_at=ends_at if body["grace_seconds"] else None)


def _shown(endpoint: Endpoint, secret: str, *, is_new: bool, old_ends_at: datetime | None) -> Response:
    return page(
        "dashboard/webhooks/secret.html",
        is_secret=True,
        endpoint=endpoint,
        secret=secret,
        old_ends_at=old_ends_at,
        is_new=is_new,
        verifier=render_template("dashboard/webhooks/verify.txt"),
        zone=zone(),
    )
