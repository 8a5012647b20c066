"""`flask demo seed`: companies with a past to look around in; for development only."""

import secrets
import sys
from itertools import islice

import click

from saas_api.api_keys import service as api_keys
from saas_api.cli.boot import Commands
from saas_api.cli.demo import aftermath, cast, money
from saas_api.cli.demo.cast import PLATFORM, Company, Facts, Login
from saas_api.cli.demo.life import Life
from saas_api.cli.demo.stage import Stage, system
from saas_api.core import crypto
from saas_api.core.domain import Domain
from saas_api.core.settings import setting
from saas_api.users import service as users

__all__ = ["Facts", "Login", "demo", "seed"]

DOMAIN = Domain(name="demo", system_purposes=("demo.seed",))
demo = Commands("demo", help="Data to look around with; for development only.")
QUICK = {"organizations": 2, "days": 35, "messages": 500, "seed": 1}
"""What `make run` makes: enough to see, made within a second or two."""


@demo.command("seed")
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
    facts = seed(organizations=organizations, days=days, messages=messages, seed=number)
    for login in facts.logins:
        click.echo(f"{login.email} {login.password} {login.role} of {login.company}")
    click.echo(facts.key)


def seed(**wish: int) -> Facts:
    """Make the demo unless it is there; passwords and keys stay in the instance.

    wish: `organizations`, `days`, `messages`, `seed`; without any, whatever demo is there will do
    """
    kept = cast.kept()
    if kept is not None and (not wish or kept.wish == wish) and _is_alive(kept):
        return kept
    facts = _make(wish or QUICK)
    cast.keep(facts)
    return facts


def _is_alive(facts: Facts) -> bool:
    with system() as session:
        return api_keys.find_secret(session, crypto.api_key_digests(facts.key)) is not None


def _make(wish: dict[str, int]) -> Facts:
    stage = Stage(wish["days"], wish["seed"])
    Life.mark = "" if _is_first() else f"-{secrets.token_hex(2)}"
    chosen = list(islice(cast.companies(), wish["organizations"]))
    lives = [Life(stage, company, number) for company, number in _shares(chosen, wish["messages"])]
    for life in lives:
        life.begin()
    money.pursue(stage)
    stage.play()
    aftermath.finish([str(life.id) for life in lives])
    logins = [login for life in lives for login in life.logins]
    keys = {life.company.name: life.key_text for life in lives}
    return Facts([*logins, _appoint()], lives[0].key_text, keys, wish)


def _shares(chosen: list[Company], messages: int) -> list[tuple[Company, int]]:
    total = sum(company.weight for company in chosen)
    return [(company, round(messages * company.weight / total)) for company in chosen]


def _appoint() -> Login:
    login = Login(f"olga{Life.mark}@platform.example", secrets.token_hex(6), "operator", PLATFORM)
    with system() as session:
        user = users.create(session, login.email, login.password, "Olga")
        user.email_verified_at = user.created_at
        users.appoint(session, user.id, "admin")
    return login


def _is_first() -> bool:
    with system() as session:
        return users.find_by_email(session, "alice@acme.example") is None
