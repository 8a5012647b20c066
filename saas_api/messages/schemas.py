"""The wire of messages."""

from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.http import Day, Id, PageQuery, Schema, Text, Timestamp
from saas_api.messages import rules

STATUSES = ("queued", "sending", "sent", "delivered", "failed", "canceled")


class SendIn(Schema):
    """A message to one recipient."""

    to = Text(required=True, maximum=320)
    message = Text(required=True, maximum=rules.LONGEST_EMAIL, multiline=True)
    type = fields.String(required=True, validate=validate.OneOf(("sms", "email")))
    subject = Text(load_default=None, maximum=rules.LONGEST_SUBJECT)

    @ma.validates_schema(skip_on_field_errors=False)
    def _fits_its_type(self, data: dict[str, Any], **_options: Any) -> None:
        problems = {field: [reason] for field, reason in rules.problems(data)}
        if problems:
            raise ma.ValidationError(problems)

    @ma.post_load
    def _normalise(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        return {**data, "to": rules.read_recipient(data["to"], data["type"])}


class MessagesQuery(PageQuery):
    """Which messages."""

    status = fields.String(load_default=None, validate=validate.OneOf(STATUSES))
    type = fields.String(load_default=None, validate=validate.OneOf(("sms", "email")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    to = Text(load_default=None, maximum=320)
    start_date = Day(load_default=None)
    end_date = Day(load_default=None)


class AcceptedOut(Schema):
    """A message that will be delivered or fail, and nothing else."""

    message_id = Id("msg")
    to = fields.String()
    type = fields.String()
    status = fields.String()
    segments = fields.Integer()
    cost = fields.String()
    currency = fields.String()
    usage_recorded = fields.Boolean()
    mode = fields.String()
    organization_id = Id("org")
    created_at = Timestamp()


class MessageOut(Schema):
    """A message as it stands; its text is not shown again."""

    message_id = Id("msg", attribute="id")
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
