"""Schemas of endpoints, deliveries and events."""

import uuid
from enum import StrEnum
from typing import Any

import marshmallow as ma
import orjson
from marshmallow import fields, validate

from saas_api.core import domain, ids
from saas_api.core.access import KeyMode
from saas_api.core.fields import (
    Name,
    OneOfRegistered,
    PageQuery,
    PrefixedId,
    StrictInteger,
    StrictSchema,
    Text,
    Timestamp,
)
from saas_api.webhooks import event_types
from saas_api.webhooks.event_types import TEST_EVENT_TYPE
from saas_api.webhooks.models import AttemptOutcome, DeliveryCause, DeliveryState, EndpointStatus, PayloadFormat

DAY_SECONDS, WEEK_SECONDS = 86_400, 604_800


def event_type_field(**options: Any) -> fields.String:
    """The name of a registered event type."""
    is_registered = OneOfRegistered(event_types.names(), error="Not a type of event.")
    return fields.String(validate=is_registered, metadata={"x-enum": "EventType"}, **options)


def _event_types(**options: Any) -> fields.List:
    return fields.List(event_type_field(), allow_none=True, validate=validate.Length(min=1, max=100), **options)


def _enum(enum: type[StrEnum], **options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(list(enum)), **options)


def mode_field(**options: Any) -> fields.String:
    """The mode of an event or an endpoint."""
    return _enum(KeyMode, **options)


class AnyId(fields.Field[uuid.UUID]):
    """The id of an object of any type, with its prefix."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> uuid.UUID:
        if not (isinstance(value, str) and ids.is_public_id(value, *domain.registry.id_prefixes)):
            raise ma.ValidationError("Enter a whole ID, such as evt_018f3c6a9d2e7a018b4c5d6e7f809101.")
        return uuid.UUID(hex=value.partition("_")[2])


class EndpointIn(StrictSchema):
    """A new endpoint, for the events of one mode.

    Without `event_types` it receives every type that needs no explicit subscription.
    """

    url = Text(required=True, maximum=2048)
    mode = mode_field(load_default=KeyMode.LIVE)
    event_types = _event_types(load_default=None)
    description = Name(load_default="", minimum=0, maximum=200)
    payload = _enum(PayloadFormat, load_default=PayloadFormat.FULL)


class EndpointUpdate(StrictSchema):
    """Changes of an endpoint; a field that is left out keeps its value."""

    url = Text(maximum=2048)
    event_types = _event_types()
    description = Name(minimum=0, maximum=200)
    payload = _enum(PayloadFormat)
    is_enabled = fields.Boolean(truthy={True}, falsy={False})


class RotateSecretIn(StrictSchema):
    """Grace period of the previous secret, in seconds."""

    grace_seconds = StrictInteger(minimum=0, maximum=WEEK_SECONDS, load_default=DAY_SECONDS)


class TestEventIn(StrictSchema):
    """Event type of a test event."""

    event_type = event_type_field(load_default=TEST_EVENT_TYPE)


class RecoverIn(StrictSchema):
    """Time range of a recovery, the end excluded, and which deliveries to recover."""

    since = Timestamp(required=True)
    until = Timestamp(load_default=None, allow_none=True)
    which = fields.String(data_key="only", load_default="all", validate=validate.OneOf(("failed", "missing", "all")))


class DeliveriesQuery(PageQuery):
    """Filters of a list of deliveries."""

    status = _enum(DeliveryState, load_default=None)
    event_type = event_type_field(load_default=None)
    event_id = PrefixedId("evt", load_default=None)


class ResendIn(StrictSchema):
    """Deliveries to resend; their order and repeats do not matter."""

    delivery_ids = fields.List(PrefixedId("whd"), required=True, validate=validate.Length(min=1, max=100))


class EndpointsQuery(PageQuery):
    """Filters of a list of endpoints."""

    mode = mode_field(load_default=None)


class EventsQuery(PageQuery):
    """Filters of a list of events."""

    mode = mode_field(load_default=None)
    event_type = event_type_field(load_default=None)
    object_id = AnyId(load_default=None, metadata={"type": "string", "description": "ID of the event's object."})


class EndpointHealthOut(StrictSchema):
    """Deliveries of the last 24 hours, with the response times of the latest 500 of them, and the latest results."""

    delivered_24h = fields.Integer()
    failed_24h = fields.Integer()
    success_rate_24h = fields.Float(allow_none=True)
    average_response_ms = fields.Integer(attribute="average_ms", allow_none=True)
    p95_response_ms = fields.Integer(attribute="p95_ms", allow_none=True)
    waiting = fields.Integer()
    consecutive_failures = fields.Integer()
    first_failure_at = Timestamp(allow_none=True)
    last_success_at = Timestamp(allow_none=True)


class EndpointOut(StrictSchema):
    """An endpoint without its secret."""

    id = PrefixedId("whe", attribute="endpoint.id")
    url = fields.String(attribute="endpoint.url")
    mode = mode_field(attribute="endpoint.mode")
    description = fields.String(attribute="endpoint.description")
    event_types = fields.List(fields.String(), attribute="endpoint.event_types", allow_none=True)
    payload = _enum(PayloadFormat, attribute="endpoint.payload")
    status = _enum(EndpointStatus, attribute="endpoint.status")
    is_enabled = fields.Boolean()
    created_at = Timestamp(attribute="endpoint.created_at")
    health = fields.Nested(EndpointHealthOut())


class EndpointEventOut(EndpointOut):
    """Event data of an endpoint, which other endpoints receive: the URL comes without its query."""

    class Meta(EndpointOut.Meta):
        """Leave out the health, which changes with every delivery."""

        exclude = ("health",)

    url = fields.String(attribute="redacted_url")


class CreatedEndpointOut(EndpointOut):
    """A new endpoint with its signing secret, which no other response contains."""

    secret = fields.String()


class RotatedSecretOut(StrictSchema):
    """A new signing secret, which no other response contains, and the expiry of the previous one."""

    secret = fields.String()
    old_expires_at = Timestamp()


class QueuedCountOut(StrictSchema):
    """Number of queued deliveries."""

    count = fields.Integer()


class DeliveryOut(StrictSchema):
    """A delivery."""

    id = PrefixedId("whd", attribute="delivery.id")
    endpoint_id = PrefixedId("whe", attribute="delivery.endpoint_id")
    event_id = PrefixedId("evt", attribute="delivery.event_id")
    event_type = fields.String(attribute="event.type")
    mode = mode_field(attribute="event.mode")
    cause = _enum(DeliveryCause, attribute="delivery.cause")
    status = _enum(DeliveryState, attribute="delivery.state")
    attempt_count = fields.Integer(attribute="delivery.attempts")
    next_attempt_at = Timestamp(attribute="delivery.next_at", allow_none=True)
    last_status_code = fields.Integer(attribute="delivery.last_status", allow_none=True)
    error_code = fields.String(attribute="delivery.error_code", allow_none=True)
    created_at = Timestamp(attribute="delivery.created_at")
    finished_at = Timestamp(attribute="delivery.finished_at", allow_none=True)


class AttemptOut(StrictSchema):
    """One attempt of a delivery, with the request as it was sent; its body is the payload in `payload_format`."""

    number = fields.Integer(attribute="n")
    outcome = _enum(AttemptOutcome)
    status_code = fields.Integer(allow_none=True)
    duration_ms = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)
    payload_format = _enum(PayloadFormat, allow_none=True)
    request_headers = fields.Dict(keys=fields.String(), values=fields.String(), allow_none=True)
    response_excerpt = fields.String(attribute="response_snippet", allow_none=True)
    started_at = Timestamp()
    ended_at = Timestamp(allow_none=True)


class DeliveryDetailOut(DeliveryOut):
    """A delivery with its payload and every attempt."""

    payload = fields.Dict(keys=fields.String())
    attempts = fields.List(fields.Nested(AttemptOut()))


class DeliveriesOut(StrictSchema):
    """Deliveries of a replayed event."""

    event_id = PrefixedId("evt")
    count = fields.Integer()
    deliveries = fields.List(fields.Nested(DeliveryOut()))


class SkippedDeliveryOut(StrictSchema):
    """A delivery that was not resent."""

    delivery_id = PrefixedId("whd")
    reason = fields.String(validate=validate.OneOf(("not_found", "endpoint_disabled")))


class ResentOut(StrictSchema):
    """New deliveries, and those of the request that were not resent."""

    count = fields.Integer()
    deliveries = fields.List(fields.Nested(DeliveryOut()))
    skipped = fields.List(fields.Nested(SkippedDeliveryOut()))


class TestEventOut(StrictSchema):
    """Event data of the test event."""

    id = PrefixedId("tst")
    message = fields.String()


class EventOut(StrictSchema):
    """An event with its payload."""

    id = PrefixedId("evt")
    type = fields.String()
    mode = mode_field()
    created_at = Timestamp()
    payload = fields.Function(lambda event: orjson.loads(event.payload), metadata={"type": "object"})


EventTypeOut = StrictSchema.from_dict(
    {
        "type": fields.String(attribute="name"),
        "description": fields.String(),
        "schema": fields.Dict(keys=fields.String()),
        "example": fields.Dict(keys=fields.String()),
    },
    name="EventTypeOut",
)
"""An event type with its JSON Schema and an example of the payload."""


class EventTypesOut(StrictSchema):
    """Every event type."""

    event_types = fields.List(fields.Nested(EventTypeOut()))
