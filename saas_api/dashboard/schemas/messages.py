"""Forms and filters of the pages about messages."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.http import Day, Id, Schema, Text
from saas_api.messages import rules

STATUSES = ("queued", "sending", "sent", "delivered", "failed", "canceled")
RANGES = ("24h", "7d", "30d", "period", "last_period", "custom")


class TrialForm(Schema):
    """A test message."""

    type = fields.String(load_default="sms", validate=validate.OneOf(("sms", "email")))
    to = Text(required=True, maximum=320, error_messages={"required": "Say whom it goes to."})
    subject = Text(load_default=None, maximum=rules.LONGEST_SUBJECT)
    message = Text(
        required=True, maximum=rules.LONGEST_EMAIL, multiline=True, error_messages={"required": "Write a text."}
    )

    @ma.validates_schema(skip_on_field_errors=False)
    def _fits_its_type(self, data: dict[str, Any], **_options: Any) -> None:
        problems = {field: [reason] for field, reason in rules.problems(data)}
        if problems:
            raise ma.ValidationError(problems)

    @ma.post_load
    def _normalise(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        return {**data, "to": rules.read_recipient(data["to"], data["type"])}


class DraftForm(Schema):
    """A test message that is being written."""

    type = fields.String(load_default="sms", validate=validate.OneOf(("sms", "email")))
    to = fields.String(load_default="")
    subject = fields.String(load_default="")
    message = fields.String(load_default="", validate=validate.Length(max=rules.LONGEST_EMAIL))


class MessageFilters(Schema):
    """Which messages."""

    status = fields.String(load_default=None, validate=validate.OneOf(STATUSES))
    type = fields.String(load_default=None, validate=validate.OneOf(("sms", "email")))
    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    key = Id("key", load_default=None)
    to = Text(load_default=None, maximum=320)
    range = fields.String(load_default=None, validate=validate.OneOf(RANGES))
    start_date = Day(load_default=None)
    end_date = Day(load_default=None)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))
    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))


class NoFields(Schema):
    """A form that is one button."""
