"""`flask billing invariants`: look at the books now, all of them, as the nightly run does with the recent ones."""

import json
import sys
from typing import Any
from uuid import UUID

import click

from saas_api.billing import service as billing
from saas_api.cli.money.billing import group
from saas_api.core.ids import read_id, wire_id

VIOLATED = 3


@group.command("invariants")
@click.option("--organization", metavar="ID", help="Only this organization.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def invariants(*, organization: str | None, as_json: bool) -> None:
    """Check what must be true of the books; ends with 3 when something is not, and parks who is affected.

    Example: flask billing invariants --organization org_...
    """
    try:
        results = billing.check_invariants(_organization(organization))
    except billing.AlreadyChecking as error:
        sys.exit(error.message)
    if as_json:
        click.echo(json.dumps({"checks": [_shown(result) for result in results]}))
    else:
        for result in results:
            click.echo(f"{result.check.name:<20} {len(result.violations) or 'holds'}")
            for found in result.violations:
                click.echo(f"  {_owner(found)}: {found.what}")
    if any(result.violations for result in results):
        sys.exit(VIOLATED)


def _shown(result: billing.Result) -> dict[str, Any]:
    violations = [
        {"organization_id": found.organization_id and wire_id("org", found.organization_id), "what": found.what}
        for found in result.violations
    ]
    return {"name": result.check.name, "violations": violations}


def _owner(found: billing.Violation) -> str:
    return wire_id("org", found.organization_id) if found.organization_id else "platform"


def _organization(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return read_id("org", text)
    except ValueError:
        sys.exit(f"{text} is no id of an organization.")
