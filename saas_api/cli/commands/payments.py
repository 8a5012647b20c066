"""Commands of payments: list, check, resolve, record offline ones, send due refunds."""

from typing import Any
from uuid import UUID

import click
from sqlalchemy.exc import IntegrityError

from saas_api.admin import actions
from saas_api.cli import action_commands, output, types
from saas_api.cli.action_commands import REASON_HELP, Description
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import PublicId
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy
from saas_api.payments import payments, provider_events, refunds
from saas_api.payments.models import Payment, PaymentStatus, ProviderEvent
from saas_api.payments.payments import OfflinePayment
from saas_api.payments.schemas import PaymentOut

group = CommandGroup("payments", help="Payments and their providers.")


@group.command("list")
@click.option(
    "--state", type=click.Choice([status.value for status in PaymentStatus]), help="Only payments in this state."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number of rows.")
@types.json_option
def list_payments(*, state: str | None, limit: int, as_json: bool) -> None:
    """List recent payments and quarantined provider events.

    Example: flask payments list --state quarantined
    """
    with tenancy.system_session("payments.read") as session:
        rows = [_to_json(payment) for payment in payments.list_newest(session, state, limit)]
        events = [_event_to_json(event) for event in provider_events.list_quarantined_events(session, limit)]
    lines = [
        "{payment_id}  {organization_id}  {amount} {currency}  {provider}  {status}  {created_at}".format_map(row)
        + (f"  {row['failure_code']}" if row["failure_code"] else "")
        for row in rows
    ]
    lines += [
        "event {event_id} of {provider} ({type}) about {reference}: {error}".format_map(event) for event in events
    ]
    output.print_result(
        {"payments": rows, "quarantined_events": events}, lines or ["There are no payments."], as_json=as_json
    )


@action_commands.action_command(group, "check", actions.get_action("payment", "ask"), is_reason_required=False)
def check(payment: Payment, payment_id: UUID) -> Description:
    """Ask the provider about a payment now, and settle it by the answer; a quarantined one too.

    Example: flask payments check pay_...
    """
    undecided = " and not decided yet" if payment.is_pending else ""
    return Description(_to_json(payment), [f"{ids.format_id('pay', payment_id)} is {payment.status}{undecided}."])


@action_commands.action_command(group, "resolve", actions.get_action("payment", "resolve"))
def resolve(payment: Payment, payment_id: UUID) -> Description:
    """Close a quarantined payment, once the money is where it belongs; nothing is booked.

    Example: flask payments resolve pay_... --reason "ticket 4711: paid back by hand"
    """
    return Description(_to_json(payment), [f"{ids.format_id('pay', payment_id)} is canceled."])


@group.command("record")
@click.argument("organization_id", metavar="ORGANIZATION", type=PublicId("org"))
@click.argument("invoice_id", metavar="INVOICE", type=PublicId("inv"))
@click.argument("amount")
@click.option("--reference", required=True, help="Bank reference; a payment with the same reference is recorded once.")
@click.option("--reason", required=True, help=REASON_HELP)
@click.option("--currency", default="USD", show_default=True, help="Of the amount.")
@types.json_option
def record(*, organization_id: UUID, invoice_id: UUID, amount: str, reason: str, as_json: bool, **options: str) -> None:
    """Book money that came another way, such as a bank transfer; what is more than due goes to the wallet.

    Example: flask payments record org_... inv_... 99.00 --reference "MT940 0815" --reason "bank transfer"
    """
    currency, reference = options["currency"], options["reference"]
    try:
        minor = money.parse_minor(amount, currency)
    except ValueError as error:
        raise CommandError(f"{error}; write 99.00.") from None
    if minor <= 0:
        raise CommandError("The amount must be above zero; write 99.00.")
    output.require_organization(organization_id)
    received = OfflinePayment(minor, currency, reference)
    try:
        payment = payments.record_offline_payment(
            organization_id, invoice_id, received, output.current_os_user(), reason
        )
    except IntegrityError:
        raise CommandError(f"{reference} was booked before; flask payments list shows it.") from None
    public_id, allocated = ids.format_id("pay", payment.id), money.format_minor(payment.allocated_minor, currency)
    line = f"{public_id}: {allocated} {currency} on the bill."
    output.print_result(_to_json(payment), [line], as_json=as_json)


@group.command("refund")
@types.json_option
def refund(*, as_json: bool) -> None:
    """Send due refunds now instead of with the next scheduled run.

    Example: flask payments refund
    """
    count = refunds.process_due_refunds()
    if count:
        output.record_audit("refunds.sent", ("refund", "due"), {"count": count})
    output.print_result({"count": count}, [f"Refunds that ended: {count}."], as_json=as_json)


def _to_json(payment: Payment) -> dict[str, Any]:
    return {
        **PaymentOut().dump(payment),
        "organization_id": ids.format_id("org", payment.organization_id),
        "reference": payment.provider_reference,
    }


def _event_to_json(event: ProviderEvent) -> dict[str, Any]:
    return {
        "provider": event.provider,
        "event_id": event.event_id,
        "type": event.event_type,
        "reference": event.reference,
        "error": event.error_code or "its payment is quarantined",
        "received_at": clock.format_rfc3339(event.received_at),
    }
