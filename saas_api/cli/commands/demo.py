"""`flask demo`: demo data."""

import sys

import click

from saas_api.cli.errors import CommandGroup
from saas_api.core.settings import setting
from saas_api.demo import seed

group = CommandGroup("demo", help="Demo organizations; development only.")


@group.command("seed")
@click.option("--organizations", type=click.IntRange(1, 1000), default=3, show_default=True, help="Demo organizations.")
@click.option("--days", type=click.IntRange(1, 365), default=90, show_default=True, help="Days of history.")
@click.option(
    "--messages", type=click.IntRange(0, 1_000_000), default=20_000, show_default=True, help="Messages in total."
)
@click.option("--seed", "number", type=int, default=1, show_default=True, help="Random seed of the demo data.")
def seed_command(organizations: int, days: int, messages: int, number: int) -> None:
    """Create demo organizations with users, keys, messages, invoices, payments and webhooks.

    The same options on the same day create the same figures. Passwords and keys are new each time and stored in the
    instance folder. If the demo exists already, the command prints its logins.

    Example: flask demo seed --organizations 3 --days 90 --messages 20000 --seed 1
    """
    if setting("APP_ENV") == "production":
        sys.exit("Demo data is refused when APP_ENV=production.")
    credentials = seed.seed_demo(organizations=organizations, days=days, messages=messages, seed=number)
    for login in credentials.logins:
        click.echo(f"{login.email} {login.password} {login.role} of {login.organization}")
    click.echo(credentials.key)
