"""Forms and filters of the pages about API keys."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.api_keys import rules
from saas_api.core.access import SCOPES
from saas_api.core.fields import OneOfRegistered
from saas_api.core.http import Day, QueryInt, Schema, Text

RATE_MAXIMUM = 1_000_000
NETWORKS = 50
PRESETS = {"all": None, "send": ["messages:write"], "read": ["messages:read", "usage:read"]}
EXPIRY_DAYS = {"30": 30, "90": 90, "365": 365}
GRACES = {"0": 0, "3600": 3_600, "86400": 86_400, "604800": 604_800}


class Networks(fields.String):
    """Addresses and networks as people write them down: one a line, or with commas between."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        lines = super()._deserialize(value, attr, data, **options).replace(",", "\n").split()
        if len(lines) > NETWORKS:
            raise ma.ValidationError(f"At most {NETWORKS} networks.")
        try:
            return [rules.read_network(line) for line in lines]
        except ValueError as problem:
            raise ma.ValidationError(str(problem)) from problem


class KeyChangeForm(Schema):
    """What a key is called and what it may do."""

    name = Text(required=True, maximum=100, error_messages={"required": "Give the key a name."})
    scopes = fields.List(
        fields.String(validate=OneOfRegistered(SCOPES)),
        validate=validate.Length(min=1, error="Choose at least one scope."),
    )
    allowed_ips = Networks(load_default=list)
    rate_limit_per_minute = QueryInt(minimum=1, maximum=RATE_MAXIMUM, load_default=None)


class KeyForm(KeyChangeForm):
    """A new key."""

    mode = fields.String(load_default="test", validate=validate.OneOf(("live", "test")))
    expiry = fields.String(load_default="never", validate=validate.OneOf(("never", *EXPIRY_DAYS, "date")))
    expires_on = Day(load_default=None)
    preset = fields.String(load_default="all", validate=validate.OneOf((*PRESETS, "own")))
    scopes = fields.List(fields.String(validate=OneOfRegistered(SCOPES)), load_default=list)

    @ma.validates_schema
    def _is_whole(self, data: dict[str, Any], **_options: Any) -> None:
        if data["expiry"] == "date" and data["expires_on"] is None:
            raise ma.ValidationError("Say on which day it ends.", "expires_on")
        if data["preset"] == "own" and not data["scopes"]:
            raise ma.ValidationError("Choose at least one scope.", "scopes")


class RollForm(Schema):
    """How long the old secret goes on, in seconds."""

    grace_seconds = fields.String(load_default="86400", validate=validate.OneOf(tuple(GRACES)))


class RevokeForm(Schema):
    """The name of the key that is to end, typed by hand."""

    confirm = Text(required=True, maximum=100, error_messages={"required": "Type the name of the key."})


class KeyFilters(Schema):
    """Which keys."""

    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    status = fields.String(load_default=None, validate=validate.OneOf(("active", "expired", "revoked")))
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))


class NoFields(Schema):
    """A form that is one button."""
