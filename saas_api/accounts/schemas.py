"""Schemas of the API and the forms of pages.py."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import g
from marshmallow import ValidationError, fields, validate

from saas_api.accounts import passwords
from saas_api.core import clock, ids
from saas_api.core.fields import Email, PageQuery, PrefixedId, StrictSchema, Text, Timestamp
from saas_api.core.roles import ROLES


class NewPasswordField(Text):
    """A password somebody chooses; its length is that of its normal form."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=256, metadata={"description": "8 to 128 characters"}, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        password = super()._deserialize(value, attr, data, **options)
        if problem := passwords.password_length_problem(passwords.normalize_password(password)):
            raise ValidationError(problem)
        return password


class RegisterIn(StrictSchema):
    """Who signs up, and their organization's name."""

    organization_name = Text(required=True, maximum=100)
    email = Email(required=True)
    password = NewPasswordField(required=True)
    full_name = Text(load_default="", minimum=0, maximum=100)


class LoginIn(StrictSchema):
    """Who signs in; the organization only where there are several."""

    email = Email(required=True)
    password = Text(required=True, maximum=256)
    organization_id = PrefixedId("org", load_default=None)


class RefreshIn(StrictSchema):
    """The refresh token; it may come in the Authorization header instead."""

    refresh_token = Text(load_default=None, maximum=2000)


class ForgotPasswordIn(StrictSchema):
    """Whose password is forgotten."""

    email = Email(required=True)


class TokenIn(StrictSchema):
    """What the link carried."""

    token = Text(required=True, maximum=200)


class ResetPasswordIn(TokenIn):
    """What the link carried, and the password from now on."""

    new_password = NewPasswordField(required=True)


class ChangePasswordIn(StrictSchema):
    """The password until now, and from now on."""

    current_password = Text(required=True, maximum=256)
    new_password = NewPasswordField(required=True)


class AcceptInvitationIn(TokenIn):
    """What the link carried; the password of the account there is, or of the one to be made."""

    password = Text(load_default=None, maximum=256)
    full_name = Text(load_default="", minimum=0, maximum=100)


class SwitchOrganizationIn(StrictSchema):
    """Where to go on."""

    organization_id = PrefixedId("org", required=True)


class EmailVerifiedOut(StrictSchema):
    """An address that was proven."""

    email = fields.String()
    email_verified = fields.Function(lambda user: user.email_verified_at is not None)


class SessionOut(StrictSchema):
    """A session, to its owner."""

    id = PrefixedId("ses")
    ip = fields.String(allow_none=True)
    user_agent = fields.String(allow_none=True)
    created_at = Timestamp()
    last_seen_at = Timestamp()
    expires_at = Timestamp()
    current = fields.Function(lambda one: one.id == g.principal.session_id)


class UserOut(StrictSchema):
    """A person, to themselves."""

    id = PrefixedId("usr")
    email = fields.String()
    full_name = fields.String()
    email_verified = fields.Function(lambda user: user.email_verified_at is not None)
    created_at = Timestamp()


class SessionOrganizationOut(StrictSchema):
    """An organization, to its members."""

    id = PrefixedId("org")
    name = fields.String()
    slug = fields.String()
    timezone = fields.String()
    status = fields.String()
    created_at = Timestamp()


class TokensOut(StrictSchema):
    """A pair of tokens; the first ends at `expires_at`."""

    token = fields.String()
    refresh_token = fields.String()
    expires_at = Timestamp()


class SessionStartedOut(StrictSchema):
    """A session that begins."""

    user = fields.Nested(UserOut())
    organization = fields.Nested(SessionOrganizationOut())
    role = fields.String()
    token = fields.String(attribute="tokens.token")
    refresh_token = fields.String(attribute="tokens.refresh_token")
    expires_at = Timestamp(attribute="tokens.expires_at")


class SwitchedSessionOut(StrictSchema):
    """A session that goes on elsewhere."""

    organization = fields.Nested(SessionOrganizationOut())
    role = fields.String()
    token = fields.String(attribute="tokens.token")
    refresh_token = fields.String(attribute="tokens.refresh_token")
    expires_at = Timestamp(attribute="tokens.expires_at")


class MembershipOut(StrictSchema):
    """One of the organizations a person belongs to."""

    id = PrefixedId("org")
    name = fields.String()
    role = fields.String()


class ProfileOut(StrictSchema):
    """Who is signed in, where, and what they may do there."""

    user = fields.Nested(UserOut())
    organization = fields.Nested(SessionOrganizationOut())
    role = fields.String()
    permissions = fields.List(fields.String())
    organizations = fields.List(fields.Nested(MembershipOut()))


class RegisterForm(RegisterIn):
    """Who signs up in a browser; the plan they came for and where they are."""

    plan = fields.String(load_default=None, validate=validate.Regexp(r"[a-z0-9_-]{1,40}\Z"))
    timezone = Text(load_default=None, maximum=64)


class LoginForm(LoginIn):
    """Who signs in in a browser, and where to go on.

    resume_address, resume_fields: a form that was refused meanwhile, as JSON of names and values
    """

    is_kept = fields.Boolean(load_default=False)
    next = fields.String(load_default="/dashboard")
    resume_address = fields.String(load_default=None)
    resume_fields = fields.String(load_default=None, validate=validate.Length(max=60_000))


class AcceptInvitationForm(AcceptInvitationIn):
    """Who accepts an invitation, or declines it."""


ASSIGNABLE_ROLES = tuple(role for role in ROLES if role != "owner")
ACTOR_KINDS = ("user", "api_key", "operator", "system")
_PREFIX = {
    "user": "usr",
    "operator": "usr",
    "api_key": "key",
    "organization": "org",
    "invitation": "ivt",
    "session": "ses",
}


class TimeZoneField(fields.String):
    """An IANA time zone by its name."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        name = super()._deserialize(value, attr, data, **options)
        try:
            return clock.get_zone(name).key
        except ValueError as cause:
            raise ma.ValidationError("Not an IANA time zone such as Africa/Lagos.") from cause


class ActorReference(fields.String):
    """A kind of actor, or the id of one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        if text in ACTOR_KINDS:
            return text
        try:
            return ids.parse_id(text.partition("_")[0] if text[:4] in ("usr_", "key_") else "usr", text)
        except ValueError as cause:
            raise ma.ValidationError(f"Not a usr_ or key_ id, nor one of {', '.join(ACTOR_KINDS)}.") from cause


class OrganizationUpdate(StrictSchema):
    """What is to be otherwise; what is not named stays. A time zone acts from the next billing period."""

    name = Text(maximum=100)
    billing_email = Email(allow_none=True)
    timezone = TimeZoneField(metadata={"description": "IANA, such as Africa/Lagos; from the next billing period"})


class OrganizationOut(StrictSchema):
    """An organization, to its members."""

    id = PrefixedId("org")
    name = fields.String()
    slug = fields.String()
    billing_email = fields.String(allow_none=True)
    timezone = fields.String()
    status = fields.String()
    created_at = Timestamp()
    updated_at = Timestamp()


class OrganizationEnvelope(StrictSchema):
    """The caller's organization."""

    organization = fields.Nested(OrganizationOut())


class AuditQuery(PageQuery):
    """Which acts."""

    action = Text(load_default=None, maximum=100, metadata={"description": "whole, or the part before the dot"})
    actor = ActorReference(load_default=None, metadata={"description": "a kind, or a usr_ or key_ id"})
    start_date = fields.Date(format="%Y-%m-%d", load_default=None)
    end_date = fields.Date(format="%Y-%m-%d", load_default=None)


class AuditEventOut(StrictSchema):
    """One act."""

    id = fields.String()
    at = Timestamp()
    actor = fields.Function(lambda entry: _actor_or_target(entry.actor_type, entry.actor_id))
    on_behalf_of = PrefixedId("usr", allow_none=True)
    action = fields.String()
    target = fields.Function(lambda entry: _actor_or_target(entry.target_type, entry.target_id))
    data = fields.Dict()
    reason = fields.String(allow_none=True)
    request_id = fields.String(allow_none=True)
    ip = fields.String(allow_none=True)


class InvitationIn(StrictSchema):
    """Who is asked in, and as what."""

    email = Email(required=True)
    role = fields.String(required=True, validate=validate.OneOf(ASSIGNABLE_ROLES))


class InvitationTokenIn(StrictSchema):
    """What the link carried."""

    token = Text(required=True, maximum=200)


class InvitationOut(StrictSchema):
    """An invitation, never its token."""

    invitation_id = PrefixedId("ivt", attribute="id")
    email = fields.String()
    role = fields.String()
    invited_by = PrefixedId("usr")
    expires_at = Timestamp()
    created_at = Timestamp()


class MemberOut(StrictSchema):
    """A member, to the others."""

    id = PrefixedId("usr", attribute="user_id")
    email = fields.String()
    full_name = fields.String()
    role = fields.String()
    email_verified = fields.Boolean()
    joined_at = Timestamp()


class MemberEnvelope(StrictSchema):
    """One member."""

    user = fields.Nested(MemberOut())


class TeamOut(StrictSchema):
    """Who belongs to the organization, and who was asked to."""

    members = fields.List(fields.Nested(MemberOut()))
    pending_invitations = fields.List(fields.Nested(InvitationOut()))
    total_members = fields.Integer()
    total_pending = fields.Integer()


class MemberRoleIn(StrictSchema):
    """A role that can be given; ownership is transferred."""

    role = fields.String(required=True, validate=validate.OneOf(ASSIGNABLE_ROLES))


class TransferOwnershipIn(StrictSchema):
    """Who is to own the organization."""

    user_id = PrefixedId("usr", required=True)


def _actor_or_target(kind: str, key: str | None) -> dict[str, str | None]:
    prefix = _PREFIX.get(kind)
    try:
        shown = ids.format_id(prefix, UUID(key)) if prefix and key else key
    except ValueError:
        shown = key
    return {"type": kind, "id": shown}
