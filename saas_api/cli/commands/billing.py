"""Close, credit, void, grant, finalize, release, invariants, sync."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from click.exceptions import Exit

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import credit_notes, invoice_lifecycle, invoices, period_close, periods, plans, wallet
from saas_api.billing import invariants as billing_invariants
from saas_api.billing.credit_notes import CREDIT_NOTE_REASONS, CreditNoteInput
from saas_api.billing.invariants import CheckResult, Violation
from saas_api.billing.invoice_lifecycle import InvoiceSummary
from saas_api.billing.models import GrantKind
from saas_api.billing.period_close import CloseResult
from saas_api.billing.wallet import GrantSource
from saas_api.cli import output, types
from saas_api.cli.errors import EXIT_PROBLEMS, CommandError, CommandGroup
from saas_api.cli.types import INSTANT, PublicId
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy

group = CommandGroup("billing", help="Periods and invoices.")


@dataclass(frozen=True)
class _Request:
    organization_id: UUID | None
    is_now: bool
    at: datetime
    is_dry: bool


@group.command("sync")
@types.json_option
def sync(*, as_json: bool) -> None:
    """Publish new versions of the small plans when BILLING_RATE_PER_REQUEST has changed.

    Example: flask billing sync
    """
    published = plans.sync_setting_price()
    if published:
        output.record_audit("plan.synced", ("plan", ",".join(published)), {"versions": published})
    lines = [f"{version} published" for version in published] or ["The catalogue is current."]
    output.print_result({"published": published}, lines, as_json=as_json)


@group.command("close")
@types.organization_option
@click.option("--now", "is_now", is_flag=True, help="End the running period at this moment and invoice it.")
@types.at_option
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the drafts, write nothing.")
@types.json_option
def close(*, organization_id: UUID | None, is_now: bool, at: datetime | None, is_dry: bool, as_json: bool) -> None:
    """Close and invoice what is due.

    Example: flask billing close --now --organization org_...
    """
    if is_now and (organization_id is None or at is not None):
        raise click.UsageError("--now needs --organization, and no --at.")
    output.require_organization(organization_id)
    outcome = _run_close(_Request(organization_id, is_now, types.effective_now(at), is_dry), is_silent=as_json)
    if outcome.closed or (outcome.invoices and not is_dry):
        numbers = [summary.number for summary in outcome.invoices]
        told = {"closed": outcome.closed, "invoices": numbers, "is_now": is_now}
        output.record_audit("billing.closed", ("billing", "periods"), told, organization_id=organization_id)
    _print_result(outcome, is_dry=is_dry, as_json=as_json)
    if outcome.failed:
        raise CommandError(f"{len(outcome.failed)} organizations were not closed; the log says why. Run it again then.")


def _run_close(request: _Request, *, is_silent: bool) -> CloseResult:
    if request.is_now and request.organization_id:
        if request.is_dry:
            return CloseResult(invoices=period_close.preview_now(request.organization_id))
        return period_close.close_now(request.organization_id)
    if request.is_dry:
        return CloseResult(invoices=period_close.preview_due(request.at, request.organization_id))
    periods.ensure_accounts(request.at, request.organization_id)
    over = output.progress("Closing periods", is_silent=is_silent)
    return period_close.close_due(request.at, request.organization_id, over)


def _print_result(outcome: CloseResult, *, is_dry: bool, as_json: bool) -> None:
    invoices = [_invoice(summary) for summary in outcome.invoices]
    lines = [
        f"{invoice['number'] or '(draft)'} {invoice['organization_id']} {invoice['total_amount']} {invoice['currency']}"
        for invoice in invoices
    ]
    done = "would be written" if is_dry else "were written"
    lines.append(f"Periods closed: {outcome.closed}. Invoices that {done}: {len(invoices)}.")
    output.print_result({"closed": outcome.closed, "invoices": invoices, "dry_run": is_dry}, lines, as_json=as_json)


def _invoice(summary: InvoiceSummary) -> dict[str, Any]:
    return {
        "id": summary.id and ids.format_id("inv", summary.id),
        "number": summary.number,
        "organization_id": ids.format_id("org", summary.organization_id),
        "total_amount": money.format_minor(summary.total_minor, summary.currency),
        "currency": summary.currency,
        "status": summary.status,
    }


_CURRENCY = "USD"


organization_argument = click.argument("organization", type=PublicId("org"))
invoice_argument = click.argument("invoice", type=PublicId("inv"))
reason_option = click.option("--reason", required=True, help="For the organization's log of acts.")


@group.command("credit")
@organization_argument
@invoice_argument
@reason_option
@click.option("--kind", type=click.Choice(CREDIT_NOTE_REASONS), default="billing_error", show_default=True)
@click.option("--amount", help="Taken off the lines in their order; without it, all that is left.")
@click.option("--line", "lines", multiple=True, metavar="ID=AMOUNT", help="Take an amount off one line.")
@click.option("--refund", "is_refund", is_flag=True, help="Send back what was paid, instead of filling the wallet.")
@types.json_option
def credit(*, organization: UUID, invoice: UUID, reason: str, as_json: bool, **options: Any) -> None:
    """Write a credit note; it lowers what is due first, the rest goes to the wallet.

    Example: flask billing credit org_... inv_... --amount 12.35 --reason "ticket 4711: wrong figures"
    """
    with tenancy.system_session("billing.corrections") as session:
        currency = invoices.get_invoice(session, organization, invoice).currency
        wanted = CreditNoteInput(
            options["kind"],
            dict(_line(text, currency) for text in options["lines"]),
            options["amount"] and _amount(options["amount"], currency),
            reason,
            is_refund=options["is_refund"],
        )
        note = credit_notes.create_credit_note(session, organization, invoice, wanted, _operator_context(reason))
    parts = {"due": note.to_due_minor, "wallet": note.to_wallet_minor, "refund": note.to_refund_minor}
    told = ", ".join(f"{money.format_minor(minor, currency)} to {name}" for name, minor in parts.items() if minor)
    total = money.format_minor(note.total_minor, currency)
    amounts = {f"to_{name}": money.format_minor(minor, currency) for name, minor in parts.items()}
    found = {"number": note.number, "total_amount": total, "currency": currency, **amounts}
    output.print_result(found, [f"{note.number} {total} {currency}: {told}."], as_json=as_json)


@group.command("void")
@organization_argument
@invoice_argument
@reason_option
@click.option("--replace", "is_replaced", is_flag=True, help="Write a new invoice for the period.")
@types.json_option
def void(*, organization: UUID, invoice: UUID, reason: str, is_replaced: bool, as_json: bool) -> None:
    """Take back an invoice on which no payment is booked.

    Example: flask billing void org_... inv_... --reason "wrong tax id" --replace
    """
    with tenancy.system_session("billing.corrections") as session:
        replacement = invoice_lifecycle.void_invoice(
            session, organization, invoice, _operator_context(reason), is_replaced=is_replaced
        )
    found, line = _described(replacement) if replacement else (None, "")
    lines = [f"{ids.format_id('inv', invoice)} is void.", *filter(None, [line])]
    output.print_result(
        {"id": ids.format_id("inv", invoice), "status": "void", "replacement": found}, lines, as_json=as_json
    )


@group.command("grant")
@organization_argument
@click.argument("amount")
@reason_option
@click.option("--kind", type=click.Choice(["promotional", "purchased"]), default="promotional", show_default=True)
@click.option("--expires-at", type=INSTANT, metavar="TIME", help="When the rest of it is lost.")
@click.option("--key", help="Of its source, which pays once; repeat the command safely with the same one.")
@types.json_option
def grant(*, organization: UUID, amount: str, reason: str, kind: str, as_json: bool, **source: Any) -> None:
    """Put money into an organization's wallet, for its next invoices.

    Example: flask billing grant org_... 25.00 --reason "welcome"
    """
    minor, expires_at = _amount(amount, _CURRENCY), source["expires_at"]
    paid_by = GrantSource(f"operator:{source['key'] or ids.new_id()}", GrantKind(kind))
    output.require_organization(organization)
    with tenancy.system_session("billing.corrections") as session:
        grant_id = wallet.grant_credit(
            session, organization, paid_by, minor, _operator_context(reason), expires_at=expires_at
        )
    name, text = ids.format_id("grt", grant_id), money.format_minor(minor, _CURRENCY)
    found = {
        "id": name,
        "amount": text,
        "currency": _CURRENCY,
        "expires_at": expires_at and clock.format_rfc3339(expires_at),
    }
    output.print_result(found, [f"{name} {text} {_CURRENCY} in the wallet."], as_json=as_json)


@group.command("finalize")
@organization_argument
@invoice_argument
@reason_option
@click.option("--redo", "is_redone", is_flag=True, help="Only work the draft out anew.")
@click.option("--delete", "is_deleted", is_flag=True, help="Drop the draft; its period is not billed.")
@types.json_option
def finalize(
    *, organization: UUID, invoice: UUID, reason: str, is_redone: bool, is_deleted: bool, as_json: bool
) -> None:
    """Finalize a draft that was looked at, work it out anew, or drop it.

    Example: flask billing finalize org_... inv_... --reason "reviewed"
    """
    if is_redone and is_deleted:
        raise click.UsageError("--redo and --delete exclude each other.")
    with tenancy.system_session("billing.corrections") as session:
        if is_deleted:
            invoice_lifecycle.delete_draft(session, organization, invoice, _operator_context(reason))
            name = ids.format_id("inv", invoice)
            found, line = {"id": name, "status": "deleted"}, f"{name} is deleted."
        else:
            act = invoice_lifecycle.recalculate_draft if is_redone else invoice_lifecycle.finalize_invoice
            found, line = _described(act(session, organization, invoice, _operator_context(reason)))
    output.print_result(found, [line], as_json=as_json)


@group.command("release")
@organization_argument
@reason_option
@types.json_option
def unpark(*, organization: UUID, reason: str, as_json: bool) -> None:
    """Let an organization's invoices be finalized again, after a check had found something wrong.

    Example: flask billing release org_... --reason "ticket 4711: repaired"
    """
    output.require_organization(organization)
    with tenancy.system_session("billing.corrections") as session:
        is_done = invoice_lifecycle.release_billing(session, organization, _operator_context(reason))
    line = "It is billed again; its drafts wait for finalize." if is_done else "It was not parked."
    output.print_result({"was_parked": is_done}, [line], as_json=as_json)


def _operator_context(reason: str) -> OperatorContext:
    return OperatorContext(output.current_os_user(), reason)


def _described(summary: InvoiceSummary) -> tuple[dict[str, Any], str]:
    """An invoice for programs, and as a line."""
    found = {
        "id": summary.id and ids.format_id("inv", summary.id),
        "number": summary.number,
        "total_amount": money.format_minor(summary.total_minor, summary.currency),
        "currency": summary.currency,
        "status": summary.status,
    }
    line = "{number} {id} {total_amount} {currency} {status}".format_map(
        {**found, "number": summary.number or "(draft)"}
    )
    return found, line


def _line(text: str, currency: str) -> tuple[UUID, int]:
    name, _, amount = text.partition("=")
    try:
        return ids.parse_id("lin", name), _amount(amount, currency)
    except ValueError:
        raise CommandError(f"{name} is no id of a line; write lin_...=12.35.") from None


def _amount(text: str, currency: str) -> int:
    try:
        return money.parse_minor(text, currency)
    except ValueError:
        raise CommandError(f"{text} is no amount in {currency}; write 12.35.") from None


@group.command("invariants")
@types.organization_option
@types.json_option
def invariants(*, organization_id: UUID | None, as_json: bool) -> None:
    """Check what must be true of the books; ends with 3 when something is not, and parks who is affected.

    Example: flask billing invariants --organization org_...
    """
    output.require_organization(organization_id)
    results = billing_invariants.check_invariants(
        organization_id, progress=output.progress("Checking the books", is_silent=as_json)
    )
    lines = []
    for result in results:
        lines.append(f"{result.check.name:<20} {len(result.violations) or 'holds'}")
        lines += [f"  {_organization_text(found)}: {found.what}" for found in result.violations]
    output.print_result({"checks": [_to_json(result) for result in results]}, lines, as_json=as_json)
    if any(result.violations for result in results):
        raise Exit(EXIT_PROBLEMS)


def _to_json(result: CheckResult) -> dict[str, Any]:
    violations = [
        {"organization_id": found.organization_id and ids.format_id("org", found.organization_id), "what": found.what}
        for found in result.violations
    ]
    return {"name": result.check.name, "violations": violations}


def _organization_text(found: Violation) -> str:
    return ids.format_id("org", found.organization_id) if found.organization_id else "platform"
