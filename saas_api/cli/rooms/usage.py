"""`flask usage rebuild`: make the rollups anew from the ledger, which decides in any doubt."""

import click

from saas_api.cli.boot import Commands
from saas_api.usage import service as usage

group = Commands("usage", help="Usage and its rollups.")


@group.command("rebuild")
def rebuild() -> None:
    """Make all rollups anew from the ledger; accepting waits meanwhile."""
    usage.rebuild_rollups()
    click.echo("Rollups rebuilt from the ledger.")
