"""`flask usage rebuild`: make the rollups anew from the ledger, which decides in any doubt."""

from datetime import datetime
from uuid import UUID

import click

from saas_api.cli.acting import answer, note, refuse_unknown
from saas_api.cli.boot import Commands
from saas_api.cli.reading import INSTANT, json_option, organization_option
from saas_api.core import clock
from saas_api.core.ids import wire_id
from saas_api.usage import service as usage

group = Commands("usage", help="Usage and its rollups.")


@group.command("rebuild")
@click.option("--since", type=INSTANT, metavar="TIME", help="Only hours that begin at TIME or later.")
@organization_option
@json_option
def rebuild(*, since: datetime | None, organization_id: UUID | None, as_json: bool) -> None:
    """Make rollups anew from the ledger and tell how many were other than they should be.

    Without options all of them are made anew, and accepting waits meanwhile.

    Example: flask usage rebuild --organization org_... --since 2026-05-01T00:00:00Z
    """
    refuse_unknown(organization_id)
    done = usage.rebuild_rollups(since, organization_id)
    found = {
        "since": since and clock.rfc3339(since),
        "organization_id": organization_id and wire_id("org", organization_id),
        "rows": done.rows,
        "differences": done.differences,
    }
    note("usage.rebuilt", ("usage", "rollups"), found, organization_id=organization_id)
    line = f"Rollups rebuilt from the ledger: {done.rows}. Of these other than before: {done.differences}."
    answer(found, [line], as_json=as_json)
