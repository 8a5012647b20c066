"""`flask keys`: API keys of organizations."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from uuid import UUID

import click
from click.exceptions import Exit
from sqlalchemy.orm import Session

from saas_api.api_keys import key_scopes, keys, secrets
from saas_api.api_keys.models import KeyView
from saas_api.api_keys.schemas import CreatedKeyOut, KeyIn, KeyOut
from saas_api.cli import output, types
from saas_api.cli.errors import EXIT_PROBLEMS, CommandError, CommandGroup
from saas_api.cli.types import FieldType, PublicId
from saas_api.core import crypto, ids
from saas_api.core.access import KeyMode
from saas_api.core.db import tenancy
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.services import service_tokens

group = CommandGroup("keys", help="API keys of organizations.")
PAGE_SIZE = 100
organization_option = click.option(
    "--organization",
    "organization_id",
    type=PublicId("org"),
    metavar="ID",
    required=True,
    help="Organization that owns the keys.",
)


def parse_scopes(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[str] | None:
    """Scopes separated by commas as a list."""
    if text is None:
        return None
    scopes = [part.strip() for part in text.split(",") if part.strip()]
    if not scopes:
        raise click.BadParameter("name at least one, or leave the option out for full access.")
    return scopes


def _check_scopes(scopes: list[str] | None) -> None:
    try:
        key_scopes.check_known(scopes or [], key_scopes.list_offered_now())
    except ValidationFailed as error:
        raise click.BadParameter(error.details["fields"][0]["reason"], param_hint="--scopes") from error


@group.command("create")
@organization_option
@click.option("--name", required=True, type=FieldType(KeyIn().fields["name"]), help="What the key is for.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in KeyMode]),
    default=KeyMode.LIVE.value,
    show_default=True,
    help="Mode of the key.",
)
@click.option("--scopes", metavar="SCOPE,...", callback=parse_scopes, help="Scopes of the key; full access by default.")
@types.json_option
def create(*, organization_id: UUID, name: str, mode: str, scopes: list[str] | None, as_json: bool) -> None:
    """Create an API key and print its secret. The secret is shown once.

    Example: flask keys create --organization org_... --name "night batch" --mode test --scopes messages:write
    """
    _check_scopes(scopes)
    output.require_organization(organization_id)
    with tenancy.tenant_session(organization_id) as session:
        key = keys.create_key(
            session, organization_id, None, name=name, mode=mode, scopes=scopes, operator=output.current_os_user()
        )
    data = {**CreatedKeyOut().dump(key), "organization_id": ids.format_id("org", organization_id)}
    lines = [
        f"{data['id']}  {mode}  {'full access' if key.has_full_access else ', '.join(key.scopes)}",
        "Keep this; it is not shown again:",
        key.secret,
    ]
    output.print_result(data, lines, as_json=as_json)


@group.command("list")
@organization_option
@types.json_option
def list_keys(*, organization_id: UUID, as_json: bool) -> None:
    """List the API keys of an organization, newest first, with masked secrets.

    Example: flask keys list --organization org_...
    """
    output.require_organization(organization_id)
    with tenancy.tenant_session(organization_id) as session:
        data = KeyOut(many=True).dump(list(_iter_keys(session, organization_id)))
    lines = [
        f"{key['id']}  {key['masked']}  {key['mode']:<4}  {key['status']:<7}  "
        f"last used {key['last_used_at'] or 'never'}  {key['name']}"
        for key in data
    ]
    output.print_result({"keys": data}, lines or ["It has no API keys."], as_json=as_json)


@group.command("revoke")
@click.argument("key_id", metavar="KEY", type=PublicId("key"))
@types.json_option
def revoke(*, key_id: UUID, as_json: bool) -> None:
    """Revoke an API key. It stops working immediately.

    Example: flask keys revoke key_...
    """
    with tenancy.system_session("cli.keys") as session:
        organization_id = keys.find_key_organization(session, key_id)
    if organization_id is None:
        raise CommandError(
            f"There is no API key {ids.format_id('key', key_id)}; flask keys list shows an organization's."
        )
    with tenancy.tenant_session(organization_id) as session:
        key = keys.revoke_as(session, organization_id, key_id, output.current_os_user(), "revoked by an operator")
    data = KeyOut().dump(key)
    output.print_result(data, [f"{data['id']} ({key.name}, {key.masked}) is revoked."], as_json=as_json)


@group.command("pepper-status")
@types.json_option
def pepper_status(*, as_json: bool) -> None:
    """Count active secrets by pepper version; exit with 3 if API_KEY_PEPPER lacks a version in use.

    Service tokens are included. A secret moves to the current pepper when it is used. Remove an old pepper when no
    secret uses it.

    Example: flask keys pepper-status --json
    """
    peppers = read_peppers()
    lines = [f"version {version}: {count} ({peppers.describe(version)})" for version, count in peppers.counts.items()]
    output.print_result({**asdict(peppers)}, lines or ["There are no active secrets."], as_json=as_json)
    if peppers.lost:
        raise Exit(EXIT_PROBLEMS)


@dataclass(frozen=True)
class PepperStatus:
    """Active secrets of keys and tokens of services by the version of their pepper.

    current: version of new digests
    old: number of secrets under another one that API_KEY_PEPPER has
    lost: number of secrets under one that it lacks, whose keys are refused
    """

    counts: dict[int, int]
    current: int
    old: int
    lost: int

    def describe(self, version: int) -> str:
        """The standing of a version, for people."""
        if version == self.current:
            return "current"
        return "old" if version in crypto.pepper_versions() else "not in API_KEY_PEPPER: these keys are refused"


def read_peppers() -> PepperStatus:
    """Count the active secrets of all organizations and the active tokens of services."""
    with tenancy.system_session("cli.keys") as session:
        counts = Counter(secrets.count_by_pepper(session)) + Counter(service_tokens.count_by_pepper(session))
    current, *older = crypto.pepper_versions()
    lost = sum(count for version, count in counts.items() if version not in (current, *older))
    return PepperStatus(dict(sorted(counts.items())), current, sum(counts.get(version, 0) for version in older), lost)


def _iter_keys(session: Session, organization_id: UUID) -> Iterator[KeyView]:
    page = keys.list_keys(session, organization_id, PageRequest(PAGE_SIZE))
    yield from page.items
    while page.next_cursor:
        page = keys.list_keys(session, organization_id, PageRequest(PAGE_SIZE, page.next_cursor))
        yield from page.items
