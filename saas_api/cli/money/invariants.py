"""`flask billing invariants`: look at the books now, all of them, as the nightly run does with the recent ones."""

from typing import Any
from uuid import UUID

from click.exceptions import Exit

from saas_api.billing import service as billing
from saas_api.cli.acting import answer, refuse_unknown, watched
from saas_api.cli.boot import PROBLEMS_FOUND
from saas_api.cli.money.billing import group
from saas_api.cli.reading import json_option, organization_option
from saas_api.core.ids import wire_id


@group.command("invariants")
@organization_option
@json_option
def invariants(*, organization_id: UUID | None, as_json: bool) -> None:
    """Check what must be true of the books; ends with 3 when something is not, and parks who is affected.

    Example: flask billing invariants --organization org_...
    """
    refuse_unknown(organization_id)
    results = billing.check_invariants(organization_id, over=watched("Checking the books", is_silent=as_json))
    lines = []
    for result in results:
        lines.append(f"{result.check.name:<20} {len(result.violations) or 'holds'}")
        lines += [f"  {_owner(found)}: {found.what}" for found in result.violations]
    answer({"checks": [_shown(result) for result in results]}, lines, as_json=as_json)
    if any(result.violations for result in results):
        raise Exit(PROBLEMS_FOUND)


def _shown(result: billing.Result) -> dict[str, Any]:
    violations = [
        {"organization_id": found.organization_id and wire_id("org", found.organization_id), "what": found.what}
        for found in result.violations
    ]
    return {"name": result.check.name, "violations": violations}


def _owner(found: billing.Violation) -> str:
    return wire_id("org", found.organization_id) if found.organization_id else "platform"
