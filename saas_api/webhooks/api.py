"""HTTP API of webhooks: endpoints, signing secrets, deliveries, events and event types."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.core import fields
from saas_api.core.access import FreshLoginRequired, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import TooManyRequests
from saas_api.core.web.endpoint import ViewResult, endpoint
from saas_api.webhooks import deliveries, endpoints, event_types, events, secrets, throttles
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
    EndpointsQuery,
    EndpointUpdate,
    EventOut,
    EventsQuery,
    EventTypesOut,
    QueuedCountOut,
    RecoverIn,
    ResendIn,
    ResentOut,
    RotatedSecretOut,
    RotateSecretIn,
    TestEventIn,
)

bp = Blueprint("webhooks", __name__)

_NOT_SHOWN_AGAIN = "Store the secret now: it is not shown again."


def _endpoint_view(endpoint: Endpoint, secret: str | None = None) -> EndpointView:
    (view,) = endpoints.list_endpoint_views(engine.session(), g.principal.organization_id, [endpoint])
    return replace(view, secret=secret)


@bp.post("/endpoints")
@require_permission("webhooks:write")
@endpoint(
    operation_id="create_endpoint",
    tag="webhooks",
    body=EndpointIn(),
    returns=CreatedEndpointOut(),
    status=201,
    errors=(FreshLoginRequired, TooManyEndpoints),
)
def create_endpoint(body: dict[str, Any]) -> Any:
    """Create an endpoint; its signing secret is shown this once."""
    created = endpoints.create_endpoint(engine.session(), g.principal, body)
    secret = secrets.create_secret(engine.session(), created)
    return ViewResult(_endpoint_view(created, secret), message=_NOT_SHOWN_AGAIN, is_secret=True)


@bp.get("/endpoints")
@require_permission("webhooks:write")
@endpoint(
    operation_id="list_endpoints",
    tag="webhooks",
    query=EndpointsQuery(),
    returns=fields.page_schema("endpoints", EndpointOut()),
)
def list_endpoints(query: dict[str, Any]) -> Any:
    """List endpoints with their health, newest first."""
    request, filters = PageRequest.from_query(query)
    return endpoints.list_endpoints(engine.session(), g.principal.organization_id, request, **filters)


@bp.get('/endpoints/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
@endpoint(operation_id="get_endpoint", tag="webhooks", returns=EndpointOut(), errors=(EndpointNotFound,))
def show_endpoint(endpoint_id: UUID) -> Any:
    """Show an endpoint with its health, never its secret."""
    return _endpoint_view(endpoints.get_endpoint(engine.session(), g.principal.organization_id, endpoint_id))


@bp.patch('/endpoints/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
@endpoint(
    operation_id="update_endpoint",
    tag="webhooks",
    body=EndpointUpdate(),
    returns=EndpointOut(),
    errors=(EndpointNotFound, FreshLoginRequired),
)
def update(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Change an endpoint; disabling cancels its pending deliveries, enabling resets its failures."""
    return _endpoint_view(endpoints.update_endpoint(engine.session(), g.principal, endpoint_id, body))


@bp.delete('/endpoints/<id("whe"):endpoint_id>')
@require_permission("webhooks:write")
@endpoint(operation_id="delete_endpoint", tag="webhooks", returns=EndpointOut(), errors=(EndpointNotFound,))
def delete_endpoint(endpoint_id: UUID) -> Any:
    """Delete an endpoint and cancel its pending deliveries."""
    return ViewResult(_endpoint_view(endpoints.delete(engine.session(), g.principal, endpoint_id)), message="Deleted.")


@bp.post('/endpoints/<id("whe"):endpoint_id>/rotate-secret')
@require_permission("webhooks:write")
@endpoint(
    operation_id="rotate_endpoint_secret",
    tag="webhooks",
    body=RotateSecretIn(),
    returns=RotatedSecretOut(),
    errors=(EndpointNotFound, FreshLoginRequired),
)
def rotate_secret(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Rotate the signing secret, shown this once; for `grace_seconds` the old one signs too."""
    secret, old_expires_at = secrets.rotate_secret(engine.session(), g.principal, endpoint_id, body["grace_seconds"])
    data = {"secret": secret, "old_expires_at": old_expires_at}
    return ViewResult(data, message=_NOT_SHOWN_AGAIN, is_secret=True)


@bp.post('/endpoints/<id("whe"):endpoint_id>/test')
@require_permission("webhooks:write")
@throttles.limit_test_events
@endpoint(
    operation_id="send_test_event",
    tag="webhooks",
    body=TestEventIn(),
    returns=DeliveryDetailOut(),
    status=202,
    errors=(EndpointNotFound, EndpointDisabled, TooManyRequests),
)
def send_test_event(endpoint_id: UUID, body: dict[str, Any]) -> Any:
    """Send an endpoint an example event of its mode; a live endpoint is sent `webhook.test` only."""
    delivery = deliveries.send_test_event(engine.session(), g.principal, endpoint_id, body["event_type"])
    return ViewResult(deliveries.get_delivery_view(engine.session(), delivery), message="Queued.")


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
    """Resend failed, canceled and unsent events of a time to an endpoint."""
    count = deliveries.recover_endpoint(engine.session(), g.principal, g.principal.organization_id, endpoint_id, **body)
    return ViewResult({"count": count}, message="Queued.")


@bp.get('/endpoints/<id("whe"):endpoint_id>/deliveries')
@require_permission("webhooks:read")
@endpoint(
    operation_id="list_deliveries",
    tag="webhooks",
    reads_replica=True,
    query=DeliveriesQuery(),
    returns=fields.page_schema("deliveries", DeliveryOut()),
    errors=(EndpointNotFound,),
)
def list_deliveries(endpoint_id: UUID, query: dict[str, Any]) -> Any:
    """List an endpoint's deliveries, newest first."""
    endpoint = endpoints.get_endpoint(engine.session(), g.principal.organization_id, endpoint_id)
    request, filters = PageRequest.from_query(query)
    return deliveries.list_deliveries(engine.session(), endpoint.organization_id, endpoint.id, request, **filters)


@bp.get('/deliveries/<id("whd"):delivery_id>')
@require_permission("webhooks:read")
@endpoint(operation_id="get_delivery", tag="webhooks", returns=DeliveryDetailOut(), errors=(DeliveryNotFound,))
def show_delivery(delivery_id: UUID) -> Any:
    """Show a delivery with its payload and every attempt."""
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
    """Send an event to the same endpoint again: a new delivery with the same webhook-id."""
    delivery = deliveries.resend_delivery(engine.session(), g.principal, delivery_id)
    return ViewResult(deliveries.get_delivery_view(engine.session(), delivery), message="Queued.")


@bp.post("/deliveries/resend")
@require_permission("webhooks:write")
@endpoint(operation_id="resend_deliveries", tag="webhooks", body=ResendIn(), returns=ResentOut(), status=202)
def resend_deliveries(body: dict[str, Any]) -> Any:
    """Send the events of up to 100 deliveries to their endpoints again, each once to an endpoint."""
    resent = deliveries.resend_deliveries(engine.session(), g.principal, body["delivery_ids"])
    return ViewResult(resent, message="Queued.")


@bp.get("/events")
@require_permission("webhooks:read")
@endpoint(
    operation_id="list_events",
    tag="webhooks",
    reads_replica=True,
    query=EventsQuery(),
    returns=fields.page_schema("events", EventOut()),
)
def list_events(query: dict[str, Any]) -> Any:
    """List events of the last 30 days, newest first."""
    request, filters = PageRequest.from_query(query)
    return events.list_events(engine.session(), g.principal.organization_id, request, **filters)


@bp.post('/events/<id("evt"):event_id>/replay')
@require_permission("webhooks:write")
@endpoint(operation_id="replay_event", tag="webhooks", returns=DeliveriesOut(), status=202, errors=(EventNotFound,))
def replay_event(event_id: UUID) -> Any:
    """Send an event again to every endpoint that is subscribed to its type."""
    delivery_ids = deliveries.replay_event(engine.session(), g.principal, event_id)
    views = deliveries.list_delivery_views(engine.session(), g.principal.organization_id, delivery_ids)
    return ViewResult({"event_id": event_id, "count": len(views), "deliveries": views}, message="Queued.")


@bp.get("/event-types")
@require_permission("webhooks:read")
@endpoint(operation_id="list_event_types", tag="webhooks", returns=EventTypesOut())
def list_event_types() -> Any:
    """List every event type with its JSON Schema and an example."""
    return {"event_types": event_types.list_types()}
