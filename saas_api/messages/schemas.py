"""Shapes of messages in requests, responses and event data."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.access import KeyMode
from saas_api.core.fields import DateField, PageQuery, PrefixedId, Quantity, StrictSchema, Text, Timestamp
from saas_api.messages import content
from saas_api.messages.content import MAX_EMAIL_LENGTH, MAX_SMS_LENGTH, MAX_SUBJECT_LENGTH, Channel, SmsEncoding
from saas_api.messages.models import MessageStatus

MAX_MESSAGES_AT_ONCE = 100
_is_channel = validate.OneOf(list(Channel))
_is_status = validate.OneOf(list(MessageStatus))
_is_mode = validate.OneOf(list(KeyMode))


class MessageIn(StrictSchema):
    """A message to one recipient."""

    to = Text(required=True, maximum=320)
    message = Text(required=True, maximum=MAX_EMAIL_LENGTH, multiline=True)
    type = fields.String(required=True, validate=_is_channel)
    subject = Text(load_default=None, maximum=MAX_SUBJECT_LENGTH)
    smart_encoding = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "of an SMS: replace typographic quotes, dashes and spaces that double its segments"},
    )

    @ma.validates_schema(skip_on_field_errors=False)
    def _fits_its_type(self, data: dict[str, Any], **_options: Any) -> None:
        problems = {field: [reason] for field, reason in content.validation_problems(data)}
        if problems:
            raise ma.ValidationError(problems)

    @ma.post_load
    def _normalise(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        text = data["message"]
        if data.pop("smart_encoding") and data["type"] == Channel.SMS:
            text = content.replace_typographic_characters(text)
        if data["type"] == Channel.SMS and len(text) > MAX_SMS_LENGTH:  # an ellipsis becomes three dots
            raise ma.ValidationError(content.TOO_LONG, "message")
        return {**data, "message": text, "to": content.parse_recipient(data["to"], data["type"])}


class MessagesQuery(PageQuery):
    """Filters of the list of messages."""

    status = fields.String(load_default=None, validate=_is_status)
    type = fields.String(load_default=None, validate=_is_channel)
    mode = fields.String(load_default=None, validate=_is_mode)
    to = Text(load_default=None, maximum=320, metadata={"description": "a number or an address, as it is sent to"})
    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)

    @ma.post_load
    def _normalise(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        if data["to"] is None:
            return data
        channel = data["type"] or (Channel.EMAIL if "@" in data["to"] else Channel.SMS)
        try:
            return {**data, "to": content.parse_recipient(data["to"], channel)}
        except ValueError as cause:
            raise ma.ValidationError(str(cause), "to") from cause


class AcceptedMessageOut(StrictSchema):
    """An accepted message. It will be delivered or fail; it is never lost."""

    message_id = PrefixedId("msg")
    to = fields.String()
    type = fields.String()
    status = fields.String()
    segments = fields.Integer()
    encoding = fields.String(allow_none=True, validate=validate.OneOf(list(SmsEncoding)))
    non_gsm_character = fields.String(
        allow_none=True, metadata={"description": "the first character because of which the encoding is UCS-2"}
    )
    cost = fields.String()
    currency = fields.String()
    usage_recorded = fields.Boolean()
    mode = fields.String()
    organization_id = PrefixedId("org")
    created_at = Timestamp()


class MessageOut(StrictSchema):
    """A message without its text: in the API, in exports and as event data."""

    message_id = PrefixedId("msg", attribute="id")
    to = fields.String(attribute="recipient")
    type = fields.String(attribute="channel", validate=_is_channel)
    subject = fields.String(allow_none=True)
    status = fields.String(validate=_is_status)
    segments = fields.Integer()
    cost = Quantity(allow_none=True)
    currency = fields.String()
    mode = fields.String(validate=_is_mode)
    attempts = fields.Integer()
    error_code = fields.String(allow_none=True)
    created_at = Timestamp(attribute="accepted_at")
    sent_at = Timestamp(allow_none=True)
    delivered_at = Timestamp(allow_none=True)


class CancelMessagesIn(StrictSchema):
    """Messages to cancel; their order and repeats do not matter."""

    message_ids = fields.List(
        PrefixedId("msg"), required=True, validate=validate.Length(min=1, max=MAX_MESSAGES_AT_ONCE)
    )


class SkippedMessageOut(StrictSchema):
    """A message that was not canceled."""

    message_id = PrefixedId("msg")
    reason = fields.String(validate=validate.OneOf(("not_found", "not_cancelable")))


class CanceledMessagesOut(StrictSchema):
    """Canceled messages, and those of the request that were not canceled."""

    count = fields.Integer()
    messages = fields.List(fields.Nested(MessageOut()))
    skipped = fields.List(fields.Nested(SkippedMessageOut()))
