"""Forms and filters of the team, the log of acts, the organization's settings and a person's account."""

import functools
import zoneinfo
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core import clock
from saas_api.core.http import Day, Email, Id, Schema, Text
from saas_api.core.ids import read_id
from saas_api.core.roles import ROLES

GIVEN_ROLES = tuple(role for role in ROLES if role != "owner")
ACTOR_KINDS = {"user": "People", "api_key": "API keys", "operator": "Operators", "system": "The platform"}
ABOUT_ROLES = {
    "owner": "Everything, and handing the organization over. There is exactly one.",
    "admin": "Everything but paying, changing plans and changing roles.",
    "member": "Makes keys and sends test messages.",
    "billing": "Pays, changes plans and the spend cap.",
    "viewer": "Looks at everything, changes nothing.",
}
ABOUT_PERMISSIONS = {
    "organization:read": "See the organization",
    "members:read": "See who belongs to it",
    "keys:read": "See API keys, masked",
    "billing:read": "See invoices, usage costs and the plan",
    "webhooks:read": "See webhook deliveries and events",
    "messages:read": "See messages",
    "usage:read": "See usage",
    "messages:write": "Send live messages",
    "keys:create": "Create API keys",
    "messages:test": "Send test messages",
    "messages:cancel": "Cancel messages that wait",
    "keys:write": "Roll, change and revoke API keys",
    "audit:read": "Read the audit log",
    "organization:write": "Change the organization's settings",
    "webhooks:write": "Manage webhook endpoints, resend and replay",
    "members:write": "Invite and remove members",
    "spend-cap:write": "Change the spend cap and alerts",
    "billing:write": "Pay invoices and change the plan",
    "members:promote": "Change roles and transfer the ownership",
}
_AREAS = ("Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")
_LINES, _LINE = 6, 80


class Zone(fields.String):
    """An IANA time zone by its name."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        name = super()._deserialize(value, attr, data, **options).strip()
        try:
            return clock.zone(name).key
        except ValueError as cause:
            raise ma.ValidationError("Not a time zone such as Africa/Lagos.") from cause


class ActorRef(fields.String):
    """A kind of actor, or the id of one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        if text in ACTOR_KINDS:
            return text
        try:
            return read_id("key" if text.startswith("key_") else "usr", text)
        except ValueError as cause:
            raise ma.ValidationError("Nobody is called that.") from cause


class Address(Text):
    """A postal address, a line each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(maximum=_LINES * (_LINE + 1), multiline=True, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) > _LINES or any(len(line) > _LINE for line in lines):
            raise ma.ValidationError(f"At most {_LINES} lines of {_LINE} characters.")
        return lines


class InvitationForm(Schema):
    """Who is asked in, and as what."""

    email = Email(required=True, error_messages={"required": "Enter an e-mail address."})
    role = fields.String(load_default="member", validate=validate.OneOf(GIVEN_ROLES))


class RoleForm(Schema):
    """A role that can be given; the ownership is transferred."""

    role = fields.String(required=True, validate=validate.OneOf(GIVEN_ROLES))


class RemovalForm(Schema):
    """What somebody typed to show that they mean it."""

    typed = fields.String(load_default="", validate=validate.Length(max=300))


class TransferForm(Schema):
    """Who is to own the organization, and its name, typed."""

    user_id = Id("usr", required=True, error_messages={"required": "Choose a member."})
    typed = fields.String(load_default="", validate=validate.Length(max=300))


class AuditFilter(Schema):
    """Which acts."""

    action = Text(load_default=None, maximum=100)
    actor = ActorRef(load_default=None)
    start_date = Day(load_default=None)
    end_date = Day(load_default=None)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))


class OrganizationForm(Schema):
    """The organization's settings, and how its invoices name it; a time zone acts from the next billing period."""

    name = Text(required=True, maximum=100, error_messages={"required": "Enter a name."})
    billing_email = Email(load_default=None)
    timezone = Zone(required=True, error_messages={"required": "Choose a time zone."})
    legal_name = Text(load_default=None, maximum=120)
    address = Address(load_default=list)
    tax_id = Text(load_default=None, maximum=40)


class PersonForm(Schema):
    """The name somebody goes by."""

    full_name = Text(load_default="", minimum=0, maximum=100)


class PasswordForm(Schema):
    """The password somebody has, and the one they want."""

    current_password = fields.String(required=True, error_messages={"required": "Enter your current password."})
    new_password = fields.String(required=True, error_messages={"required": "Enter a new password."})


class NothingForm(Schema):
    """A button alone."""


@functools.cache
def zones() -> list[str]:
    """The time zones to choose from: UTC, then those named after a place."""
    named = sorted(name for name in zoneinfo.available_timezones() if name.partition("/")[0] in _AREAS)
    return ["UTC", *named]
