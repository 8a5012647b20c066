"""MessageIn, MessageOut, MessagesQuery."""

from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.fields import DateField, PageQuery, PrefixedId, StrictSchema, Text, Timestamp
from saas_api.messages import content
from saas_api.messages.content import MAX_EMAIL_LENGTH, MAX_SUBJECT_LENGTH

MessageStatus = ("queued", "sending", "sent", "delivered", "failed", "canceled")


class MessageIn(StrictSchema):
    """A message to one recipient."""

    to = Text(required=True, maximum=320)
    message = Text(required=True, maximum=MAX_EMAIL_LENGTH, multiline=True)
    type = fields.String(required=True, validate=validate.OneOf(("sms", "email")))
    subject = Text(load_default=None, maximum=MAX_SUBJECT_LENGTH)

    @ma.validates_schema(skip_on_field_errors=False)
    def _fits_its_type(self, data: dict[str, Any], **_options: Any) -> None:
        problems = {field: [reason] for field, reason in content.validation_problems(data)}
        if problems:
            raise ma.ValidationError(problems)

    @ma.post_load
    def _normalise(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        return {**data, "to": content.parse_recipient(data["to"], data["type"])}


class MessagesQuery(PageQuery):
    """Which messages."""

    status = fields.String(load_default=None, validate=validate.OneOf(MessageStatus))
    type = fields.String(load_default=None, validate=validate.OneOf(("sms", "email")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    to = Text(load_default=None, maximum=320)
    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)


class AcceptedMessageOut(StrictSchema):
    """A message that will be delivered or fail, and nothing else."""

    message_id = PrefixedId("msg")
    to = fields.String()
    type = fields.String()
    status = fields.String()
    segments = fields.Integer()
    cost = fields.String()
    currency = fields.String()
    usage_recorded = fields.Boolean()
    mode = fields.String()
    organization_id = PrefixedId("org")
    created_at = Timestamp()


class MessageOut(StrictSchema):
    """A message as it stands; its text is not shown again."""

    message_id = PrefixedId("msg", attribute="id")
    to = fields.String(attribute="recipient")
    type = fields.String(attribute="channel")
    subject = fields.String(allow_none=True)
    status = fields.String()
    segments = fields.Integer()
    cost = fields.Function(lambda message: _cost(message.cost))
    mode = fields.String()
    attempts = fields.Integer()
    error_code = fields.String(allow_none=True)
    created_at = Timestamp(attribute="accepted_at")
    sent_at = Timestamp(allow_none=True)
    delivered_at = fields.Function(
        lambda message: Timestamp().serialize("finished_at", message) if message.status == "delivered" else None
    )


def _cost(cost: Decimal | None) -> str | None:
    return None if cost is None else f"{cost.normalize():f}"
