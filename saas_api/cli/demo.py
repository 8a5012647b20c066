"""`flask demo seed`: two companies to look around with; for development only."""

import json
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import click
from sqlalchemy.orm import Session

from saas_api.api_keys import service as api_keys
from saas_api.cli.boot import Commands
from saas_api.core import crypto, tenancy
from saas_api.core.settings import setting
from saas_api.organizations import service as organizations
from saas_api.organizations.models import Membership
from saas_api.users import service as users

demo = Commands("demo", help="Data to look around with; for development only.")


@dataclass(frozen=True)
class Login:
    """One person of the demo."""

    email: str
    password: str
    role: str
    company: str


@dataclass(frozen=True)
class Facts:
    """What a newcomer needs to try the demo."""

    logins: list[Login]
    key: str


@demo.command("seed")
def seed_command() -> None:
    """Make alice and bob of Acme, carol of Carol & Co, and an API key of Acme.

    Example: flask demo seed
    """
    if setting("APP_ENV") == "production":
        sys.exit("Demo data is refused when APP_ENV=production.")
    facts = seed()
    for login in facts.logins:
        click.echo(f"{login.email} {login.password} {login.role} of {login.company}")
    click.echo(facts.key)


def seed() -> Facts:
    """Make the demo's people and key unless they are there; passwords and key stay in the instance."""
    path = Path(setting("INSTANCE")) / "demo.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        facts = Facts([Login(**login) for login in kept["logins"]], kept["key"])
        if _is_alive(facts):
            return facts
    facts = _make()
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
    return facts


def _is_alive(facts: Facts) -> bool:
    with tenancy.as_system("demo.seed") as session:
        return api_keys.find_secret(session, crypto.api_key_digests(facts.key)) is not None


def _make() -> Facts:
    mark = "" if _is_first() else f"-{secrets.token_hex(2)}"
    people = [("alice", "owner", "Acme"), ("bob", "member", "Acme"), ("carol", "owner", "Carol & Co")]
    logins = [
        Login(f"{name}{mark}@{'acme' if company == 'Acme' else 'carol'}.example", secrets.token_hex(6), role, company)
        for name, role, company in people
    ]
    with tenancy.as_system("demo.seed") as session:
        made: dict[str, UUID] = {}
        for login in logins:
            made[login.company] = _join(session, login, made.get(login.company))
    with tenancy.transaction(made["Acme"]) as session:
        key = api_keys.create(session, made["Acme"], None, name="Demo key")
    return Facts(logins, key.text)


def _join(session: Session, login: Login, organization_id: UUID | None) -> UUID:
    user = users.create(session, login.email, login.password, login.email.partition("@")[0].title())
    if organization_id is None:
        return organizations.create(session, login.company, user.id).id
    session.add(Membership(organization_id=organization_id, user_id=user.id, role=login.role))
    return organization_id


def _is_first() -> bool:
    with tenancy.as_system("demo.seed") as session:
        return users.find_by_email(session, "alice@acme.example") is None
