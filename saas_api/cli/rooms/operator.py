"""`flask operator`: who runs the platform. No address of the API makes an operator, only whoever may run this."""

import secrets
from datetime import timedelta
from uuid import UUID

import click
from sqlalchemy.orm import Session

from saas_api.auth import service as auth
from saas_api.auth.models import UserToken
from saas_api.cli.acting import answer, operating_person
from saas_api.cli.boot import Commands, Stopped
from saas_api.cli.reading import ADDRESS, WireId, json_option
from saas_api.core import clock, crypto
from saas_api.core.ids import wire_id
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system
from saas_api.organizations.service import audit
from saas_api.users import service as users
from saas_api.users.models import User

group = Commands("operator", help="Who runs the platform.")
LINK_HOURS = 24


@group.command("create")
@click.argument("email", type=ADDRESS)
@click.option("--role", type=click.Choice(["support", "admin"]), help="support unless they have another already.")
@json_option
def create(email: str, role: str | None, *, as_json: bool) -> None:
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
    lines = [f"{user.email} is an operator: {role}."]
    if link:
        lines.append(f"Within {LINK_HOURS} hours, choose a password at {link}")
    answer({"email": user.email, "role": role, "password_link": link}, lines, as_json=as_json)


@group.command("list")
@json_option
def list_operators(*, as_json: bool) -> None:
    """List the operators, their role and since when.

    Example: flask operator list
    """
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
    lines = ["{email} {role} since {created_at}".format_map(one) for one in found]
    answer({"operators": found}, lines or ["There are no operators."], as_json=as_json)


@group.command("revoke")
@click.argument("email", type=ADDRESS)
@json_option
def revoke(email: str, *, as_json: bool) -> None:
    """End somebody's work as operator; their account stays.

    Example: flask operator revoke olga@platform.example
    """
    with as_system("operator.command") as session:
        user = users.find_by_email(session, email)
        before = users.dismiss(session, user.id) if user else None
        if user and before:
            _note(session, "operator.revoked", user, before, None)
    if before is None:
        raise Stopped(f"{email} is no operator; flask operator list shows who is.")
    answer({"email": email, "role": None}, [f"{email} is no operator any more."], as_json=as_json)


@group.command("impersonate")
@click.argument("email", type=ADDRESS)
@click.argument("organization_id", metavar="ORGANIZATION", type=WireId("org"))
@click.option("--reason", required=True, help="For the organization's own log of acts.")
@json_option
def look(email: str, organization_id: UUID, reason: str, *, as_json: bool) -> None:
    """Print a token with which an operator sees an organization for an hour, and changes nothing.

    Example: flask operator impersonate olga@platform.example org_... --reason "ticket 4711: wrong figures"
    """
    try:
        token, ends_at = auth.look_at(organization_id, email, reason)
    except auth.NotAnOperator:
        raise Stopped(f"{email} is no operator with the role admin; flask operator list shows who is.") from None
    until = clock.rfc3339(ends_at)
    answer({"token": token, "expires_at": until}, [f"Until {until}, read-only: {token}"], as_json=as_json)


def _password_link(session: Session, user: User) -> str:
    token = secrets.token_urlsafe(32)
    ends_at = clock.now() + timedelta(hours=LINK_HOURS)
    digest = crypto.digest(token)
    session.add(UserToken(user_id=user.id, purpose="reset_password", digest=digest, expires_at=ends_at))
    return f"{setting('APP_URL')}/reset-password?token={token}"


def _note(session: Session, action: str, user: User, before: str | None, after: str | None) -> None:
    data = {"email": user.email, "before": {"role": before}, "after": {"role": after}}
    audit.record(session, None, operating_person(), action, ("user", user.id), data)
