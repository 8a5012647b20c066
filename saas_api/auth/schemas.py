"""The wire of sign-up, sign-in, sessions, passwords and one-time links."""

from typing import Any

from flask import g
from marshmallow import ValidationError, fields, validate

from saas_api.auth.rules import length_problem, normal_password
from saas_api.core.http import Email, Id, Schema, Text, Timestamp


class NewPassword(Text):
    """A password somebody chooses; its length is that of its normal form."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=256, metadata={"description": "8 to 128 characters"}, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        password = super()._deserialize(value, attr, data, **options)
        if problem := length_problem(normal_password(password)):
            raise ValidationError(problem)
        return password


class RegisterIn(Schema):
    """Who signs up, and their organization's name."""

    organization_name = Text(required=True, maximum=100)
    email = Email(required=True)
    password = NewPassword(required=True)
    full_name = Text(load_default="", minimum=0, maximum=100)


class LoginIn(Schema):
    """Who signs in; the organization only where there are several."""

    email = Email(required=True)
    password = Text(required=True, maximum=256)
    organization_id = Id("org", load_default=None)


class RefreshIn(Schema):
    """The refresh token; it may come in the Authorization header instead."""

    refresh_token = Text(load_default=None, maximum=2000)


class AddressIn(Schema):
    """Whose password is forgotten."""

    email = Email(required=True)


class LinkIn(Schema):
    """What the link carried."""

    token = Text(required=True, maximum=200)


class ResetIn(LinkIn):
    """What the link carried, and the password from now on."""

    new_password = NewPassword(required=True)


class ChangePasswordIn(Schema):
    """The password until now, and from now on."""

    current_password = Text(required=True, maximum=256)
    new_password = NewPassword(required=True)


class JoinIn(LinkIn):
    """What the link carried; the password of the account there is, or of the one to be made."""

    password = Text(load_default=None, maximum=256)
    full_name = Text(load_default="", minimum=0, maximum=100)


class SwitchIn(Schema):
    """Where to go on."""

    organization_id = Id("org", required=True)


class VerifiedOut(Schema):
    """An address that was proven."""

    email = fields.String()
    email_verified = fields.Function(lambda user: user.email_verified_at is not None)


class SessionOut(Schema):
    """A session, to its owner."""

    id = Id("ses")
    ip = fields.String(allow_none=True)
    user_agent = fields.String(allow_none=True)
    created_at = Timestamp()
    last_seen_at = Timestamp()
    expires_at = Timestamp()
    current = fields.Function(lambda one: one.id == g.principal.session_id)


class UserOut(Schema):
    """A person, to themselves."""

    id = Id("usr")
    email = fields.String()
    full_name = fields.String()
    email_verified = fields.Function(lambda user: user.email_verified_at is not None)
    created_at = Timestamp()


class SessionOrganizationOut(Schema):
    """An organization, to its members."""

    id = Id("org")
    name = fields.String()
    slug = fields.String()
    timezone = fields.String()
    status = fields.String()
    created_at = Timestamp()


class TokensOut(Schema):
    """A pair of tokens; the first ends at `expires_at`."""

    token = fields.String()
    refresh_token = fields.String()
    expires_at = Timestamp()


class SignedInOut(Schema):
    """A session that begins."""

    user = fields.Nested(UserOut())
    organization = fields.Nested(SessionOrganizationOut())
    role = fields.String()
    token = fields.String(attribute="tokens.token")
    refresh_token = fields.String(attribute="tokens.refresh_token")
    expires_at = Timestamp(attribute="tokens.expires_at")


class SwitchedOut(Schema):
    """A session that goes on elsewhere."""

    organization = fields.Nested(SessionOrganizationOut())
    role = fields.String()
    token = fields.String(attribute="tokens.token")
    refresh_token = fields.String(attribute="tokens.refresh_token")
    expires_at = Timestamp(attribute="tokens.expires_at")


class BelongingOut(Schema):
    """One of the organizations a person belongs to."""

    id = Id("org")
    name = fields.String()
    role = fields.String()


class ProfileOut(Schema):
    """Who is signed in, where, and what they may do there."""

    user = fields.Nested(UserOut())
    organization = fields.Nested(SessionOrganizationOut())
    role = fields.String()
    permissions = fields.List(fields.String())
    organizations = fields.List(fields.Nested(BelongingOut()))


class SignUpForm(RegisterIn):
    """Who signs up in a browser; the plan they came for and where they are."""

    plan = fields.String(load_default=None, validate=validate.Regexp(r"[a-z0-9_-]{1,40}\Z"))
    timezone = Text(load_default=None, maximum=64)


class SignInForm(LoginIn):
    """Who signs in in a browser, and where to go on.

    resume_address, resume_fields: a form that was refused meanwhile, as JSON of names and values
    """

    is_kept = fields.Boolean(load_default=False)
    next = fields.String(load_default="/dashboard")
    resume_address = fields.String(load_default=None)
    resume_fields = fields.String(load_default=None, validate=validate.Length(max=60_000))


class JoinForm(JoinIn):
    """Who accepts an invitation, or declines it."""
