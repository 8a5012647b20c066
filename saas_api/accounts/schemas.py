"""Schemas of the API, and the forms of the public pages that extend them."""

from typing import Any
from uuid import UUID

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.accounts import passwords
from saas_api.accounts.models import OrganizationStatus
from saas_api.core import formatting, ids, time_zones
from saas_api.core.fields import DisplayName, Email, PageQuery, PrefixedId, StrictSchema, Text, Timestamp
from saas_api.core.roles import ASSIGNABLE_ROLES, MemberRole

ACTOR_KINDS = ("user", "api_key", "operator", "portal", "system")
_ID_PREFIXES = {
    "user": "usr",
    "operator": "usr",
    "api_key": "key",
    "organization": "org",
    "invitation": "ivt",
    "session": "ses",
    "message": "msg",
    "invoice": "inv",
    "credit_note": "crn",
    "credit_grant": "grt",
    "payment": "pay",
    "portal": "prt",
    "portal_session": "prt",
    "subscription": "sub",
    "webhook_endpoint": "whe",
    "webhook_delivery": "whd",
    "webhook_event": "evt",
}


class NewPasswordField(Text):
    """A new password; its length is that of its normalized form."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=256, metadata={"description": "8 to 128 characters"}, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        password = super()._deserialize(value, attr, data, **options)
        if problem := passwords.password_length_problem(passwords.normalize_password(password)):
            raise ma.ValidationError(problem)
        return password


class CodeField(Text):
    """A code of two-factor sign-in: six digits, or a recovery code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            maximum=40, metadata={"description": "a code of the authenticator app, or a recovery code"}, **options
        )


class TimeZoneField(fields.String):
    """The name of an IANA time zone."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        name = super()._deserialize(value, attr, data, **options)
        try:
            return time_zones.get_zone(name).key
        except ValueError as cause:
            raise ma.ValidationError("Not an IANA time zone such as Africa/Lagos.") from cause


class ActorReference(fields.String):
    """A kind of actor, loaded as text, or the id of a user or key, loaded as a UUID."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        if text in ACTOR_KINDS:
            return text
        try:
            return ids.parse_id(text.partition("_")[0] if text[:4] in ("usr_", "key_") else "usr", text)
        except ValueError as cause:
            raise ma.ValidationError(f"Not a usr_ or key_ id, nor one of {', '.join(ACTOR_KINDS)}.") from cause


def _assignable_role() -> fields.String:
    return fields.String(
        required=True, validate=validate.OneOf(ASSIGNABLE_ROLES), metadata={"x-enum": "AssignableRole"}
    )


class RegisterIn(StrictSchema):
    """A new user and the name of the organization to create."""

    organization_name = DisplayName(required=True)
    email = Email(required=True)
    password = NewPasswordField(required=True)
    full_name = DisplayName(load_default="", minimum=0)


class RegisterForm(RegisterIn):
    """Sign-up in a browser, with the chosen plan and the browser's time zone."""

    plan = fields.String(load_default=None, validate=validate.Regexp(r"[a-z0-9_-]{1,40}\Z"))
    timezone = Text(load_default=None, maximum=64)


class LoginIn(StrictSchema):
    """Credentials; the organization is for users who are members of several, the code for two-factor sign-in."""

    email = Email(required=True)
    password = Text(required=True, maximum=256)
    code = CodeField(load_default=None)
    organization_id = PrefixedId("org", load_default=None)


class _LoginDestination(StrictSchema):
    """Where a sign-in in a browser leads.

    is_kept: the session outlives the browser
    next: path of the page to show afterwards
    resume_address, resume_fields: a form that was submitted after the session had ended; JSON pairs of name and value
    """

    organization_id = PrefixedId("org", load_default=None)
    is_kept = fields.Boolean(load_default=False)
    next = fields.String(load_default="/dashboard")
    resume_address = fields.String(load_default=None)
    resume_fields = fields.String(load_default=None, validate=validate.Length(max=60_000))


class LoginForm(_LoginDestination):
    """Sign-in in a browser: the password."""

    email = Email(required=True)
    password = Text(required=True, maximum=256)


class LoginCodeForm(_LoginDestination):
    """Sign-in in a browser: the code after the password, with the challenge that proves it."""

    challenge = Text(required=True, maximum=200)
    code = CodeField(required=True, error_messages={"required": "Enter a code."})


class CodeIn(StrictSchema):
    """A code of two-factor sign-in."""

    code = CodeField(required=True, error_messages={"required": "Enter a code."})


class RefreshIn(StrictSchema):
    """A refresh token; it may be sent in the Authorization header instead."""

    refresh_token = Text(load_default=None, maximum=2000)


class ForgotPasswordIn(StrictSchema):
    """Address of the account whose password is reset."""

    email = Email(required=True)


class TokenIn(StrictSchema):
    """The one-time token of a mailed link."""

    token = Text(required=True, maximum=200)


class ResetPasswordIn(TokenIn):
    """A one-time token and the new password."""

    new_password = NewPasswordField(required=True)


class ReauthenticateIn(StrictSchema):
    """The password of the signed-in user."""

    password = Text(required=True, maximum=256)


class ChangePasswordIn(StrictSchema):
    """The current password and the new one."""

    current_password = Text(required=True, maximum=256)
    new_password = NewPasswordField(required=True)


class AcceptInvitationIn(TokenIn):
    """A one-time token with the password of the account, or with the password and name of a new user.

    code: of two-factor sign-in
    """

    password = Text(load_default=None, maximum=256)
    code = CodeField(load_default=None)
    full_name = DisplayName(load_default="", minimum=0)


class SwitchOrganizationIn(StrictSchema):
    """The organization in which the session continues."""

    organization_id = PrefixedId("org", required=True)


class OrganizationOut(StrictSchema):
    """An organization; event data are its `id`, `name`, `slug` and `status`."""

    id = PrefixedId("org")
    name = fields.String()
    slug = fields.String()
    billing_email = fields.String(allow_none=True)
    billing_email_verified = fields.Boolean()
    timezone = fields.String()
    locale = fields.String(metadata={"description": "BCP 47, such as en-US"})
    external_id = fields.String(allow_none=True, metadata={"description": "How services know the organization"})
    status = fields.String(validate=validate.OneOf(list(OrganizationStatus)))
    created_at = Timestamp()
    updated_at = Timestamp()


class OrganizationEnvelope(StrictSchema):
    """The caller's organization."""

    organization = fields.Nested(OrganizationOut())


class OrganizationIn(StrictSchema):
    """The name of a new organization; its time zone is UTC unless it is given."""

    name = DisplayName(required=True)
    timezone = TimeZoneField(load_default=None, metadata={"description": "IANA, such as Africa/Lagos"})


class NewOrganizationForm(StrictSchema):
    """A new organization, with the browser's time zone; an unknown one becomes UTC."""

    name = DisplayName(required=True)
    timezone = Text(load_default=None, maximum=64)


class OrganizationUpdate(StrictSchema):
    """Changed attributes of an organization; attributes that are left out stay."""

    name = DisplayName()
    billing_email = Email(allow_none=True)
    timezone = TimeZoneField(metadata={"description": "IANA, such as Africa/Lagos; from the next billing period"})
    locale = fields.String(
        validate=validate.OneOf(formatting.LOCALES),
        metadata={"description": "How pages, emails and invoices write numbers, amounts, dates and times"},
    )


class UserOut(StrictSchema):
    """The signed-in user."""

    id = PrefixedId("usr")
    email = fields.String()
    full_name = fields.String()
    email_verified = fields.Boolean()
    created_at = Timestamp()


class EmailVerifiedOut(StrictSchema):
    """A verified address."""

    email = fields.String()
    email_verified = fields.Boolean()


class SessionOut(StrictSchema):
    """An active session of the caller; `current` is true for the session of the request."""

    id = PrefixedId("ses")
    ip = fields.String(allow_none=True)
    user_agent = fields.String(allow_none=True)
    created_at = Timestamp()
    last_seen_at = Timestamp()
    expires_at = Timestamp()
    current = fields.Boolean(attribute="is_current")


class TokensOut(StrictSchema):
    """New tokens; the access token `token` expires at `expires_at`."""

    token = fields.String()
    refresh_token = fields.String()
    expires_at = Timestamp()


class FreshAccessTokenOut(StrictSchema):
    """An access token that counts as recently authenticated until `fresh_until`."""

    token = fields.String()
    expires_at = Timestamp()
    fresh_until = Timestamp()


class SwitchedSessionOut(StrictSchema):
    """A session with new tokens; organization and role are null for a user who is not a member of any organization."""

    organization = fields.Nested(OrganizationOut(), allow_none=True)
    role = fields.String(allow_none=True)
    token = fields.String(attribute="tokens.token")
    refresh_token = fields.String(attribute="tokens.refresh_token")
    expires_at = Timestamp(attribute="tokens.expires_at")


class SessionStartedOut(SwitchedSessionOut):
    """A new session with its user."""

    user = fields.Nested(UserOut())


class MembershipOut(StrictSchema):
    """An organization of the user, with the role there."""

    id = PrefixedId("org")
    name = fields.String()
    role = fields.String()


class ProfileOut(StrictSchema):
    """The signed-in user in the current organization; it and the role are null for a user without one."""

    user = fields.Nested(UserOut())
    organization = fields.Nested(OrganizationOut(), allow_none=True)
    role = fields.String(allow_none=True)
    permissions = fields.List(fields.String())
    organizations = fields.List(fields.Nested(MembershipOut()))


class AuditQuery(PageQuery):
    """Filters of the audit log."""

    action = Text(load_default=None, maximum=100, metadata={"description": "whole, or the part before the dot"})
    actor = ActorReference(load_default=None, metadata={"description": "a kind, or a usr_ or key_ id"})
    start_date = fields.Date(format="%Y-%m-%d", load_default=None)
    end_date = fields.Date(format="%Y-%m-%d", load_default=None)


class ReferenceOut(StrictSchema):
    """An actor or target of an action; an id that is none of the API is as it is stored."""

    type = fields.String()
    id = fields.String(allow_none=True)


class Reference(fields.Nested):
    """The actor or the target of an event, from its columns `..._type` and `..._id`."""

    def get_value(self, obj: Any, attr: str, accessor: Any = None, default: Any = ma.missing) -> Any:
        """Return the kind with the public id."""
        kind = getattr(obj, f"{attr}_type")
        return {"type": kind, "id": audit_public_id(kind, getattr(obj, f"{attr}_id"))}


class AuditEventOut(StrictSchema):
    """An action with its actor and target."""

    id = fields.String()
    at = Timestamp()
    actor = Reference(ReferenceOut())
    on_behalf_of = PrefixedId("usr", allow_none=True)
    action = fields.String()
    target = Reference(ReferenceOut())
    data = fields.Dict()
    reason = fields.String(allow_none=True)
    request_id = fields.String(allow_none=True)
    ip = fields.String(allow_none=True)


class InvitationIn(StrictSchema):
    """The address and role of a new member."""

    email = Email(required=True)
    role = _assignable_role()


class InvitationOut(StrictSchema):
    """An open invitation, without its token."""

    invitation_id = PrefixedId("ivt", attribute="id")
    email = fields.String()
    role = fields.String()
    invited_by = PrefixedId("usr")
    expires_at = Timestamp()
    created_at = Timestamp()


class MemberOut(StrictSchema):
    """A member of the organization."""

    id = PrefixedId("usr", attribute="user_id")
    email = fields.String()
    full_name = fields.String()
    role = fields.String(validate=validate.OneOf(list(MemberRole)))
    email_verified = fields.Boolean()
    joined_at = Timestamp()


class MemberEnvelope(StrictSchema):
    """One member."""

    user = fields.Nested(MemberOut())


class TeamOut(StrictSchema):
    """The members and the open invitations of the organization."""

    members = fields.List(fields.Nested(MemberOut()))
    pending_invitations = fields.List(fields.Nested(InvitationOut()))
    total_members = fields.Integer()
    total_pending = fields.Integer()


class MemberRoleIn(StrictSchema):
    """The new role of a member; ownership is transferred instead."""

    role = _assignable_role()


class TransferOwnershipIn(StrictSchema):
    """The new owner."""

    user_id = PrefixedId("usr", required=True)


def audit_public_id(kind: str, key: str | None) -> str | None:
    """The public id of an actor or target of an audit event, or the text itself where it is no id."""
    prefix = _ID_PREFIXES.get(kind)
    try:
        return ids.format_id(prefix, UUID(key)) if prefix and key else key
    except ValueError:
        return key
