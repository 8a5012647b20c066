"""Commands of dunning: run due steps, list dunning runs."""

from datetime import datetime
from typing import Any

from saas_api.cli import output, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core import clock, ids, money
from saas_api.payments import dunning
from saas_api.payments.dunning import DunningRunView

group = CommandGroup("dunning", help="Dunning of unpaid invoices.")


@group.command("run")
@types.at_option
@types.json_option
def run(*, at: datetime | None, as_json: bool) -> None:
    """Take every dunning step that is due.

    A step that is more than a day late delays the later ones by as much. With --at you can walk through them one by
    one.

    Example: flask dunning run --at 2026-05-18T00:00:00Z
    """
    outcome = dunning.run_dunning(types.effective_now(at))
    steps = [
        {"organization_id": ids.format_id("org", done.organization_id), "invoice": done.number, "action": done.action}
        for done in outcome.done
    ]
    data = {"planned": outcome.planned, "ended": outcome.ended, "steps": steps}
    if outcome.planned or outcome.ended or steps:
        output.record_audit("dunning.ran", ("dunning", "steps"), data)
    lines = [f"{step['invoice']}  {step['organization_id']}  {step['action']}" for step in steps]
    lines.append(f"Planned: {outcome.planned}. Ended: {outcome.ended}. Steps taken: {len(steps)}.")
    output.print_result(data, lines, as_json=as_json)
    if outcome.failed:
        raise CommandError(f"Dunning failed for {len(outcome.failed)} invoices; the log says why. Run it again then.")


@group.command("list")
@types.json_option
def list_runs(*, as_json: bool) -> None:
    """List unpaid invoices and the next dunning step of each.

    Example: flask dunning list
    """
    rows = [_to_json(run) for run in dunning.list_dunning_runs()]
    lines = []
    for row in rows:
        next_step = f"{row['next_action']} at {row['next_at']}" if row["next_at"] else "nothing more"
        lines.append(
            f"{row['invoice']}  {row['organization_id']}  {row['due_amount']} {row['currency']}  "
            f"due {row['due_at']}  {row['standing']}  next: {next_step}"
        )
    output.print_result({"dunning_runs": rows}, lines or ["There are no dunning runs."], as_json=as_json)


def _to_json(run: DunningRunView) -> dict[str, Any]:
    return {
        "organization_id": ids.format_id("org", run.organization_id),
        "invoice": run.number,
        "due_amount": money.format_minor(run.due_minor, run.currency),
        "currency": run.currency,
        "due_at": clock.format_rfc3339(run.due_at),
        "standing": run.standing,
        "next_action": run.next_action,
        "next_at": clock.format_rfc3339(run.next_at) if run.next_at else None,
    }
