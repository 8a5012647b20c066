"""Forms and filters of the webhook pages."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.http import Id, QueryInt, Schema, Text
from saas_api.webhooks import rules

LIMIT = 25
DELIVERY_STATUSES = ("queued", "sending", "delivered", "failed", "canceled")
GRACES = {
    0: "now: end the old secret at once",
    3_600: "1 hour",
    86_400: "24 hours",
    604_800: "7 days",
}
"""For how many seconds the secret before goes on signing."""
SPANS = {
    "1h": ("the last hour", timedelta(hours=1)),
    "24h": ("the last 24 hours", timedelta(hours=24)),
    "7d": ("the last 7 days", timedelta(days=7)),
    "30d": ("the last 30 days", timedelta(days=30)),
}
"""Times an endpoint can be sent what it missed in."""
KINDS_OF_MISSED = {
    "all": "everything it did not get",
    "failed": "only what was tried in vain or canceled",
    "missing": "only what was never tried",
}


class LocalTime(fields.String):
    """A time as a browser's field for it gives it: without a zone."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        try:
            instant = datetime.fromisoformat(super()._deserialize(value, attr, data, **options))
        except ValueError as cause:
            raise ma.ValidationError("Not a time like 2026-03-31T14:30.") from cause
        if instant.tzinfo is not None or not 2 <= instant.year <= 9998:
            raise ma.ValidationError("Not a time like 2026-03-31T14:30.")
        return instant


def in_zone(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant a local time means; of an hour that comes twice the first."""
    return local.replace(tzinfo=zone).astimezone(UTC)


def _type(**options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(list(rules.CATALOGUE), error="Not a type of event."), **options)


class EndpointForm(Schema):
    """Where to send events, and which."""

    url = Text(required=True, maximum=2048, error_messages={"required": "Enter the address to send events to."})
    description = Text(load_default="", maximum=200)
    event_types = fields.List(_type(), load_default=list)
    payload = fields.String(load_default="full", validate=validate.OneOf(("full", "thin")))


class RollForm(Schema):
    """How long the secret before goes on signing."""

    grace_seconds = QueryInt(load_default=86_400, maximum=604_800)


class TestForm(Schema):
    """Which example to send."""

    event_type = _type(load_default=rules.TEST)


class RecoverForm(Schema):
    """Which time, and what of it.

    since: a local time, which goes before the span
    """

    span = fields.String(load_default="24h", validate=validate.OneOf(list(SPANS)))
    since = LocalTime(load_default=None)
    which = fields.String(load_default="all", validate=validate.OneOf(list(KINDS_OF_MISSED)))


class EnableForm(Schema):
    """Whether to send what was missed meanwhile."""

    recover = fields.Boolean(load_default=False)


class TypedForm(Schema):
    """What somebody typed to show that they mean it."""

    typed = fields.String(load_default="", validate=validate.Length(max=300))


class NothingForm(Schema):
    """A button alone."""


class DeliveriesFilter(Schema):
    """Which deliveries."""

    endpoint_id = Id("whe", load_default=None)
    status = fields.String(load_default=None, validate=validate.OneOf(DELIVERY_STATUSES))
    event_type = _type(load_default=None)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))


class EventsFilter(Schema):
    """Which events."""

    event_type = _type(load_default=None)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))


class TypeFilter(Schema):
    """Which type of event is shown in full."""

    type = _type(load_default=None)
