"""Run, list."""

from datetime import datetime
from typing import Any

from saas_api.cli import output, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core import clock, ids, money
from saas_api.payments import dunning
from saas_api.payments.dunning import DunningRunView

group = CommandGroup("dunning", help="The pursuit of unpaid invoices.")


@group.command("run")
@types.at_option
@types.json_option
def run(*, at: datetime | None, as_json: bool) -> None:
    """Take every step that is due.

    A step over a day late moves the later ones by its delay, so --at walks through a pursuit step by step.

    Example: flask dunning run --at 2026-05-18T00:00:00Z
    """
    outcome = dunning.run_dunning(types.effective_now(at))
    steps = [
        {"organization_id": ids.format_id("org", done.organization_id), "invoice": done.number, "action": done.action}
        for done in outcome.done
    ]
    found = {"planned": outcome.planned, "ended": outcome.ended, "steps": steps}
    if outcome.planned or outcome.ended or steps:
        output.record_audit("dunning.ran", ("dunning", "steps"), found)
    lines = [f"{step['invoice']}  {step['organization_id']}  {step['action']}" for step in steps]
    lines.append(f"Planned: {outcome.planned}. Ended: {outcome.ended}. Steps taken: {len(steps)}.")
    output.print_result(found, lines, as_json=as_json)
    if outcome.failed:
        raise CommandError(f"{len(outcome.failed)} invoices were not pursued; the log says why. Run it again then.")


@group.command("list")
@types.json_option
def list_runs(*, as_json: bool) -> None:
    """Show every invoice that is not settled, and what comes next.

    Example: flask dunning list
    """
    shown = [_to_json(pursuit) for pursuit in dunning.list_dunning_runs()]
    lines = []
    for pursuit in shown:
        following = f"{pursuit['next_action']} at {pursuit['next_at']}" if pursuit["next_at"] else "nothing more"
        lines.append(
            f"{pursuit['invoice']}  {pursuit['organization_id']}  {pursuit['due_amount']} {pursuit['currency']}  "
            f"due {pursuit['due_at']}  {pursuit['standing']}  next: {following}"
        )
    output.print_result({"pursuits": shown}, lines or ["Nothing is pursued."], as_json=as_json)


def _to_json(pursuit: DunningRunView) -> dict[str, Any]:
    return {
        "organization_id": ids.format_id("org", pursuit.organization_id),
        "invoice": pursuit.number,
        "due_amount": money.format_minor(pursuit.due_minor, pursuit.currency),
        "currency": pursuit.currency,
        "due_at": clock.format_rfc3339(pursuit.due_at),
        "standing": pursuit.standing,
        "next_action": pursuit.next_action,
        "next_at": clock.format_rfc3339(pursuit.next_at) if pursuit.next_at else None,
    }
