"""Commands of users: disable, enable, reset two-factor sign-in."""

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


@action_commands.action_command(group, "reset-two-factor", actions.get_action("user", "reset-two-factor"))
def reset_two_factor(was_enabled: bool, user_id: UUID) -> Description:
    """Turn two-factor sign-in off for a user who lost their phone and recovery codes; their sessions end.

    USER is an id or an email address. Make sure that you talk to the user.

    Example: flask users reset-two-factor bob@acme.example --reason "ticket 4711: lost phone"
    """
    data = {"id": ids.format_id("usr", user_id), "was_enabled": was_enabled}
    was_off = "" if was_enabled else "; it was off already"
    return Description(data, [f"{data['id']} signs in with the password alone{was_off}."])
