"""Results, confirmation and progress of commands, and the audit events they record."""

import getpass
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import click

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.cli.errors import CommandError
from saas_api.core import ids
from saas_api.core.db import cells, tenancy


def current_os_user() -> Actor:
    """The user of the operating system who runs this command, as actor of audit events."""
    return Actor("system", getpass.getuser())


def record_audit(
    action: str, target: tuple[str, object], data: Mapping[str, Any], *, organization_id: UUID | None = None
) -> None:
    """Record an audit event, for commands whose services record none.

    action: "noun.verb"
    target: type and id of the object
    data: JSON-ready
    organization_id: None for an event of the platform
    """
    with tenancy.system_session("cli.note") as session:
        audit.record_event(session, organization_id, current_os_user(), action, target, data)


def require_organization(organization_id: UUID | None) -> None:
    """Fail when an organization does not exist, and work in its cell from here on; None stands for all of them.

    raises: CommandError
    """
    if organization_id is None:
        return
    cells.select(organization_id)
    try:
        with tenancy.tenant_session(organization_id) as session:
            organizations.get_organization(session, organization_id)
    except OrganizationNotFound:
        name = ids.format_id("org", organization_id)
        raise CommandError(f"There is no organization {name}; its id stands in its dashboard's settings.") from None


def confirm_by_typing(word: str, question: str, *, is_sure: bool) -> None:
    """Ask the user to type a word, unless `is_sure`.

    raises: click.Abort for another word; click.UsageError when stdin is not a terminal
    """
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This asks first, and there is no terminal to ask at: give --yes.")
    if click.prompt(f"{question} Type {word} to go on", err=True, default="", show_default=False) != word:
        raise click.Abort


def progress(label: str, *, is_silent: bool = False) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """A function that iterates a sequence with a progress bar on stderr; only its label when that is no terminal.

    is_silent: show nothing
    """

    def iterate(items: Sequence[Any]) -> Iterator[Any]:
        with click.progressbar(items, label=label, file=sys.stderr, hidden=is_silent) as bar:
            yield from bar

    return iterate


def print_result(data: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print the result of a command.

    data: JSON-ready, for programs
    lines: the same for people
    """
    if as_json:
        click.echo(json.dumps(data))
        return
    for line in lines:
        click.echo(line)
