"""Commands of operators: create, list, revoke, impersonate."""

from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import click

from saas_api.accounts import operators, users
from saas_api.accounts.audit import Actor
from saas_api.accounts.operators import AccountExists, AddressNotVerified
from saas_api.admin import actions
from saas_api.cli import action_commands, output, types
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import EMAIL
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.settings import setting

group = CommandGroup("operator", help="Operators of the platform.")


class _OperatorRole(NamedTuple):
    """A user and their role; None for no operator."""

    email: str
    role: str | None


@group.command("create")
@click.argument("address", metavar="EMAIL", type=EMAIL)
@click.option(
    "--role",
    type=click.Choice(["support", "admin"]),
    help="Role; by default unchanged, and support for a new operator.",
)
@click.option(
    "--existing",
    "is_existing_allowed",
    is_flag=True,
    help="Allow an existing account; its sessions end and its password must be set again.",
)
@types.json_option
def create(address: str, role: str | None, *, is_existing_allowed: bool, as_json: bool) -> None:
    """Make the user with this email address an operator, or change an operator's role.

    Prints a link that sets the password of a new operator. A user who does not exist is created.

    Example: flask operator create olga@platform.example --role admin
    """
    try:
        with tenancy.system_session("operator.command") as session:
            appointment = operators.appoint_operator(
                session, address, role, output.current_os_user(), is_existing_allowed=is_existing_allowed
            )
    except AccountExists:
        raise CommandError(
            f"There is an account with the address {address}. To make it an operator's, give --existing: "
            "its sessions end and its password is void."
        ) from None
    except AddressNotVerified:
        raise CommandError(
            f"The account {address} has not verified its address, so it may be anyone's; "
            "it cannot become an operator's."
        ) from None
    lines = [f"{appointment.user.email} is an operator: {appointment.role}."]
    link = None
    if appointment.password_token:
        link = f"{setting('APP_URL')}/reset-password?token={appointment.password_token}"
        hours = operators.OPERATOR_LINK_LIFETIME // timedelta(hours=1)
        lines.append(f"Within {hours} hours, choose a password at {link}")
    data = {**_OperatorRole(appointment.user.email, appointment.role)._asdict(), "password_link": link}
    output.print_result(data, lines, as_json=as_json)


@group.command("list")
@types.json_option
def list_operators(*, as_json: bool) -> None:
    """List operators with their role and start date.

    Example: flask operator list
    """
    with tenancy.system_session("operator.command") as session:
        rows = [
            {
                "user_id": ids.format_id("usr", user.id),
                **_OperatorRole(user.email, operator.role)._asdict(),
                "created_at": clock.format_rfc3339(operator.created_at),
            }
            for user, operator in operators.list_operators(session)
        ]
    lines = ["{email} {role} since {created_at}".format_map(row) for row in rows]
    output.print_result({"operators": rows}, lines or ["There are no operators."], as_json=as_json)


@group.command("revoke")
@click.argument("address", metavar="EMAIL", type=EMAIL)
@types.json_option
def revoke(address: str, *, as_json: bool) -> None:
    """Revoke a user's operator role; the user account stays.

    Example: flask operator revoke olga@platform.example
    """
    with tenancy.system_session("operator.command") as session:
        is_revoked = operators.revoke_operator_role(session, address, output.current_os_user())
    if not is_revoked:
        raise CommandError(f"{address} is no operator; flask operator list shows who is.")
    data = _OperatorRole(address, None)._asdict()
    output.print_result(data, [f"{address} is no operator any more."], as_json=as_json)


def _find_operator(email: str) -> Actor:
    with tenancy.system_session("operator.command") as session:
        user = users.find_by_email(session, email)
        if user is None or operators.find_operator_role(session, user.id) != "admin":
            raise CommandError(f"{email} is no operator with the role admin; flask operator list shows who is.")
        return Actor("operator", str(user.id))


@action_commands.action_command(
    group, "impersonate", actions.get_action("organization", "view-as"), find_operator=_find_operator
)
def impersonate(result: tuple[str, datetime], _organization_id: UUID) -> Description:
    """Print a read-only token with which an operator sees an organization for an hour.

    Example: flask operator impersonate olga@platform.example org_... --reason "ticket 4711: wrong figures"
    """
    token, until = result[0], clock.format_rfc3339(result[1])
    return Description({"token": token, "expires_at": until}, [f"Until {until}, read-only: {token}"])
