"""`flask dunning`: pursue unpaid invoices by hand as the minute's run would, and see who is pursued."""

import json
import sys
from typing import Any

import click

from saas_api.cli.boot import Commands
from saas_api.cli.times import taken_for_now
from saas_api.core import clock
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.payments.service import dunning

group = Commands("dunning", help="The pursuit of unpaid invoices.")


@group.command("run")
@click.option("--at", metavar="TIME", help="Take TIME for now in deciding what is due; refused in production.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(*, at: str | None, as_json: bool) -> None:
    """Take every step that is due.

    A step over a day late moves the later ones by its delay, so --at walks through a pursuit step by step.

    Example: flask dunning run --at 2026-05-18T00:00:00Z
    """
    outcome = dunning.run(taken_for_now(at))
    steps = [
        {"organization_id": wire_id("org", done.organization_id), "invoice": done.number, "action": done.action}
        for done in outcome.done
    ]
    if as_json:
        click.echo(json.dumps({"planned": outcome.planned, "ended": outcome.ended, "steps": steps}))
    else:
        for step in steps:
            click.echo(f"{step['invoice']}  {step['organization_id']}  {step['action']}")
        click.echo(f"Planned: {outcome.planned}. Ended: {outcome.ended}. Steps taken: {len(steps)}.")
    if outcome.failed:
        sys.exit(f"{len(outcome.failed)} invoices were not pursued; the log says why.")


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_pursuits(*, as_json: bool) -> None:
    """Show every invoice that is not settled, and what comes next.

    Example: flask dunning list
    """
    shown = [_shown(pursuit) for pursuit in dunning.pursued()]
    if as_json:
        click.echo(json.dumps({"pursuits": shown}))
        return
    for pursuit in shown:
        following = f"{pursuit['next_action']} at {pursuit['next_at']}" if pursuit["next_at"] else "nothing more"
        click.echo(
            f"{pursuit['invoice']}  {pursuit['organization_id']}  {pursuit['due_amount']} {pursuit['currency']}  "
            f"due {pursuit['due_at']}  {pursuit['standing']}  next: {following}"
        )
    if not shown:
        click.echo("Nothing is pursued.")


def _shown(pursuit: dunning.Pursuit) -> dict[str, Any]:
    return {
        "organization_id": wire_id("org", pursuit.organization_id),
        "invoice": pursuit.number,
        "due_amount": minor_to_text(pursuit.due_minor, pursuit.currency),
        "currency": pursuit.currency,
        "due_at": clock.rfc3339(pursuit.due_at),
        "standing": pursuit.standing,
        "next_action": pursuit.next_action,
        "next_at": clock.rfc3339(pursuit.next_at) if pursuit.next_at else None,
    }
