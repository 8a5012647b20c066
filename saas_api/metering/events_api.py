"""HTTP API of usage events, for services."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote
from uuid import UUID

from flask import Blueprint, g, request

from saas_api.accounts import organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.organizations import ExternalIdTaken, OrganizationNotFound
from saas_api.accounts.schemas import OrganizationEnvelope
from saas_api.core import idempotency
from saas_api.core.access import require_service
from saas_api.core.errors import BadRequest, UnsupportedMediaType, ValidationFailed
from saas_api.core.idempotency import IdempotencyKeyInvalid
from saas_api.core.web import http
from saas_api.core.web.endpoint import endpoint
from saas_api.metering import event_format, ingestion, reversals
from saas_api.metering.event_schemas import (
    ExternalIdIn,
    IngestionOut,
    ReversalOut,
    ReverseIn,
    UsageEventBatch,
    UsageEventIn,
    UsageEventsIn,
)
from saas_api.metering.ingestion import MAX_EVENTS, Ingestion
from saas_api.metering.reversals import (
    AlreadyReversed,
    AmbiguousEvent,
    EventArchived,
    EventReference,
    Reversal,
    UsageEventNotFound,
)

bp = Blueprint("metering_events", __name__)

MAX_BATCH_BYTES = 1_048_576
_EVENT_TYPE, _BATCH_TYPE = "application/cloudevents+json", "application/cloudevents-batch+json"
_HEADER_PREFIX = "ce-"


@bp.post("/events")
@require_service()
@endpoint(
    operation_id="record_events",
    tag="events",
    consumes={
        "application/json": UsageEventsIn(),
        _EVENT_TYPE: UsageEventIn(),
        _BATCH_TYPE: UsageEventBatch(many=True),
    },
    returns=IngestionOut(),
)
def record_events() -> Ingestion:
    """Record usage after the fact, each event once.

    A batch has at most 1,000 events and 1 MiB. What is acceptable is committed when the answer comes; `errors` says
    what is not, and why. Repeat a request without an answer: events that were recorded count nothing.
    """
    events, is_cloud_event = _read_events()
    if len(events) > MAX_EVENTS:
        raise ValidationFailed.at_field("events", f"At most {MAX_EVENTS} events.")
    result = ingestion.ingest(events, g.service, is_cloud_event=is_cloud_event)
    if result.errors:
        g.service_call_code = "REJECTED"
    return result


@bp.post("/events/<path:event_id>/reverse")
@require_service()
@endpoint(
    operation_id="reverse_event",
    tag="events",
    body=ReverseIn(),
    returns=ReversalOut(),
    errors=(UsageEventNotFound, AmbiguousEvent, AlreadyReversed, EventArchived, IdempotencyKeyInvalid),
)
def reverse_event(event_id: str, body: dict[str, Any]) -> Reversal:
    """Take a usage event back, once.

    The event is named by its own id or by ours, `uev_...`, and by its source, which is the name of the service if it is
    not given. A repeat with the same Idempotency-Key gets the same reversal.
    """
    reference = EventReference(event_id, body["source"] or g.service.name, body["subject"])
    return reversals.reverse_event(reference, idempotency.parse_key(request.headers.get("Idempotency-Key")))


@bp.put('/organizations/<id("org"):organization_id>/external-id')
@require_service()
@endpoint(
    operation_id="set_external_id",
    tag="organizations",
    body=ExternalIdIn(),
    returns=OrganizationEnvelope(),
    errors=(OrganizationNotFound, ExternalIdTaken),
)
def set_external_id(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Name an organization as the services know it; events may then use the name as their subject."""
    actor = Actor("system", g.service.name)
    return {"organization": organizations.set_external_id(organization_id, body["external_id"], actor)}


def _read_events() -> tuple[Sequence[Any], bool]:
    """The events of this request, and whether they must be CloudEvents.

    raises: UnsupportedMediaType, EncodedBody, PayloadTooLarge, BadRequest, ValidationFailed
    """
    is_in_headers = f"{_HEADER_PREFIX}specversion" in request.headers
    if request.mimetype not in ("application/json", _EVENT_TYPE, _BATCH_TYPE):
        raise UnsupportedMediaType("Send application/json, application/cloudevents+json or a batch of those.")
    raw = http.read_body(request, MAX_BATCH_BYTES)
    body = event_format.parse_body(raw) if raw or not is_in_headers else None
    if request.mimetype == _EVENT_TYPE:
        return [body], True
    if request.mimetype == _BATCH_TYPE:
        if not isinstance(body, list):
            raise BadRequest("A batch of CloudEvents is a JSON array.")
        return body, True
    if is_in_headers:
        return [{**_read_header_attributes(), "data": body}], True
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    # The answer is UTF-8, which has no lone surrogates.
    unknown = [(name.encode(errors="replace").decode(), "Unknown field.") for name in body if name != "events"]
    if unknown or not isinstance(body.get("events"), list):
        raise ValidationFailed.from_fields(unknown or [("events", "A list of events is required.")])
    return body["events"], False


def _read_header_attributes() -> dict[str, str]:
    """Attributes of an event in binary mode: percent-encoded, in headers that begin with `ce-`."""
    return {
        name.lower().removeprefix(_HEADER_PREFIX): unquote(value)
        for name, value in request.headers.items()
        if name.lower().startswith(_HEADER_PREFIX)
    }
