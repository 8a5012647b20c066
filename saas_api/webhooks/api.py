"""Endpoints, secrets, deliveries, events, event types."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.core import fields
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.errors import TooManyRequests
from saas_api.core.fields import PageQuery
from saas_api.core.limits import limiter
from saas_api.core.web.endpoint import Result, endpoint
from saas_api.webhooks import deliveries, endpoints, event_types, events, secrets
from saas_api.webhooks.deliveries import DeliveryNotFound, EventNotFound
from saas_api.webhooks.endpoints import EndpointDisabled, EndpointNotFound, EndpointView, TooManyEndpoints
from saas_api.webhooks.models import Endpoint
from saas_api.webhooks.schemas import (
    CreatedEndpointOut,
    DeliveriesOut,
    DeliveriesQuery,
    DeliveryDetailOut,
    DeliveryOut,
    EndpointIn,
    EndpointOut,
    EndpointUpdate,
    EventOut,
    EventsQuery,
    EventTypesOut,
    QueuedCountOut,
    RecoverIn,
    RotatedSecretOut,
    RotateSecretIn,
    TestEventIn,
)

bp = Blueprint("webhooks", __name__)


def _organization() -> str:
    return str(g.principal.organization_id)


@bp.post("/endpoints")
@require_permission("webhooks:write")
@endpoint(
    operation_id="create_endpoint",
    tag="webhooks",
    body=EndpointIn(),
    returns=CreatedEndpointOut(),
    status=201,
    errors=(TooManyEndpoints,),
)
def create_endpoint(body: dict[str, Any]) -> Any:
    """Make an endpoint; the secret that signs is shown this once."""
    made = endpoints.create(engine.session(), g.principal, body)
    secret = secrets.create_secret(engine.session(), made)
    return Result(_endpoint_view(made, secret), message="Store the secret now: it is not shown again.", is_secret=True)


@bp.get("/endpoints")
@require_permission("webhooks:write")
@endpoint(
    operation_id="list_endpoints",
    tag="webhooks",
    query=PageQuery(),
    returns=fields.page_schema("endpoints", EndpointOut()),
)
def list_endpoints(query: dict[str, Any]) -> Any:
    """List endpoints with their health, newest first."""
    return endpoints.list_endpoints(engine.session(), g.principal.organization_id, query)


@bp.get('/endpoints/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
@endpoint(operation_id="get_endpoint", tag="webhooks", returns=EndpointOut(), errors=(EndpointNotFound,))
def show_endpoint(endpoint_id: UUID) -> Any:
    """Show an endpoint with its health, never its secret."""
    return _endpoint_view(endpoints.get(engine.session(), g.principal.organization_id, endpoint_id))


@bp.patch('/endpoints/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
@endpoint(
    operation_id="update_endpoint",
    tag="webhooks",
    body=EndpointUpdate(),
    returns=EndpointOut(),
    errors=(EndpointNotFound,),
)
def update(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Change an endpoint; disabling cancels what waits for it, enabling forgets its failures."""
    return _endpoint_view(endpoints.update_endpoint(engine.session(), g.principal, endpoint_id, body))


@bp.delete('/endpoints/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
@endpoint(operation_id="delete_endpoint", tag="webhooks", returns=EndpointOut(), errors=(EndpointNotFound,))
def delete_endpoint(endpoint_id: UUID) -> Any:
    """Delete an endpoint; what waits for it is canceled."""
    return Result(_endpoint_view(endpoints.delete(engine.session(), g.principal, endpoint_id)), message="Deleted.")


@bp.post('/endpoints/<id("whe"):endpoint_id>/rotate-secret')
@require_permission("webhooks:write")
@endpoint(
    operation_id="rotate_endpoint_secret",
    tag="webhooks",
    body=RotateSecretIn(),
    returns=RotatedSecretOut(),
    errors=(EndpointNotFound,),
)
def rotate_secret(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Give an endpoint a new secret, shown this once; the old one signs beside it for `grace_seconds`."""
    secret, ends_at = secrets.rotate_secret(engine.session(), g.principal, endpoint_id, body["grace_seconds"])
    shown = {"secret": secret, "old_expires_at": ends_at}
    return Result(shown, message="Store the secret now: it is not shown again.", is_secret=True)


@bp.post('/endpoints/<id("whe"):endpoint_id>/test')
@require_permission("webhooks:write")
@limiter.limiter.shared_limit("20 per hour", scope="webhook-tests", key_func=_organization)
@endpoint(
    operation_id="send_test_event",
    tag="webhooks",
    body=TestEventIn(),
    returns=DeliveryDetailOut(),
    status=202,
    errors=(EndpointNotFound, EndpointDisabled, TooManyRequests),
)
def send_test_event(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an endpoint an example event, of mode "test"."""
    delivery = deliveries.send_test_event(engine.session(), g.principal, endpoint_id, body["event_type"])
    return Result(deliveries.get_delivery_view(engine.session(), delivery), message="Queued.")


@bp.post('/endpoints/<id("whe"):endpoint_id>/recover')
@require_permission("webhooks:write")
@endpoint(
    operation_id="recover_endpoint",
    tag="webhooks",
    body=RecoverIn(),
    returns=QueuedCountOut(),
    status=202,
    errors=(EndpointNotFound, EndpointDisabled),
)
def recover_endpoint(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an endpoint what it missed in a time: what failed, what was canceled, what was never tried."""
    count = deliveries.recover_endpoint(
        engine.session(), g.principal, (g.principal.organization_id, endpoint_id), **body
    )
    return Result({"count": count}, message="Queued.")


@bp.get('/endpoints/<id("whe"):endpoint_id>/deliveries')
@require_permission("webhooks:read")
@endpoint(
    operation_id="list_deliveries",
    tag="webhooks",
    query=DeliveriesQuery(),
    returns=fields.page_schema("deliveries", DeliveryOut()),
    errors=(EndpointNotFound,),
)
def list_deliveries(endpoint_id: UUID, query: dict[str, Any]) -> Any:
    """List an endpoint's deliveries, newest first."""
    found = endpoints.get(engine.session(), g.principal.organization_id, endpoint_id)
    return deliveries.list_deliveries(engine.session(), found.organization_id, found.id, query)


@bp.get('/deliveries/<id("whd"):delivery_id>')
@require_permission("webhooks:read")
@endpoint(operation_id="get_delivery", tag="webhooks", returns=DeliveryDetailOut(), errors=(DeliveryNotFound,))
def show_delivery(delivery_id: UUID) -> Any:
    """Show a delivery with what it carries and every attempt."""
    delivery = deliveries.get_delivery(engine.session(), g.principal.organization_id, delivery_id)
    return deliveries.get_delivery_view(engine.session(), delivery)


@bp.post('/deliveries/<id("whd"):delivery_id>/resend')
@require_permission("webhooks:write")
@endpoint(
    operation_id="resend_delivery",
    tag="webhooks",
    returns=DeliveryDetailOut(),
    status=202,
    errors=(DeliveryNotFound, EndpointDisabled),
)
def resend_delivery(delivery_id: UUID) -> Any:
    """Send an event to the same endpoint once more: a new delivery with the same webhook-id."""
    delivery = deliveries.resend_delivery(engine.session(), g.principal, delivery_id)
    return Result(deliveries.get_delivery_view(engine.session(), delivery), message="Queued.")


@bp.get("/events")
@require_permission("webhooks:read")
@endpoint(
    operation_id="list_events", tag="webhooks", query=EventsQuery(), returns=fields.page_schema("events", EventOut())
)
def list_events(query: dict[str, Any]) -> Any:
    """List events of the last 30 days, newest first."""
    return events.list_events(engine.session(), g.principal.organization_id, query)


@bp.post('/events/<id("evt"):event_id>/replay')
@require_permission("webhooks:write")
@endpoint(operation_id="replay_event", tag="webhooks", returns=DeliveriesOut(), status=202, errors=(EventNotFound,))
def replay_event(event_id: UUID) -> Any:
    """Send an event anew to every endpoint that wants its type."""
    ids = deliveries.replay_event(engine.session(), g.principal, event_id)
    made = deliveries.list_delivery_views(engine.session(), g.principal.organization_id, ids)
    return Result({"event_id": event_id, "count": len(made), "deliveries": made}, message="Queued.")


@bp.get("/event-types")
@require_permission("webhooks:read")
@endpoint(operation_id="list_event_types", tag="webhooks", returns=EventTypesOut())
def list_event_types() -> Any:
    """List every type of event with its JSON Schema and an example."""
    return {"event_types": event_types.list_types()}


def _endpoint_view(found: Endpoint, secret: str | None = None) -> EndpointView:
    (shown,) = endpoints.list_endpoint_views(engine.session(), g.principal.organization_id, [found])
    return replace(shown, secret=secret)
