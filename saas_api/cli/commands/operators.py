"""Commands of operators: create, list, revoke, impersonate."""

import secrets
from datetime import timedelta
from uuid import UUID

import click

from saas_api.accounts import audit, impersonation, operators, users
from saas_api.accounts.impersonation import OperatorRoleRequired
from saas_api.accounts.models import OneTimeToken, User
from saas_api.cli import output, types
from saas_api.cli.action_commands import REASON_HELP
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import EMAIL, PublicId
from saas_api.core import clock, crypto, ids
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.settings import setting

group = CommandGroup("operator", help="Operators of the platform.")
LINK_LIFETIME_HOURS = 24


@group.command("create")
@click.argument("email", type=EMAIL)
@click.option(
    "--role", type=click.Choice(["support", "admin"]), help="Role; unchanged if not given, support for a new operator."
)
@types.json_option
def create(email: str, role: str | None, *, as_json: bool) -> None:
    """Make the user with this e-mail address an operator, or change an operator's role.

    A user who does not exist is created, and a link that sets the password is printed.

    Example: flask operator create olga@platform.example --role admin
    """
    link = None
    with tenancy.system_session("operator.command") as session:
        user = users.find_by_email(session, email)
        if user is None:
            user = users.create_user(session, email, secrets.token_urlsafe(32), "")
            link = _password_link(session, user)
        role = role or operators.find_operator_role(session, user.id) or "support"
        before = operators.grant_operator_role(session, user.id, role)
        if before != role:
            _record_audit(session, "operator.created" if before is None else "operator.changed", user, before, role)
    lines = [f"{user.email} is an operator: {role}."]
    if link:
        lines.append(f"Within {LINK_LIFETIME_HOURS} hours, choose a password at {link}")
    output.print_result({"email": user.email, "role": role, "password_link": link}, lines, as_json=as_json)


@group.command("list")
@types.json_option
def list_operators(*, as_json: bool) -> None:
    """List the operators, their role and since when.

    Example: flask operator list
    """
    with tenancy.system_session("operator.command") as session:
        rows = [
            {
                "user_id": ids.format_id("usr", user.id),
                "email": user.email,
                "role": operator.role,
                "created_at": clock.format_rfc3339(operator.created_at),
            }
            for user, operator in operators.list_operators(session)
        ]
    lines = ["{email} {role} since {created_at}".format_map(row) for row in rows]
    output.print_result({"operators": rows}, lines or ["There are no operators."], as_json=as_json)


@group.command("revoke")
@click.argument("email", type=EMAIL)
@types.json_option
def revoke(email: str, *, as_json: bool) -> None:
    """Revoke a user's operator role; the user account stays.

    Example: flask operator revoke olga@platform.example
    """
    with tenancy.system_session("operator.command") as session:
        user = users.find_by_email(session, email)
        before = operators.revoke_operator_role(session, user.id) if user else None
        if user and before:
            _record_audit(session, "operator.revoked", user, before, None)
    if before is None:
        raise CommandError(f"{email} is no operator; flask operator list shows who is.")
    output.print_result({"email": email, "role": None}, [f"{email} is no operator any more."], as_json=as_json)


@group.command("impersonate")
@click.argument("email", type=EMAIL)
@click.argument("organization_id", metavar="ORGANIZATION", type=PublicId("org"))
@click.option("--reason", required=True, help=REASON_HELP)
@types.json_option
def impersonate(email: str, organization_id: UUID, reason: str, *, as_json: bool) -> None:
    """Print a token with which an operator sees an organization for an hour, and changes nothing.

    Example: flask operator impersonate olga@platform.example org_... --reason "ticket 4711: wrong figures"
    """
    try:
        token, ends_at = impersonation.start_impersonation(organization_id, email, reason)
    except OperatorRoleRequired:
        raise CommandError(f"{email} is no operator with the role admin; flask operator list shows who is.") from None
    until = clock.format_rfc3339(ends_at)
    output.print_result({"token": token, "expires_at": until}, [f"Until {until}, read-only: {token}"], as_json=as_json)


def _password_link(session: SystemSession, user: User) -> str:
    token = secrets.token_urlsafe(32)
    ends_at = clock.now() + timedelta(hours=LINK_LIFETIME_HOURS)
    digest = crypto.sha256(token)
    session.add(OneTimeToken(user_id=user.id, purpose="reset_password", digest=digest, expires_at=ends_at))
    return f"{setting('APP_URL')}/reset-password?token={token}"


def _record_audit(session: SystemSession, action: str, user: User, before: str | None, after: str | None) -> None:
    data = {"email": user.email, "before": {"role": before}, "after": {"role": after}}
    audit.record_event(session, None, output.current_os_user(), action, ("user", user.id), data)
