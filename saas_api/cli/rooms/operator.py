"""`flask operator`: who runs the platform. No address of the API makes an operator, only whoever may run this."""

import getpass
import json
import secrets
import sys
from datetime import timedelta

import click
import marshmallow as ma
from sqlalchemy.orm import Session

from saas_api.auth import service as auth
from saas_api.auth.models import UserToken
from saas_api.cli.boot import Commands
from saas_api.core import clock, crypto
from saas_api.core.errors import Invalid
from saas_api.core.fields import Email
from saas_api.core.ids import read_id, wire_id
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import NoSuchOrganization, audit
from saas_api.users import service as users
from saas_api.users.models import User

group = Commands("operator", help="Who runs the platform.")
LINK_HOURS = 24


def read_address(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """An address as sign-up takes it."""
    try:
        return str(Email().deserialize(text))
    except ma.ValidationError:
        raise click.BadParameter(f"{text!r} is no e-mail address.") from None


@group.command("create")
@click.argument("email", callback=read_address)
@click.option("--role", type=click.Choice(["support", "admin"]), help="support unless they have another already")
def create(email: str, role: str | None) -> None:
    """Make the person with that address an operator, or give an operator another role.

    Somebody without an account gets one, and a link that sets its password is printed.

    Example: flask operator create olga@platform.example --role admin
    """
    link = None
    with as_system("operator.command") as session:
        user = users.find_by_email(session, email)
        if user is None:
            user = users.create(session, email, secrets.token_urlsafe(32), "")
            link = _password_link(session, user)
        role = role or users.office_of(session, user.id) or "support"
        before = users.appoint(session, user.id, role)
        if before != role:
            _note(session, "operator.created" if before is None else "operator.changed", user, before, role)
    click.echo(f"{user.email} is an operator: {role}.")
    if link:
        click.echo(f"Within {LINK_HOURS} hours, choose a password at {link}")


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_operators(*, as_json: bool) -> None:
    """List the operators, their role and since when."""
    with as_system("operator.command") as session:
        found = [
            {
                "user_id": wire_id("usr", user.id),
                "email": user.email,
                "role": operator.role,
                "created_at": clock.rfc3339(operator.created_at),
            }
            for user, operator in users.operators(session)
        ]
    if as_json:
        click.echo(json.dumps({"operators": found}))
        return
    for one in found:
        click.echo("{email} {role} since {created_at}".format_map(one))
    if not found:
        click.echo("There are no operators.")


@group.command("revoke")
@click.argument("email", callback=read_address)
def revoke(email: str) -> None:
    """End somebody's work as operator; their account stays.

    Example: flask operator revoke olga@platform.example
    """
    with as_system("operator.command") as session:
        user = users.find_by_email(session, email)
        before = users.dismiss(session, user.id) if user else None
        if user and before:
            _note(session, "operator.revoked", user, before, None)
    if before is None:
        sys.exit(f"{email} is no operator.")
    click.echo(f"{email} is no operator any more.")


@group.command("look")
@click.argument("email", callback=read_address)
@click.argument("organization")
@click.option("--reason", required=True, help="For the organization's own log of acts.")
def look(email: str, organization: str, reason: str) -> None:
    """Print a token with which an operator sees an organization for an hour, and changes nothing.

    Example: flask operator look olga@platform.example org_... --reason "ticket 4711: wrong figures"
    """
    try:
        token, ends_at = auth.look_at(read_id("org", organization), email, reason)
    except ValueError:
        sys.exit(f"{organization} is no id of an organization.")
    except auth.NotAnOperator:
        sys.exit(f"{email} is no operator with the role admin.")
    except Invalid as error:
        sys.exit(str(error.details["fields"][0]["reason"]))
    except NoSuchOrganization:
        sys.exit(f"There is no organization {organization}.")
    click.echo(f"Until {clock.rfc3339(ends_at)}, read-only: {token}")


def _password_link(session: Session, user: User) -> str:
    token = secrets.token_urlsafe(32)
    ends_at = clock.now() + timedelta(hours=LINK_HOURS)
    digest = crypto.digest(token)
    session.add(UserToken(user_id=user.id, purpose="reset_password", digest=digest, expires_at=ends_at))
    return f"{setting('APP_URL')}/reset-password?token={token}"


def _note(session: Session, action: str, user: User, before: str | None, after: str | None) -> None:
    actor = audit.Actor("system", getpass.getuser())
    data = {"email": user.email, "before": {"role": before}, "after": {"role": after}}
    audit.record(session, None, actor, action, ("user", user.id), data)
