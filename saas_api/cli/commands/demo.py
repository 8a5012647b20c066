"""Seed."""

import sys

import click

from saas_api.cli.errors import CommandGroup
from saas_api.core.settings import setting
from saas_api.demo import seed

group = CommandGroup("demo", help="Data to look around with; for development only.")


@group.command("seed")
@click.option("--organizations", type=click.IntRange(1, 1000), default=3, show_default=True, help="How many companies.")
@click.option("--days", type=click.IntRange(1, 365), default=90, show_default=True, help="How long they exist.")
@click.option(
    "--messages", type=click.IntRange(0, 1_000_000), default=20_000, show_default=True, help="Of all together."
)
@click.option("--seed", "number", type=int, default=1, show_default=True, help="Another one makes other figures.")
def seed_command(organizations: int, days: int, messages: int, number: int) -> None:
    """Make companies with people, keys, messages, invoices, payments and webhooks up to this moment.

    The same options on the same day make the same figures; passwords and keys are new each time, and kept in the
    instance. Repeated, it shows what there is.

    Example: flask demo seed --organizations 3 --days 90 --messages 20000 --seed 1
    """
    if setting("APP_ENV") == "production":
        sys.exit("Demo data is refused when APP_ENV=production.")
    facts = seed.seed_demo(organizations=organizations, days=days, messages=messages, seed=number)
    for login in facts.logins:
        click.echo(f"{login.email} {login.password} {login.role} of {login.company}")
    click.echo(facts.key)
