"""`flask audit`: the audit log."""

from dataclasses import asdict

import click
from click.exceptions import Exit

from saas_api.accounts import audit_chain
from saas_api.cli import output, types
from saas_api.cli.errors import EXIT_PROBLEMS, CommandGroup
from saas_api.core.db import tenancy

group = CommandGroup("audit", help="The audit log.")


def parse_head(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """A head of the chain as the command prints it."""
    if text is not None and not audit_chain.HEAD_FORM.fullmatch(text):
        raise click.BadParameter("expected POSITION:HASH as an earlier run printed it.")
    return text


@group.command("verify")
@click.option("--head", metavar="POSITION:HASH", callback=parse_head, help="Head printed by an earlier run.")
@types.json_option
def verify(*, head: str | None, as_json: bool) -> None:
    """Verify the hash chain of the audit log; exit with 3 if an event was changed, removed or inserted.

    Store the printed head outside the database. With --head, events cut off at the end are detected too.

    Example: flask audit verify --json
    """
    with tenancy.system_session("audit.command") as session:
        report = audit_chain.verify_chain(session, head)
    lines = [report.problem or f"The chain is intact; events: {report.events}", f"head  {report.head or '-'}"]
    output.print_result(asdict(report), lines, as_json=as_json)
    if report.problem:
        raise Exit(EXIT_PROBLEMS)
