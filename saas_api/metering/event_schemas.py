"""Schemas of usage events. Events are validated one by one, so those of requests only describe them."""

from marshmallow import fields, validate

from saas_api.core.fields import PrefixedId, Quantity, StrictSchema, Text, Timestamp
from saas_api.metering.event_format import MAX_TEXT_LENGTH, SPEC_VERSION
from saas_api.metering.ingestion import MAX_EVENTS


class UsageEventIn(StrictSchema):
    """One CloudEvents 1.0 event that reports usage. `data` has the quantity, unless it is 1, and the properties."""

    specversion = fields.String(validate=validate.OneOf([SPEC_VERSION]))
    id = fields.String(required=True, validate=validate.Length(min=1, max=MAX_TEXT_LENGTH))
    source = fields.String(
        validate=validate.Length(min=1, max=MAX_TEXT_LENGTH),
        metadata={"description": "The name of the service if it is not given"},
    )
    type = fields.String(required=True, metadata={"description": "Code of the meter"})
    subject = fields.String(
        required=True, metadata={"description": "`org_...`, `key_...`, or the external id of the organization"}
    )
    time = fields.String(metadata={"description": "RFC 3339 with an offset; now if it is not given"})
    datacontenttype = fields.String()
    data = fields.Dict(metadata={"example": {"quantity": "1.5", "model": "large"}})


class UsageEventsIn(StrictSchema):
    """Events without the attributes that CloudEvents require."""

    events = fields.List(fields.Nested(UsageEventIn()), required=True, validate=validate.Length(max=MAX_EVENTS))


class UsageEventBatch(UsageEventIn):
    """A CloudEvents batch: a JSON array of events, at most 1,000."""


class EventProblemOut(StrictSchema):
    """Why one event was rejected; `index` is its place in the request, from 0."""

    index = fields.Integer()
    id = fields.String(allow_none=True)
    code = fields.String()
    message = fields.String()


class IngestionOut(StrictSchema):
    """What became of the events of a request."""

    accepted = fields.Integer()
    duplicates = fields.Integer(metadata={"description": "Recorded before; they count nothing"})
    rejected = fields.Integer()
    errors = fields.List(fields.Nested(EventProblemOut()))


class ReverseIn(StrictSchema):
    """Which event of this id is meant; the subject is needed only where several organizations have it."""

    source = Text(maximum=MAX_TEXT_LENGTH, load_default=None)
    subject = Text(maximum=MAX_TEXT_LENGTH, load_default=None)


class ReversalOut(StrictSchema):
    """The reversal of a usage event; its quantity is that of the event, negated."""

    id = PrefixedId("uev")
    reversal_of = PrefixedId("uev")
    event_id = fields.String()
    source = fields.String()
    organization_id = PrefixedId("org")
    meter = fields.String()
    quantity = Quantity()
    time = Timestamp(metadata={"description": "Of the event"})
    created_at = Timestamp()


class ExternalIdIn(StrictSchema):
    """The name by which services know an organization; null removes it."""

    external_id = Text(required=True, allow_none=True, maximum=MAX_TEXT_LENGTH)
