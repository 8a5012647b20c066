"""`flask usage`: usage and its rollups."""

from datetime import datetime
from uuid import UUID

import click

from saas_api.cli import output, types
from saas_api.cli.errors import CommandGroup
from saas_api.cli.types import INSTANT
from saas_api.core import clock, ids
from saas_api.usage import rollups

group = CommandGroup("usage", help="Usage and its rollups.")


@group.command("rebuild")
@click.option("--since", type=INSTANT, metavar="TIME", help="Only hours that begin at TIME or later.")
@types.organization_option
@types.json_option
def rebuild(*, since: datetime | None, organization_id: UUID | None, as_json: bool) -> None:
    """Rebuild rollups from the ledger and report how many differed.

    Without options, all rollups are rebuilt, and new messages wait until that is done.

    Example: flask usage rebuild --organization org_... --since 2026-05-01T00:00:00Z
    """
    output.require_organization(organization_id)
    result = rollups.rebuild_rollups(since, organization_id)
    data = {
        "since": since and clock.format_rfc3339(since),
        "organization_id": organization_id and ids.format_id("org", organization_id),
        "rows": result.rows,
        "differences": result.differences,
    }
    output.record_audit("usage.rebuilt", ("usage", "rollups"), data, organization_id=organization_id)
    line = f"Rollups rebuilt from the ledger: {result.rows}. Of these other than before: {result.differences}."
    output.print_result(data, [line], as_json=as_json)
