"""Schemas of API keys."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.api_keys.models import KeyStatus
from saas_api.core import networks
from saas_api.core.access import KeyMode
from saas_api.core.fields import Name, PageQuery, PrefixedId, StrictInteger, StrictSchema, Timestamp

MAX_RATE_LIMIT = 1_000_000
MAX_KEYS_AT_ONCE = 100
_SCOPES_DESCRIPTION = "Of this application and of services. Null: full access, also to services that are added later."


class NetworkField(fields.String):
    """An IPv4 or IPv6 address or network; loads as `networks.parse_network` writes it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text = super()._deserialize(value, attr, data, **options)
        try:
            return networks.parse_network(text)
        except ValueError as error:
            raise ma.ValidationError(str(error)) from error


def _mode(**options: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(list(KeyMode)), **options)


def _scopes(**options: Any) -> fields.List:
    return fields.List(
        fields.String(validate=validate.Length(max=81)),
        validate=validate.Length(min=1, max=1_000, error="Choose at least one scope."),
        allow_none=True,
        metadata={"description": _SCOPES_DESCRIPTION, "example": ["usage:read"]},
        **options,
    )


def _allowed_ips(**options: Any) -> fields.List:
    return fields.List(NetworkField(), validate=validate.Length(max=50), **options)


class KeyIn(StrictSchema):
    """A new key."""

    name = Name(required=True)
    mode = _mode(load_default=KeyMode.LIVE)
    scopes = _scopes(load_default=None)
    expires_at = Timestamp(load_default=None, allow_none=True)
    allowed_ips = _allowed_ips(load_default=list)
    rate_limit_per_minute = StrictInteger(minimum=1, maximum=MAX_RATE_LIMIT, load_default=None, allow_none=True)


class KeyUpdate(StrictSchema):
    """Changes of a key; a field that is left out keeps its value."""

    name = Name()
    scopes = _scopes()
    allowed_ips = _allowed_ips()
    rate_limit_per_minute = StrictInteger(minimum=1, maximum=MAX_RATE_LIMIT, allow_none=True)
    expires_at = Timestamp(allow_none=True)


class RotateKeyIn(StrictSchema):
    """Grace period of the previous secret, in seconds; 0 ends every secret but the new one."""

    grace_seconds = StrictInteger(minimum=0, maximum=604_800, load_default=0)


class RevokeKeysIn(StrictSchema):
    """Keys to revoke; their order and repeats do not matter."""

    key_ids = fields.List(PrefixedId("key"), required=True, validate=validate.Length(min=1, max=MAX_KEYS_AT_ONCE))


class KeysQuery(PageQuery):
    """Filters of a list of keys."""

    mode = _mode(load_default=None)
    status = fields.String(load_default=None, validate=validate.OneOf(list(KeyStatus)))


class KeyOut(StrictSchema):
    """A key without its secret."""

    id = PrefixedId("key")
    name = fields.String()
    masked = fields.String()
    prefix = fields.String(attribute="hint")
    last_four = fields.String()
    mode = _mode()
    scopes = fields.List(
        fields.String(), metadata={"description": "With full access, those that there are at this moment."}
    )
    has_full_access = fields.Boolean(
        metadata={"description": "The key has every scope, also of services that are added later."}
    )
    allowed_ips = fields.List(fields.String())
    rate_limit_per_minute = fields.Integer(allow_none=True)
    is_active = fields.Boolean()
    status = fields.String(validate=validate.OneOf(list(KeyStatus)))
    last_used_at = Timestamp(allow_none=True)
    expires_at = Timestamp(allow_none=True)
    revoked_at = Timestamp(allow_none=True)
    created_at = Timestamp()
    created_by = PrefixedId("usr", allow_none=True)
    is_orphaned = fields.Boolean(
        metadata={"description": "The user who created it has left, is disabled, or may no longer create keys."}
    )


class SkippedKeyOut(StrictSchema):
    """A key that was not revoked."""

    key_id = PrefixedId("key")
    reason = fields.String(validate=validate.OneOf(("not_found", "already_revoked")))


class RevokedKeysOut(StrictSchema):
    """Revoked keys, and those of the request that were not revoked."""

    count = fields.Integer()
    keys = fields.List(fields.Nested(KeyOut()))
    skipped = fields.List(fields.Nested(SkippedKeyOut()))


class RemoveMemberQuery(StrictSchema):
    """What happens to the keys that the member created: they are revoked, or handed over to the caller."""

    revoke_keys = fields.Boolean(load_default=True)


class RemovedMemberOut(StrictSchema):
    """The keys that a removed member had created."""

    revoked_keys = fields.List(PrefixedId("key"))
    handed_over_keys = fields.List(PrefixedId("key"))


class CreatedKeyOut(KeyOut):
    """A new key with its secret, which no other response contains."""

    key = fields.String(attribute="secret")


class RotatedKeyOut(CreatedKeyOut):
    """A key with its new secret, which no other response contains, and the expiry of the previous one."""

    old_expires_at = Timestamp()


class KeyEventOut(KeyOut):
    """Event data of a key."""

    old_expires_at = Timestamp(
        allow_none=True, dump_default=None, metadata={"description": "Null unless the key was rotated."}
    )
