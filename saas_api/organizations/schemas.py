"""The wire of organizations, their teams and their log of acts."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core import clock
from saas_api.core.http import Email, Id, PageQuery, Schema, Text, Timestamp
from saas_api.core.ids import read_id, wire_id
from saas_api.core.roles import ROLES

GIVEN_ROLES = tuple(role for role in ROLES if role != "owner")
ACTOR_KINDS = ("user", "api_key", "operator", "system")
_PREFIX = {
    "user": "usr",
    "operator": "usr",
    "api_key": "key",
    "organization": "org",
    "invitation": "ivt",
    "session": "ses",
}


class Zone(fields.String):
    """An IANA time zone by its name."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        name = super()._deserialize(value, attr, data, **options)
        try:
            return clock.zone(name).key
        except ValueError as cause:
            raise ma.ValidationError("Not an IANA time zone such as Africa/Lagos.") from cause


class ActorRef(fields.String):
    """A kind of actor, or the id of one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        if text in ACTOR_KINDS:
            return text
        try:
            return read_id(text.partition("_")[0] if text[:4] in ("usr_", "key_") else "usr", text)
        except ValueError as cause:
            raise ma.ValidationError(f"Not a usr_ or key_ id, nor one of {', '.join(ACTOR_KINDS)}.") from cause


class OrganizationChange(Schema):
    """What is to be otherwise; what is not named stays. A time zone acts from the next billing period."""

    name = Text(maximum=100)
    billing_email = Email(allow_none=True)
    timezone = Zone(metadata={"description": "IANA, such as Africa/Lagos; from the next billing period"})


class OrganizationOut(Schema):
    """An organization, to its members."""

    id = Id("org")
    name = fields.String()
    slug = fields.String()
    billing_email = fields.String(allow_none=True)
    timezone = fields.String()
    status = fields.String()
    created_at = Timestamp()
    updated_at = Timestamp()


class OrganizationAnswer(Schema):
    """The caller's organization."""

    organization = fields.Nested(OrganizationOut())


class AuditQuery(PageQuery):
    """Which acts."""

    action = Text(load_default=None, maximum=100, metadata={"description": "whole, or the part before the dot"})
    actor = ActorRef(load_default=None, metadata={"description": "a kind, or a usr_ or key_ id"})
    start_date = fields.Date(format="%Y-%m-%d", load_default=None)
    end_date = fields.Date(format="%Y-%m-%d", load_default=None)


class AuditOut(Schema):
    """One act."""

    id = fields.String()
    at = Timestamp()
    actor = fields.Function(lambda entry: _named(entry.actor_type, entry.actor_id))
    on_behalf_of = Id("usr", allow_none=True)
    action = fields.String()
    target = fields.Function(lambda entry: _named(entry.target_type, entry.target_id))
    data = fields.Dict()
    reason = fields.String(allow_none=True)
    request_id = fields.String(allow_none=True)
    ip = fields.String(allow_none=True)


class InvitationIn(Schema):
    """Who is asked in, and as what."""

    email = Email(required=True)
    role = fields.String(required=True, validate=validate.OneOf(GIVEN_ROLES))


class InvitationToken(Schema):
    """What the link carried."""

    token = Text(required=True, maximum=200)


class InvitationOut(Schema):
    """An invitation, never its token."""

    invitation_id = Id("ivt", attribute="id")
    email = fields.String()
    role = fields.String()
    invited_by = Id("usr")
    expires_at = Timestamp()
    created_at = Timestamp()


class MemberOut(Schema):
    """A member, to the others."""

    id = Id("usr", attribute="user_id")
    email = fields.String()
    full_name = fields.String()
    role = fields.String()
    email_verified = fields.Boolean()
    joined_at = Timestamp()


class MemberAnswer(Schema):
    """One member."""

    user = fields.Nested(MemberOut())


class TeamOut(Schema):
    """Who belongs to the organization, and who was asked to."""

    members = fields.List(fields.Nested(MemberOut()))
    pending_invitations = fields.List(fields.Nested(InvitationOut()))
    total_members = fields.Integer()
    total_pending = fields.Integer()


class RoleIn(Schema):
    """A role that can be given; ownership is transferred."""

    role = fields.String(required=True, validate=validate.OneOf(GIVEN_ROLES))


class HeirIn(Schema):
    """Who is to own the organization."""

    user_id = Id("usr", required=True)


def _named(kind: str, key: str | None) -> dict[str, str | None]:
    prefix = _PREFIX.get(kind)
    try:
        shown = wire_id(prefix, UUID(key)) if prefix and key else key
    except ValueError:
        shown = key
    return {"type": kind, "id": shown}
