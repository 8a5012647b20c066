"""`flask billing close`: close and invoice by hand what the hourly run would, or the running period at this moment."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from saas_api.billing import service as billing
from saas_api.cli.acting import answer, note, refuse_unknown, watched
from saas_api.cli.boot import Commands, Stopped
from saas_api.cli.reading import at_option, json_option, organization_option, taken_for_now
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text

group = Commands("billing", help="Periods and invoices.")


@dataclass(frozen=True)
class _Request:
    organization_id: UUID | None
    is_now: bool
    at: datetime
    is_dry: bool


@group.command("sync")
@json_option
def sync(*, as_json: bool) -> None:
    """Publish new versions of the small plans when BILLING_RATE_PER_REQUEST has changed.

    Example: flask billing sync
    """
    published = billing.sync_rate()
    if published:
        note("plan.synced", ("plan", ",".join(published)), {"versions": published})
    lines = [f"{version} published" for version in published] or ["The catalogue is current."]
    answer({"published": published}, lines, as_json=as_json)


@group.command("close")
@organization_option
@click.option("--now", "is_now", is_flag=True, help="End the running period at this moment and invoice it.")
@at_option
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the drafts, write nothing.")
@json_option
def close(*, organization_id: UUID | None, is_now: bool, at: datetime | None, is_dry: bool, as_json: bool) -> None:
    """Close and invoice what is due.

    Example: flask billing close --now --organization org_...
    """
    if is_now and (organization_id is None or at is not None):
        raise click.UsageError("--now needs --organization, and no --at.")
    refuse_unknown(organization_id)
    outcome = _run(_Request(organization_id, is_now, taken_for_now(at), is_dry), is_silent=as_json)
    if outcome.closed or (outcome.invoices and not is_dry):
        numbers = [summary.number for summary in outcome.invoices]
        told = {"closed": outcome.closed, "invoices": numbers, "is_now": is_now}
        note("billing.closed", ("billing", "periods"), told, organization_id=organization_id)
    _print(outcome, is_dry=is_dry, as_json=as_json)
    if outcome.failed:
        raise Stopped(f"{len(outcome.failed)} organizations were not closed; the log says why. Run it again then.")


def _run(request: _Request, *, is_silent: bool) -> billing.Outcome:
    if request.is_now and request.organization_id:
        if request.is_dry:
            return billing.Outcome(invoices=billing.drafts_now(request.organization_id))
        return billing.close_now(request.organization_id)
    if request.is_dry:
        return billing.Outcome(invoices=billing.drafts_due(request.at, request.organization_id))
    billing.keep_accounts(request.at, request.organization_id)
    over = watched("Closing periods", is_silent=is_silent)
    return billing.close_due(request.at, request.organization_id, over)


def _print(outcome: billing.Outcome, *, is_dry: bool, as_json: bool) -> None:
    invoices = [_invoice(summary) for summary in outcome.invoices]
    lines = [
        f"{invoice['number'] or '(draft)'} {invoice['organization_id']} {invoice['total_amount']} {invoice['currency']}"
        for invoice in invoices
    ]
    done = "would be written" if is_dry else "were written"
    lines.append(f"Periods closed: {outcome.closed}. Invoices that {done}: {len(invoices)}.")
    answer({"closed": outcome.closed, "invoices": invoices, "dry_run": is_dry}, lines, as_json=as_json)


def _invoice(summary: billing.Summary) -> dict[str, Any]:
    return {
        "id": summary.id and wire_id("inv", summary.id),
        "number": summary.number,
        "organization_id": wire_id("org", summary.organization_id),
        "total_amount": minor_to_text(summary.total_minor, summary.currency),
        "currency": summary.currency,
        "status": summary.status,
    }
