"""The door to webhooks: endpoints and their secrets, deliveries, events."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import TooManyRequests
from saas_api.core.http import Answer, PageQuery, endpoint, page_of
from saas_api.core.limits import limiter
from saas_api.webhooks import queries, rules
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.models import Endpoint
from saas_api.webhooks.schemas import (
    CatalogueOut,
    CountOut,
    DeliveriesOut,
    DeliveriesQuery,
    DeliveryDetailOut,
    DeliveryOut,
    EndpointChange,
    EndpointIn,
    EndpointOut,
    EventOut,
    EventsQuery,
    NewEndpointOut,
    RecoveryIn,
    RotateSecretIn,
    SecretOut,
    TestIn,
)

bp = Blueprint("webhooks", __name__)


def _organization() -> str:
    return str(g.principal.organization_id)


@bp.post("/endpoints")
@require("webhooks:write")
@endpoint(
    operation_id="create_endpoint",
    tag="webhooks",
    body=EndpointIn(),
    returns=NewEndpointOut(),
    status=201,
    errors=(webhooks.TooManyEndpoints,),
)
def create(body: dict[str, Any]) -> Any:
    """Make an endpoint; the secret that signs is shown this once."""
    made = webhooks.create(session(), g.principal, body)
    secret = webhooks.issue(session(), made)
    return Answer(_shown(made, secret), message="Store the secret now: it is not shown again.", is_secret=True)


@bp.get("/endpoints")
@require("webhooks:write")
@endpoint(operation_id="list_endpoints", tag="webhooks", query=PageQuery(), returns=page_of("endpoints", EndpointOut()))
def list_endpoints(query: dict[str, Any]) -> Any:
    """List endpoints with their health, newest first."""
    return queries.page_of_endpoints(session(), g.principal.organization_id, query)


@bp.get('/endpoints/<id("whe"):endpoint_id>')
@require("webhooks:write")
@endpoint(operation_id="get_endpoint", tag="webhooks", returns=EndpointOut(), errors=(webhooks.NoSuchEndpoint,))
def show(endpoint_id: UUID) -> Any:
    """Show an endpoint with its health, never its secret."""
    return _shown(webhooks.get(session(), g.principal.organization_id, endpoint_id))


@bp.patch('/endpoints/<id("whe"):endpoint_id>')
@require("webhooks:write")
@endpoint(
    operation_id="update_endpoint",
    tag="webhooks",
    body=EndpointChange(),
    returns=EndpointOut(),
    errors=(webhooks.NoSuchEndpoint,),
)
def change(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Change an endpoint; disabling cancels what waits for it, enabling forgets its failures."""
    return _shown(webhooks.change(session(), g.principal, endpoint_id, body))


@bp.delete('/endpoints/<id("whe"):endpoint_id>')
@require("webhooks:write")
@endpoint(operation_id="delete_endpoint", tag="webhooks", returns=EndpointOut(), errors=(webhooks.NoSuchEndpoint,))
def delete(endpoint_id: UUID) -> Any:
    """Delete an endpoint; what waits for it is canceled."""
    return Answer(_shown(webhooks.delete(session(), g.principal, endpoint_id)), message="Deleted.")


@bp.post('/endpoints/<id("whe"):endpoint_id>/rotate-secret')
@require("webhooks:write")
@endpoint(
    operation_id="rotate_endpoint_secret",
    tag="webhooks",
    body=RotateSecretIn(),
    returns=SecretOut(),
    errors=(webhooks.NoSuchEndpoint,),
)
def rotate_secret(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Give an endpoint a new secret, shown this once; the old one signs beside it for `grace_seconds`."""
    secret, ends_at = webhooks.rotate(session(), g.principal, endpoint_id, body["grace_seconds"])
    shown = {"secret": secret, "old_expires_at": ends_at}
    return Answer(shown, message="Store the secret now: it is not shown again.", is_secret=True)


@bp.post('/endpoints/<id("whe"):endpoint_id>/test')
@require("webhooks:write")
@limiter.shared_limit("20 per hour", scope="webhook-tests", key_func=_organization)
@endpoint(
    operation_id="send_test_event",
    tag="webhooks",
    body=TestIn(),
    returns=DeliveryDetailOut(),
    status=202,
    errors=(webhooks.NoSuchEndpoint, webhooks.EndpointDisabled, TooManyRequests),
)
def test(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an endpoint an example event, of mode "test"."""
    delivery = webhooks.try_out(session(), g.principal, endpoint_id, body["event_type"])
    return Answer(queries.show_delivery(session(), delivery), message="Queued.")


@bp.post('/endpoints/<id("whe"):endpoint_id>/recover')
@require("webhooks:write")
@endpoint(
    operation_id="recover_endpoint",
    tag="webhooks",
    body=RecoveryIn(),
    returns=CountOut(),
    status=202,
    errors=(webhooks.NoSuchEndpoint, webhooks.EndpointDisabled),
)
def recover(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an endpoint what it missed in a time: what failed, what was canceled, what was never tried."""
    count = webhooks.recover(session(), g.principal, (g.principal.organization_id, endpoint_id), **body)
    return Answer({"count": count}, message="Queued.")


@bp.get('/endpoints/<id("whe"):endpoint_id>/deliveries')
@require("webhooks:read")
@endpoint(
    operation_id="list_deliveries",
    tag="webhooks",
    query=DeliveriesQuery(),
    returns=page_of("deliveries", DeliveryOut()),
    errors=(webhooks.NoSuchEndpoint,),
)
def list_deliveries(endpoint_id: UUID, query: dict[str, Any]) -> Any:
    """List an endpoint's deliveries, newest first."""
    found = webhooks.get(session(), g.principal.organization_id, endpoint_id)
    return queries.page_of_deliveries(session(), found.organization_id, found.id, query)


@bp.get('/deliveries/<id("whd"):delivery_id>')
@require("webhooks:read")
@endpoint(operation_id="get_delivery", tag="webhooks", returns=DeliveryDetailOut(), errors=(webhooks.NoSuchDelivery,))
def show_delivery(delivery_id: UUID) -> Any:
    """Show a delivery with what it carries and every attempt."""
    delivery = webhooks.get_delivery(session(), g.principal.organization_id, delivery_id)
    return queries.show_delivery(session(), delivery)


@bp.post('/deliveries/<id("whd"):delivery_id>/resend')
@require("webhooks:write")
@endpoint(
    operation_id="resend_delivery",
    tag="webhooks",
    returns=DeliveryDetailOut(),
    status=202,
    errors=(webhooks.NoSuchDelivery, webhooks.EndpointDisabled),
)
def resend(delivery_id: UUID) -> Any:
    """Send an event to the same endpoint once more: a new delivery with the same webhook-id."""
    delivery = webhooks.resend(session(), g.principal, delivery_id)
    return Answer(queries.show_delivery(session(), delivery), message="Queued.")


@bp.get("/events")
@require("webhooks:read")
@endpoint(operation_id="list_events", tag="webhooks", query=EventsQuery(), returns=page_of("events", EventOut()))
def list_events(query: dict[str, Any]) -> Any:
    """List events of the last 30 days, newest first."""
    return queries.page_of_events(session(), g.principal.organization_id, query)


@bp.post('/events/<id("evt"):event_id>/replay')
@require("webhooks:write")
@endpoint(
    operation_id="replay_event", tag="webhooks", returns=DeliveriesOut(), status=202, errors=(webhooks.NoSuchEvent,)
)
def replay(event_id: UUID) -> Any:
    """Send an event anew to every endpoint that wants its type."""
    ids = webhooks.replay(session(), g.principal, event_id)
    made = queries.show_deliveries(session(), g.principal.organization_id, ids)
    return Answer({"event_id": event_id, "count": len(made), "deliveries": made}, message="Queued.")


@bp.get("/event-types")
@require("webhooks:read")
@endpoint(operation_id="list_event_types", tag="webhooks", returns=CatalogueOut())
def list_event_types() -> Any:
    """List every type of event with its JSON Schema and an example."""
    return {"event_types": list(rules.CATALOGUE.values())}


def _shown(found: Endpoint, secret: str | None = None) -> queries.Shown:
    (shown,) = queries.show(session(), g.principal.organization_id, [found])
    return replace(shown, secret=secret)
