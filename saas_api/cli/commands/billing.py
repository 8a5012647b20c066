"""Commands of billing: periods, invoices, credit and the nightly invariants."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from click.exceptions import Exit

from saas_api.accounts.audit import OperatorContext
from saas_api.admin import actions
from saas_api.billing import credit_notes, invoices, period_close, periods, plan_migrations, wallet
from saas_api.billing import invariants as billing_invariants
from saas_api.billing.credit_notes import CREDIT_NOTE_REASONS, CreditNoteInput
from saas_api.billing.invariants import CheckResult, Violation
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import GrantKind
from saas_api.billing.period_close import CloseResult
from saas_api.billing.schemas import InvoiceOut
from saas_api.billing.wallet import GrantSource
from saas_api.cli import action_commands, output, types
from saas_api.cli.action_commands import REASON_HELP, Description
from saas_api.cli.errors import EXIT_PROBLEMS, CommandError, CommandGroup
from saas_api.cli.types import INSTANT, PublicId
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy

group = CommandGroup("billing", help="Periods and invoices.")


@dataclass(frozen=True)
class _CloseRequest:
    organization_id: UUID | None
    is_now: bool
    at: datetime
    is_dry: bool


@group.command("sync")
@types.json_option
def sync(*, as_json: bool) -> None:
    """Publish new versions of the small plans when BILLING_RATE_PER_REQUEST has changed.

    Organizations on the plans move to them with their next period, and a mail says so. No other difference moves them.

    Example: flask billing sync
    """
    result = plan_migrations.sync_setting_price(output.current_os_user())
    if result.published:
        data = {"versions": result.published, "moved": result.moved}
        output.record_audit("plan.synced", ("plan", ",".join(result.published)), data)
    lines = [f"{version} published" for version in result.published]
    if result.moved:
        lines.append(f"Organizations that move with their next period: {result.moved}.")
    output.print_result(
        {"published": result.published, "moved": result.moved}, lines or ["The catalogue is current."], as_json=as_json
    )


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
    result = _run_close(_CloseRequest(organization_id, is_now, types.effective_now(at), is_dry), is_silent=as_json)
    if result.closed or (result.invoices and not is_dry):
        numbers = [item.invoice.number for item in result.invoices]
        data = {"closed": result.closed, "invoices": numbers, "is_now": is_now}
        output.record_audit("billing.closed", ("billing", "periods"), data, organization_id=organization_id)
    _print_result(result, is_dry=is_dry, as_json=as_json)
    if result.failed:
        raise CommandError(f"{len(result.failed)} organizations were not closed; the log says why. Run it again then.")


def _run_close(request: _CloseRequest, *, is_silent: bool) -> CloseResult:
    if request.is_now and request.organization_id:
        if request.is_dry:
            return CloseResult(invoices=period_close.preview_now(request.organization_id))
        return period_close.close_now(request.organization_id)
    if request.is_dry:
        return CloseResult(invoices=period_close.preview_due(request.at, request.organization_id))
    periods.ensure_accounts(request.at, request.organization_id)
    progress = output.progress("Closing periods", is_silent=is_silent)
    return period_close.close_due(request.at, request.organization_id, progress)


def _print_result(result: CloseResult, *, is_dry: bool, as_json: bool) -> None:
    rows = [_invoice_to_json(item) for item in result.invoices]
    lines = [
        f"{row['number'] or '(draft)'} {row['organization_id']} {row['total_amount']} {row['currency']}" for row in rows
    ]
    verb = "would be written" if is_dry else "were written"
    lines.append(f"Periods closed: {result.closed}. Invoices that {verb}: {len(rows)}.")
    output.print_result({"closed": result.closed, "invoices": rows, "dry_run": is_dry}, lines, as_json=as_json)


def _invoice_to_json(item: InvoiceWithPeriod) -> dict[str, Any]:
    return {"organization_id": ids.format_id("org", item.invoice.organization_id), **InvoiceOut().dump(item)}


_CURRENCY = "USD"


organization_argument = click.argument("organization", type=PublicId("org"))
invoice_argument = click.argument("invoice", type=PublicId("inv"))
reason_option = click.option("--reason", required=True, help=REASON_HELP)


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
        content = CreditNoteInput(
            options["kind"],
            dict(_parse_line(text, currency) for text in options["lines"]),
            options["amount"] and _parse_amount(options["amount"], currency),
            reason,
            is_refund=options["is_refund"],
        )
        note = credit_notes.create_credit_note(session, organization, invoice, content, _operator_context(reason))
    parts = {"due": note.to_due_minor, "wallet": note.to_wallet_minor, "refund": note.to_refund_minor}
    split = ", ".join(f"{money.format_minor(minor, currency)} to {name}" for name, minor in parts.items() if minor)
    total = money.format_minor(note.total_minor, currency)
    amounts = {f"to_{name}": money.format_minor(minor, currency) for name, minor in parts.items()}
    data = {"number": note.number, "total_amount": total, "currency": currency, **amounts}
    output.print_result(data, [f"{note.number} {total} {currency}: {split}."], as_json=as_json)


@action_commands.action_command(group, "void", actions.get_action("invoice", "void"))
def void(replacement: InvoiceWithPeriod | None, _organization_id: UUID, invoice_id: UUID) -> Description:
    """Void an invoice on which no payment is booked.

    Example: flask billing void org_... inv_... --reason "wrong tax id" --replace
    """
    public_id = ids.format_id("inv", invoice_id)
    data, line = _describe(replacement) if replacement else (None, "")
    return {"id": public_id, "status": "void", "replacement": data}, [f"{public_id} is void.", *filter(None, [line])]


@group.command("grant")
@organization_argument
@click.argument("amount")
@reason_option
@click.option("--kind", type=click.Choice(["promotional", "purchased"]), default="promotional", show_default=True)
@click.option("--expires-at", type=INSTANT, metavar="TIME", help="When the rest of it is lost.")
@click.option("--key", help="Idempotency key: the same key grants credit only once.")
@types.json_option
def grant(*, organization: UUID, amount: str, reason: str, kind: str, as_json: bool, **source: Any) -> None:
    """Put money into an organization's wallet, for its next invoices.

    Example: flask billing grant org_... 25.00 --reason "welcome"
    """
    minor, expires_at = _parse_amount(amount, _CURRENCY), source["expires_at"]
    grant_source = GrantSource(f"operator:{source['key'] or ids.new_id()}", GrantKind(kind))
    output.require_organization(organization)
    with tenancy.system_session("billing.corrections") as session:
        grant_id = wallet.grant_credit(
            session, organization, grant_source, minor, _operator_context(reason), expires_at=expires_at
        )
    public_id, text = ids.format_id("grt", grant_id), money.format_minor(minor, _CURRENCY)
    data = {
        "id": public_id,
        "amount": text,
        "currency": _CURRENCY,
        "expires_at": expires_at and clock.format_rfc3339(expires_at),
    }
    output.print_result(data, [f"{public_id} {text} {_CURRENCY} in the wallet."], as_json=as_json)


@action_commands.action_command(
    group,
    "finalize",
    actions.get_action("invoice", "finalize"),
    variants={
        "--redo": (actions.get_action("invoice", "redo"), "Recalculate the draft instead."),
        "--delete": (actions.get_action("invoice", "delete"), "Drop the draft; its period is not billed."),
    },
)
def finalize(invoice: InvoiceWithPeriod | None, _organization_id: UUID, invoice_id: UUID) -> Description:
    """Finalize, recalculate or delete a draft invoice.

    Example: flask billing finalize org_... inv_... --reason "reviewed"
    """
    if invoice is None:
        public_id = ids.format_id("inv", invoice_id)
        return {"id": public_id, "status": "deleted"}, [f"{public_id} is deleted."]
    data, line = _describe(invoice)
    return data, [line]


@action_commands.action_command(
    group, "release", actions.get_action("billing_account", "unpark"), require=output.require_organization
)
def release(was_on_hold: bool, _organization_id: UUID) -> Description:
    """Let an organization's invoices be finalized again, after a check had found something wrong.

    Example: flask billing release org_... --reason "ticket 4711: repaired"
    """
    line = "It is billed again; its drafts wait for finalize." if was_on_hold else "It was not on hold."
    return {"was_on_hold": was_on_hold}, [line]


def _operator_context(reason: str) -> OperatorContext:
    return OperatorContext(output.current_os_user(), reason)


def _describe(item: InvoiceWithPeriod) -> tuple[dict[str, Any], str]:
    data = InvoiceOut().dump(item)
    line = "{number} {id} {total_amount} {currency} {status}".format_map(
        {**data, "number": item.invoice.number or "(draft)"}
    )
    return data, line


def _parse_line(text: str, currency: str) -> tuple[UUID, int]:
    line_id, _, amount = text.partition("=")
    try:
        return ids.parse_id("lin", line_id), _parse_amount(amount, currency)
    except ValueError:
        raise CommandError(f"{line_id} is no id of a line; write lin_...=12.35.") from None


def _parse_amount(text: str, currency: str) -> int:
    try:
        return money.parse_minor(text, currency)
    except ValueError:
        raise CommandError(f"{text} is no amount in {currency}; write 12.35.") from None


@group.command("invariants")
@types.organization_option
@types.json_option
def invariants(*, organization_id: UUID | None, as_json: bool) -> None:
    """Check what must be true of the books; ends with 3 when something is not.

    Some checks put the billing of the affected organizations on hold.

    Example: flask billing invariants --organization org_...
    """
    output.require_organization(organization_id)
    results = billing_invariants.check_invariants(
        organization_id, progress=output.progress("Checking the books", is_silent=as_json)
    )
    lines = []
    for result in results:
        lines.append(f"{result.check.name:<20} {len(result.violations) or 'holds'}")
        lines += [f"  {_organization_text(violation)}: {violation.what}" for violation in result.violations]
    output.print_result({"checks": [_to_json(result) for result in results]}, lines, as_json=as_json)
    if any(result.violations for result in results):
        raise Exit(EXIT_PROBLEMS)


def _to_json(result: CheckResult) -> dict[str, Any]:
    violations = [
        {
            "organization_id": violation.organization_id and ids.format_id("org", violation.organization_id),
            "what": violation.what,
        }
        for violation in result.violations
    ]
    return {"name": result.check.name, "violations": violations}


def _organization_text(violation: Violation) -> str:
    return ids.format_id("org", violation.organization_id) if violation.organization_id else "platform"
