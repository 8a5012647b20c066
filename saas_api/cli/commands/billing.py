"""Commands of billing: periods, invoices, credit and the nightly invariants."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from click.exceptions import Exit

from saas_api.admin import actions
from saas_api.billing import invariants as billing_invariants
from saas_api.billing import plan_migrations
from saas_api.billing.billing_terms import BillingTerms
from saas_api.billing.credit_notes import CreditNoteView
from saas_api.billing.invariants import CheckResult, Violation
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import CreditGrant
from saas_api.billing.period_close import CloseResult
from saas_api.billing.schemas import CreditNoteOut, GrantOut, InvoiceOut
from saas_api.billing.subscriptions import PlanChange
from saas_api.billing.wallet import GrantView
from saas_api.cli import action_commands, output, types
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import EXIT_PROBLEMS, CommandGroup
from saas_api.core import ids

group = CommandGroup("billing", help="Billing periods and invoices.")


@group.command("sync")
@types.json_option
def sync(*, as_json: bool) -> None:
    """Publish new versions of the small plans when BILLING_RATE_PER_REQUEST has changed.

    Organizations on these plans move with their next billing period and are told by email. A currency that has plans
    but no free plan gets one.

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


@action_commands.action_command(
    group,
    "close",
    actions.get_action("platform_billing", "close"),
    variants={
        "--now": (
            actions.get_action("organization", "bill-now"),
            "End the current period now and invoice it.",
        )
    },
    is_reason_required=False,
)
def close(result: CloseResult, _organization_id: UUID | None) -> Description:
    """Close billing periods that have ended, and invoice them.

    A repeat within an hour of --now ends the next period only if it has usage.

    Example: flask billing close --now --organization org_...
    """
    rows = [_invoice_to_json(item) for item in result.invoices]
    lines = [
        f"{row['number'] or '(draft)'} {row['organization_id']} {row['total_amount']} {row['currency']}" for row in rows
    ]
    verb = "would be written" if result.is_dry else "were written"
    lines.append(f"Periods closed: {result.closed}. Invoices that {verb}: {len(rows)}.")
    failed = len(result.failed)
    problem = f"{failed} organizations were not closed; the log says why. Run it again then." if failed else None
    return Description({"closed": result.closed, "invoices": rows, "dry_run": result.is_dry}, lines, problem)


def _invoice_to_json(item: InvoiceWithPeriod) -> dict[str, Any]:
    return {"organization_id": ids.format_id("org", item.invoice.organization_id), **InvoiceOut().dump(item)}


@action_commands.action_command(group, "credit", actions.get_action("invoice", "credit"))
def credit(view: CreditNoteView, _organization_id: UUID, _invoice_id: UUID) -> Description:
    """Write a credit note; it lowers what is due first, the rest goes to the wallet.

    Example: flask billing credit org_... inv_... --amount 12.35 --reason "ticket 4711: wrong figures"
    """
    data, note = CreditNoteOut().dump(view), view.note
    minors = {"due": note.to_due_minor, "wallet": note.to_wallet_minor, "refund": note.to_refund_minor}
    split = ", ".join(f"{data[f'to_{name}']} to {name}" for name, minor in minors.items() if minor)
    return Description(data, [f"{note.number} {data['amount']} {note.currency}: {split}."])


@action_commands.action_command(group, "void", actions.get_action("invoice", "void"))
def void(replacement: InvoiceWithPeriod | None, _organization_id: UUID, invoice_id: UUID) -> Description:
    """Void an invoice on which no payment is booked.

    Example: flask billing void org_... inv_... --reason "wrong tax id" --replace
    """
    public_id = ids.format_id("inv", invoice_id)
    data, line = _describe(replacement) if replacement else (None, "")
    lines = [f"{public_id} is void.", *filter(None, [line])]
    return Description({"id": public_id, "status": "void", "replacement": data}, lines)


@action_commands.action_command(group, "grant", actions.get_action("organization", "credit"))
def grant(credit_grant: CreditGrant, _organization_id: UUID) -> Description:
    """Put money into an organization's wallet, for its next invoices.

    Example: flask billing grant org_... 25.00 --reason "welcome"
    """
    data = GrantOut().dump(GrantView(credit_grant, ()))
    return Description(data, [f"{data['id']} {data['amount']} {data['currency']} in the wallet."])


@action_commands.action_command(group, "currency", actions.get_action("organization", "currency"))
def set_currency(change: PlanChange, organization_id: UUID) -> Description:
    """Change the currency of an organization that has no invoice above zero; it is on the plan free then.

    Example: flask billing currency org_... NGN --reason "pays by Paystack"
    """
    data = {
        "organization_id": ids.format_id("org", organization_id),
        "previous_currency": change.previous_currency,
        "currency": change.currency,
        "version": change.version.id,
    }
    return Description(data, [f"The currency is {change.currency}, and the plan {change.version.id}."])


@action_commands.action_command(group, "revoke", actions.get_action("credit_grant", "revoke"))
def revoke(view: GrantView, _organization_id: UUID, _grant_id: UUID) -> Description:
    """Take what is left of a mistaken credit grant out of the wallet.

    Example: flask billing revoke org_... grt_... --reason "ticket 4711: granted twice"
    """
    data = GrantOut().dump(view)
    return Description(data, [f"{data['id']} is revoked; {data['remaining']} {data['currency']} are left."])


@action_commands.action_command(group, "terms", actions.get_action("organization", "terms"))
def terms(changed: BillingTerms, organization_id: UUID) -> Description:
    """Set the billing day, the payment terms or the review of drafts of an organization.

    Example: flask billing terms org_... --net-terms-days 30 --reason "contract of 3 May"
    """
    data = {"id": ids.format_id("org", organization_id), **asdict(changed)}
    review = "are reviewed" if changed.review_drafts else "are finalized automatically"
    line = f"Billing day {changed.billing_day}, {changed.net_terms_days} days to pay, invoices {review}."
    return Description(data, [line])


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
        return Description({"id": public_id, "status": "deleted"}, [f"{public_id} is deleted."])
    data, line = _describe(invoice)
    return Description(data, [line])


@action_commands.action_command(group, "release", actions.get_action("billing_account", "unpark"))
def release(was_on_hold: bool, _organization_id: UUID) -> Description:
    """Let an organization's invoices be finalized again, after a check had found something wrong.

    Example: flask billing release org_... --reason "ticket 4711: repaired"
    """
    line = "It is billed again; its drafts wait for finalize." if was_on_hold else "It was not on hold."
    return Description({"was_on_hold": was_on_hold}, [line])


def _describe(item: InvoiceWithPeriod) -> tuple[dict[str, Any], str]:
    data = InvoiceOut().dump(item)
    line = "{number} {id} {total_amount} {currency} {status}".format_map(
        {**data, "number": item.invoice.number or "(draft)"}
    )
    return data, line


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
