"""`flask keys`: API keys of an organization, made and ended from a shell."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import click

from saas_api.api_keys import queries
from saas_api.api_keys import service as api_keys
from saas_api.api_keys.queries import Described
from saas_api.cli.acting import answer, operating_person, refuse_unknown
from saas_api.cli.boot import Commands, Stopped
from saas_api.cli.reading import WireId, json_option
from saas_api.core import clock, tenancy
from saas_api.core.access import SCOPES
from saas_api.core.ids import wire_id

group = Commands("keys", help="API keys of organizations.")
PAGE = 100
organization_option = click.option(
    "--organization", "organization_id", type=WireId("org"), metavar="ID", required=True, help="Whose keys."
)


def read_scopes(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[str] | None:
    """`messages:write,usage:read` as a list."""
    if text is None:
        return None
    named = [part.strip() for part in text.split(",") if part.strip()]
    unknown = sorted({*named} - SCOPES)
    if unknown or not named:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no scope; there are {', '.join(sorted(SCOPES))}."
        )
    return named


def read_name(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """A name as the API takes it."""
    name = text.strip()
    if not 1 <= len(name) <= 100:
        raise click.BadParameter("it has 1 to 100 characters.")
    return name


@group.command("create")
@organization_option
@click.option("--name", required=True, callback=read_name, help="What the key is for.")
@click.option("--mode", type=click.Choice(["live", "test"]), default="live", show_default=True)
@click.option("--scopes", metavar="SCOPE,...", callback=read_scopes, help="What it may do; all if not given.")
@json_option
def create(*, organization_id: UUID, name: str, mode: str, scopes: list[str] | None, as_json: bool) -> None:
    """Make an API key and print it; it is shown this once and kept nowhere.

    Example: flask keys create --organization org_... --name "night batch" --mode test --scopes messages:write
    """
    refuse_unknown(organization_id)
    with tenancy.transaction(organization_id) as session:
        made = api_keys.create(
            session, organization_id, None, name=name, mode=mode, scopes=scopes, operator=operating_person()
        )
    found = {**_shown(made.key), "organization_id": wire_id("org", organization_id), "key": made.text}
    lines = [f"{found['id']}  {mode}  {', '.join(made.key.scopes)}", "Keep this; it is not shown again:", made.text]
    answer(found, lines, as_json=as_json)


@group.command("list")
@organization_option
@json_option
def list_keys(*, organization_id: UUID, as_json: bool) -> None:
    """List an organization's API keys, masked, the newest first.

    Example: flask keys list --organization org_...
    """
    refuse_unknown(organization_id)
    with tenancy.transaction(organization_id) as session:
        keys = [_shown(key) for page in _pages(session, organization_id) for key in page]
    lines = [
        f"{key['id']}  {key['masked']}  {key['mode']:<4}  {key['status']:<7}  "
        f"last used {key['last_used_at'] or 'never'}  {key['name']}"
        for key in keys
    ]
    answer({"keys": keys}, lines or ["It has no API keys."], as_json=as_json)


@group.command("revoke")
@click.argument("key_id", metavar="KEY", type=WireId("key"))
@json_option
def revoke(*, key_id: UUID, as_json: bool) -> None:
    """End an API key at once, in every process; one that has ended stays so.

    Example: flask keys revoke key_...
    """
    with tenancy.as_system("cli.keys") as session:
        organization_id = queries.organization_of(session, key_id)
    if organization_id is None:
        raise Stopped(f"There is no API key {wire_id('key', key_id)}; flask keys list shows an organization's.")
    with tenancy.transaction(organization_id) as session:
        key = api_keys.withdraw(session, organization_id, key_id, operating_person(), "revoked by an operator")
    found = _shown(key)
    answer(found, [f"{found['id']} ({key.name}, {key.masked}) is revoked."], as_json=as_json)


def _pages(session: Any, organization_id: UUID) -> Iterator[list[Described]]:
    cursor = None
    while True:
        query = {"mode": None, "status": None, "limit": PAGE, "cursor": cursor}
        page = queries.list_keys(session, organization_id, query)
        yield list(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _shown(key: Described) -> dict[str, Any]:
    return {
        "id": wire_id("key", key.id),
        "name": key.name,
        "masked": key.masked,
        "mode": key.mode,
        "scopes": list(key.scopes),
        "status": key.status,
        "created_at": clock.rfc3339(key.created_at),
        "last_used_at": key.last_used_at and clock.rfc3339(key.last_used_at),
        "revoked_at": key.revoked_at and clock.rfc3339(key.revoked_at),
    }
