"""`flask dev prepare`, which `flask dev up` runs: the supervisor itself needs none of the product."""

import json

import click
import flask_migrate
from sqlalchemy.exc import SQLAlchemyError

from saas_api.billing import plan_migrations
from saas_api.cli import output
from saas_api.cli.commands import engines, up
from saas_api.cli.errors import CommandError
from saas_api.core.db import tenancy
from saas_api.core.settings import setting
from saas_api.demo import seed
from saas_api.demo.organizations import DemoCredentials
from saas_api.messages.content import Channel

group = up.group
group.add_command(engines.group)


@group.command("prepare", hidden=True)
@click.option("--demo/--no-demo", "with_demo", default=True, help="Demo organizations.", show_default=True)
def prepare(*, with_demo: bool) -> None:
    """Migrate the database and make the demo organizations that are missing; prints their logins.

    Example: flask dev prepare --no-demo
    """
    _migrate()
    if with_demo:
        _print_credentials(seed.seed_demo())


def _migrate() -> None:
    try:
        flask_migrate.upgrade()
        tenancy.verify_isolation()
        plan_migrations.sync_setting_price(output.current_os_user())
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise CommandError(f"DATABASE_URL: the tables cannot be made or read: {reason}") from None


def _print_credentials(credentials: DemoCredentials) -> None:
    url, logins = setting("APP_URL"), credentials.logins
    body = json.dumps({"to": "+2348012345678", "type": Channel.SMS, "message": "Hello"})
    headers = f"-H 'X-API-Key: {credentials.key}' -H 'Content-Type: application/json'"
    lines = [
        "Demo logins (development only):",
        *(f"  {login.email:<22} {login.password}   {login.role} of {login.organization}" for login in logins),
        f"Demo key of {logins[0].organization}: {credentials.key}",
        "Send a message:",
        f"  curl -s {url}/api/v1/messages/send {headers} -d '{body}'",
    ]
    click.echo("\n".join(lines))
