"""Commands of users: disable, enable."""

from uuid import UUID

from saas_api.admin import actions
from saas_api.cli import action_commands
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import CommandGroup
from saas_api.core import ids

group = CommandGroup("users", help="Users of the product.")


@action_commands.action_command(group, "disable", actions.get_action("user", "disable"))
def disable(revoked: list[UUID], user_id: UUID) -> Description:
    """Keep a user out: sessions end, and the API keys they created are revoked.

    USER is an id or an email address.

    Example: flask users disable bob@acme.example --reason "ticket 4711: stolen laptop"
    """
    key_ids = [ids.format_id("key", key_id) for key_id in revoked]
    data = {"id": ids.format_id("usr", user_id), "is_disabled": True, "revoked_keys": key_ids}
    return Description(data, [f"{data['id']} is disabled.", *(f"Revoked: {key_id}" for key_id in key_ids)])


@action_commands.action_command(group, "enable", actions.get_action("user", "enable"))
def enable(was_disabled: bool, user_id: UUID) -> Description:
    """Let a disabled user sign in again; revoked API keys stay revoked.

    USER is an id or an email address.

    Example: flask users enable bob@acme.example --reason "ticket 4711: laptop found"
    """
    data = {"id": ids.format_id("usr", user_id), "is_disabled": False}
    return Description(data, [f"{data['id']} can sign in{' again' if was_disabled else '; it was not disabled'}."])
