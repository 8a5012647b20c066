"""The wire of sign-up, sign-in and sessions."""

from marshmallow import ValidationError, fields, validates

from saas_api.auth.rules import length_problem, normal_password
from saas_api.core.http import Email, Id, Schema, Text, Timestamp


class RegisterIn(Schema):
    """Who signs up, and their organization's name."""

    organization_name = Text(required=True, maximum=100)
    email = Email(required=True)
    password = Text(required=True, maximum=256, metadata={"description": "8 to 128 characters"})
    full_name = Text(load_default="", minimum=0, maximum=100)

    @validates("password")
    def _has_a_fair_length(self, password: str, **_: object) -> None:
        if problem := length_problem(normal_password(password)):
            raise ValidationError(problem)


class LoginIn(Schema):
    """Who signs in; the organization only where there are several."""

    email = Email(required=True)
    password = Text(required=True, maximum=256)
    organization_id = Id("org", load_default=None)


class RefreshIn(Schema):
    """The refresh token; it may come in the Authorization header instead."""

    refresh_token = Text(load_default=None, maximum=2000)


class UserOut(Schema):
    """A person, to themselves."""

    id = Id("usr")
    email = fields.String()
    full_name = fields.String()
    email_verified = fields.Function(lambda user: user.email_verified_at is not None)
    created_at = Timestamp()


class OrganizationOut(Schema):
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
    organization = fields.Nested(OrganizationOut())
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
    organization = fields.Nested(OrganizationOut())
    role = fields.String()
    permissions = fields.List(fields.String())
    organizations = fields.List(fields.Nested(BelongingOut()))
