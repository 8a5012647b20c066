"""KeyIn, KeyUpdate, KeyOut, CreatedKeyOut, RotatedKeyOut."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.api_keys import key_format
from saas_api.core.access import SCOPES
from saas_api.core.fields import OneOfRegistered, PageQuery, PrefixedId, StrictInteger, StrictSchema, Text, Timestamp

MAX_RATE_LIMIT = 1_000_000


class NetworkField(fields.String):
    """An address or a network, IPv4 or IPv6; written in full."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            return key_format.parse_network(text)
        except ValueError as problem:
            raise ma.ValidationError(str(problem)) from problem


def _scopes(**options: Any) -> fields.List:
    scope = fields.String(validate=OneOfRegistered(SCOPES))
    return fields.List(scope, validate=validate.Length(min=1), **options)


def _allowed_ips(**options: Any) -> fields.List:
    return fields.List(NetworkField(), validate=validate.Length(max=50), **options)


class KeyIn(StrictSchema):
    """What a new key may do."""

    name = Text(required=True, maximum=100)
    mode = fields.String(load_default="live", validate=validate.OneOf(("live", "test")))
    scopes = _scopes(load_default=None)
    expires_at = Timestamp(load_default=None, allow_none=True)
    allowed_ips = _allowed_ips(load_default=list)
    rate_limit_per_minute = StrictInteger(minimum=1, maximum=MAX_RATE_LIMIT, load_default=None, allow_none=True)


class KeyUpdate(StrictSchema):
    """What is to be otherwise; what is not named stays."""

    name = Text(maximum=100)
    scopes = _scopes()
    allowed_ips = _allowed_ips()
    rate_limit_per_minute = StrictInteger(minimum=1, maximum=MAX_RATE_LIMIT, allow_none=True)


class RotateKeyIn(StrictSchema):
    """How long the old secret goes on."""

    grace_seconds = StrictInteger(minimum=0, maximum=604_800, load_default=0)


class KeysQuery(PageQuery):
    """Which keys."""

    mode = fields.String(load_default=None, validate=validate.OneOf(("live", "test")))
    status = fields.String(load_default=None, validate=validate.OneOf(("active", "expired", "revoked")))


class KeyOut(StrictSchema):
    """A key, never its secret."""

    id = PrefixedId("key")
    name = fields.String()
    masked = fields.String()
    prefix = fields.String(attribute="hint")
    last_four = fields.String()
    mode = fields.String()
    scopes = fields.List(fields.String())
    allowed_ips = fields.List(fields.String())
    rate_limit_per_minute = fields.Integer(allow_none=True)
    is_active = fields.Boolean()
    status = fields.String()
    last_used_at = Timestamp(allow_none=True)
    expires_at = Timestamp(allow_none=True)
    revoked_at = Timestamp(allow_none=True)
    created_at = Timestamp()


class CreatedKeyOut(KeyOut):
    """A new key with its secret, shown this once."""

    key = fields.String()


class RotatedKeyOut(CreatedKeyOut):
    """A key with its new secret, shown this once, and the end of the old one."""

    old_expires_at = Timestamp()
