"""`flask dunning`: pursue unpaid invoices by hand as the minute's run would, and see who is pursued."""

from datetime import datetime
from typing import Any

from saas_api.cli.acting import answer, note
from saas_api.cli.boot import Commands, Stopped
from saas_api.cli.reading import at_option, json_option, taken_for_now
from saas_api.core import clock
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.payments.service import dunning

group = Commands("dunning", help="The pursuit of unpaid invoices.")


@group.command("run")
@at_option
@json_option
def run(*, at: datetime | None, as_json: bool) -> None:
    """Take every step that is due.

    A step over a day late moves the later ones by its delay, so --at walks through a pursuit step by step.

    Example: flask dunning run --at 2026-05-18T00:00:00Z
    """
    outcome = dunning.run(taken_for_now(at))
    steps = [
        {"organization_id": wire_id("org", done.organization_id), "invoice": done.number, "action": done.action}
        for done in outcome.done
    ]
    found = {"planned": outcome.planned, "ended": outcome.ended, "steps": steps}
    if outcome.planned or outcome.ended or steps:
        note("dunning.ran", ("dunning", "steps"), found)
    lines = [f"{step['invoice']}  {step['organization_id']}  {step['action']}" for step in steps]
    lines.append(f"Planned: {outcome.planned}. Ended: {outcome.ended}. Steps taken: {len(steps)}.")
    answer(found, lines, as_json=as_json)
    if outcome.failed:
        raise Stopped(f"{len(outcome.failed)} invoices were not pursued; the log says why. Run it again then.")


@group.command("list")
@json_option
def list_pursuits(*, as_json: bool) -> None:
    """Show every invoice that is not settled, and what comes next.

    Example: flask dunning list
    """
    shown = [_shown(pursuit) for pursuit in dunning.pursued()]
    lines = []
    for pursuit in shown:
        following = f"{pursuit['next_action']} at {pursuit['next_at']}" if pursuit["next_at"] else "nothing more"
        lines.append(
            f"{pursuit['invoice']}  {pursuit['organization_id']}  {pursuit['due_amount']} {pursuit['currency']}  "
            f"due {pursuit['due_at']}  {pursuit['standing']}  next: {following}"
        )
    answer({"pursuits": shown}, lines or ["Nothing is pursued."], as_json=as_json)


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
