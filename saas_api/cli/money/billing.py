"""`flask billing close`: close and invoice by hand what the hourly run would, or the running period at this moment."""

import json
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from saas_api.billing import service as billing
from saas_api.cli.boot import Commands
from saas_api.cli.times import taken_for_now
from saas_api.core import tenancy
from saas_api.core.ids import read_id, wire_id
from saas_api.core.money import minor_to_text
from saas_api.organizations import service as organizations

group = Commands("billing", help="Periods and invoices.")


@dataclass(frozen=True)
class _Request:
    organization_id: UUID | None
    is_now: bool
    at: datetime
    is_dry: bool


@group.command("sync")
def sync() -> None:
    """Publish new versions of the small plans when BILLING_RATE_PER_REQUEST has changed.

    Example: flask billing sync
    """
    published = billing.sync_rate()
    click.echo("\n".join(f"{version} published" for version in published) or "The catalogue is current.")


@group.command("close")
@click.option("--organization", metavar="ID", help="Only this organization.")
@click.option("--now", "is_now", is_flag=True, help="End the running period at this moment and invoice it.")
@click.option("--at", metavar="TIME", help="Take TIME for now in deciding what is due.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the drafts, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def close(*, organization: str | None, is_now: bool, at: str | None, is_dry: bool, as_json: bool) -> None:
    """Close and invoice what is due.

    Example: flask billing close --now --organization org_...
    """
    if is_now and (organization is None or at is not None):
        raise click.UsageError("--now needs --organization, and no --at.")
    request = _Request(_organization(organization), is_now, taken_for_now(at), is_dry)
    try:
        outcome = _run(request)
    except organizations.NoSuchOrganization:
        sys.exit(f"There is no organization {organization}.")
    _print(outcome, is_dry=is_dry, as_json=as_json)
    if outcome.failed:
        sys.exit(f"{len(outcome.failed)} organizations were not closed; the log says why.")


def _run(request: _Request) -> billing.Outcome:
    if request.is_now and request.organization_id:
        if request.is_dry:
            return billing.Outcome(invoices=billing.drafts_now(request.organization_id))
        return billing.close_now(request.organization_id)
    if request.organization_id:
        with tenancy.transaction(request.organization_id) as session:
            organizations.get(session, request.organization_id)
    if request.is_dry:
        return billing.Outcome(invoices=billing.drafts_due(request.at, request.organization_id))
    billing.keep_accounts(request.at, request.organization_id)
    return billing.close_due(request.at, request.organization_id)


def _organization(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return read_id("org", text)
    except ValueError:
        sys.exit(f"{text} is no id of an organization.")


def _print(outcome: billing.Outcome, *, is_dry: bool, as_json: bool) -> None:
    invoices = [_invoice(summary) for summary in outcome.invoices]
    if as_json:
        click.echo(json.dumps({"closed": outcome.closed, "invoices": invoices, "dry_run": is_dry}))
        return
    for invoice in invoices:
        number = invoice["number"] or "(draft)"
        click.echo(f"{number} {invoice['organization_id']} {invoice['total_amount']} {invoice['currency']}")
    done = "would be written" if is_dry else "were written"
    click.echo(f"Periods closed: {outcome.closed}. Invoices that {done}: {len(invoices)}.")


def _invoice(summary: billing.Summary) -> dict[str, Any]:
    return {
        "id": summary.id and wire_id("inv", summary.id),
        "number": summary.number,
        "organization_id": wire_id("org", summary.organization_id),
        "total_amount": minor_to_text(summary.total_minor, summary.currency),
        "currency": summary.currency,
        "status": summary.status,
    }
