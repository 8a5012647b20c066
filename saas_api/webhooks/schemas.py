"""EndpointIn/Out, DeliveryOut, AttemptOut, EventOut."""

from typing import Any

import orjson
from marshmallow import fields, validate

from saas_api.core.fields import OneOfRegistered, PageQuery, PrefixedId, StrictInteger, StrictSchema, Text, Timestamp
from saas_api.webhooks import event_types
from saas_api.webhooks.event_types import TEST_EVENT_TYPE

DELIVERY_STATUSES = ("queued", "sending", "delivered", "failed", "canceled")
DAY_SECONDS, WEEK_SECONDS = 86_400, 604_800


def event_type_field(**options: Any) -> fields.String:
    """The name of a registered event type."""
    return fields.String(validate=OneOfRegistered(event_types.names(), error="Not a type of event."), **options)


def _types(**options: Any) -> fields.List:
    return fields.List(event_type_field(), allow_none=True, validate=validate.Length(min=1, max=100), **options)


def _payload(**options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(("full", "thin")), **options)


class EndpointIn(StrictSchema):
    """Where to send events, and which."""

    url = Text(required=True, maximum=2048)
    event_types = _types(load_default=None)
    description = Text(load_default="", minimum=0, maximum=200)
    payload = _payload(load_default="full")


class EndpointUpdate(StrictSchema):
    """What is to be otherwise; what is not named stays."""

    url = Text(maximum=2048)
    event_types = _types()
    description = Text(minimum=0, maximum=200)
    payload = _payload()
    is_enabled = fields.Boolean(truthy={True}, falsy={False})


class RotateSecretIn(StrictSchema):
    """How long the secret before goes on signing."""

    grace_seconds = StrictInteger(minimum=0, maximum=WEEK_SECONDS, load_default=DAY_SECONDS)


class TestEventIn(StrictSchema):
    """Which example to send."""

    event_type = event_type_field(load_default=TEST_EVENT_TYPE)


class RecoverIn(StrictSchema):
    """Which time, and what of it."""

    since = Timestamp(required=True)
    until = Timestamp(load_default=None, allow_none=True)
    which = fields.String(data_key="only", load_default="all", validate=validate.OneOf(("failed", "missing", "all")))


class DeliveriesQuery(PageQuery):
    """Which deliveries."""

    status = fields.String(load_default=None, validate=validate.OneOf(DELIVERY_STATUSES))
    event_type = event_type_field(load_default=None)


class EventsQuery(PageQuery):
    """Which events."""

    event_type = event_type_field(load_default=None)


class EndpointHealthOut(StrictSchema):
    """How an endpoint has been doing."""

    delivered_24h = fields.Integer()
    failed_24h = fields.Integer()
    success_rate_24h = fields.Float(allow_none=True)
    waiting = fields.Integer()
    consecutive_failures = fields.Integer()
    first_failure_at = Timestamp(allow_none=True)
    last_success_at = Timestamp(allow_none=True)


class EndpointOut(StrictSchema):
    """An endpoint, never its secret."""

    id = PrefixedId("whe", attribute="endpoint.id")
    url = fields.String(attribute="endpoint.url")
    description = fields.String(attribute="endpoint.description")
    event_types = fields.List(fields.String(), attribute="endpoint.event_types", allow_none=True)
    payload = fields.String(attribute="endpoint.payload")
    status = fields.String(attribute="endpoint.status")
    is_enabled = fields.Boolean()
    created_at = Timestamp(attribute="endpoint.created_at")
    health = fields.Nested(EndpointHealthOut())


class CreatedEndpointOut(EndpointOut):
    """A new endpoint with its secret, shown this once."""

    secret = fields.String()


class RotatedSecretOut(StrictSchema):
    """A new secret, shown this once, and the end of the one before."""

    secret = fields.String()
    old_expires_at = Timestamp()


class QueuedCountOut(StrictSchema):
    """How many deliveries were queued."""

    count = fields.Integer()


class DeliveryOut(StrictSchema):
    """An event on its way to an endpoint, or at its end."""

    id = PrefixedId("whd", attribute="delivery.id")
    endpoint_id = PrefixedId("whe", attribute="delivery.endpoint_id")
    event_id = PrefixedId("evt", attribute="delivery.event_id")
    event_type = fields.String(attribute="event.type")
    cause = fields.String(attribute="delivery.cause")
    status = fields.String(attribute="delivery.status")
    attempt_count = fields.Integer(attribute="delivery.attempts")
    next_attempt_at = Timestamp(attribute="delivery.next_at", allow_none=True)
    last_status_code = fields.Integer(attribute="delivery.last_status", allow_none=True)
    error_code = fields.String(attribute="delivery.error_code", allow_none=True)
    created_at = Timestamp(attribute="delivery.created_at")
    finished_at = Timestamp(attribute="delivery.finished_at", allow_none=True)


class AttemptOut(StrictSchema):
    """One try."""

    number = fields.Integer(attribute="n")
    outcome = fields.String()
    status_code = fields.Integer(allow_none=True)
    duration_ms = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)
    response_excerpt = fields.String(attribute="response_snippet", allow_none=True)
    started_at = Timestamp()
    ended_at = Timestamp(allow_none=True)


class DeliveryDetailOut(DeliveryOut):
    """A delivery with what it carries and every try."""

    payload = fields.Dict(keys=fields.String())
    attempts = fields.List(fields.Nested(AttemptOut()))


class DeliveriesOut(StrictSchema):
    """The deliveries of a replay."""

    event_id = PrefixedId("evt")
    count = fields.Integer()
    deliveries = fields.List(fields.Nested(DeliveryOut()))


class EndpointEventOut(StrictSchema):
    """Event data of an endpoint."""

    id = PrefixedId("whe", attribute="endpoint.id")
    status = fields.String(attribute="endpoint.status")
    url = fields.String(attribute="redacted_url")


class TestEventOut(StrictSchema):
    """Event data of the test event."""

    id = PrefixedId("tst")
    message = fields.String()


class EventOut(StrictSchema):
    """Something that happened, as it is sent."""

    id = PrefixedId("evt")
    type = fields.String()
    created_at = Timestamp()
    payload = fields.Function(lambda event: orjson.loads(event.payload))


EventTypeOut = StrictSchema.from_dict(
    {
        "type": fields.String(attribute="name"),
        "description": fields.String(),
        "schema": fields.Dict(keys=fields.String()),
        "example": fields.Dict(keys=fields.String()),
    },
    name="EventTypeOut",
)
"""A type of event."""


class EventTypesOut(StrictSchema):
    """Every type of event."""

    event_types = fields.List(fields.Nested(EventTypeOut()))
