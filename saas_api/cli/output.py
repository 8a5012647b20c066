"""Confirmation, progress, results, audit row of a command."""

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
from saas_api.core.db import tenancy


def current_os_user() -> Actor:
    """Whoever runs this command, as the log of acts names them: the user of the operating system."""
    return Actor("system", getpass.getuser())


def record_audit(
    action: str, target: tuple[str, object], data: Mapping[str, Any], *, organization_id: UUID | None = None
) -> None:
    """Write an act of this command into the log, where the service that acted does not.

    action: "room.verb"
    target: its type and id
    data: JSON-ready
    organization_id: None for an act on the platform
    """
    with tenancy.system_session("cli.note") as session:
        audit.record_event(session, organization_id, current_os_user(), action, target, data)


def require_organization(organization_id: UUID | None) -> None:
    """Stop when there is no such organization; None, for all of them, is none that is missing.

    raises: Stopped
    """
    if organization_id is None:
        return
    try:
        with tenancy.tenant_session(organization_id) as session:
            organizations.get(session, organization_id)
    except OrganizationNotFound:
        name = ids.format_id("org", organization_id)
        raise CommandError(f"There is no organization {name}; its id stands in its dashboard's settings.") from None


def confirm_by_typing(word: str, question: str, *, is_sure: bool) -> None:
    """Go on only when a person types a word, or was sure from the start.

    raises: click.UsageError off a terminal, where nobody can be asked
    """
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This asks first, and nobody can be asked here: give --yes.")
    if click.prompt(f"{question} Type {word} to go on", err=True, default="", show_default=False) != word:
        raise click.Abort


def progress(label: str, *, is_silent: bool = False) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """A bar on stderr that shows how far the work through a list is; off a terminal its label alone.

    is_silent: show nothing
    """

    def through(things: Sequence[Any]) -> Iterator[Any]:
        with click.progressbar(things, label=label, file=sys.stderr, hidden=is_silent) as bar:
            yield from bar

    return through


def print_result(found: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print what a command found or did.

    found: JSON-ready, for programs
    lines: the same for people
    """
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in lines:
        click.echo(line)
