"""Commands of payments: list, check, resolve, record offline ones, refund and pay out."""

from typing import Any
from uuid import UUID

import click

from saas_api.admin import actions
from saas_api.billing import invoices
from saas_api.cli import action_commands, output, types
from saas_api.cli.action_commands import REASON_HELP, Description
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import PublicId
from saas_api.core import clock, ids, money
from saas_api.core.db import tenancy
from saas_api.payments import payments, provider_events, refunds
from saas_api.payments.models import Payment, PaymentStatus, ProviderEvent, Refund
from saas_api.payments.payments import OfflinePayment
from saas_api.payments.payouts import Payout
from saas_api.payments.schemas import PaymentOut

group = CommandGroup("payments", help="Payments and their providers.")


@group.command("list")
@click.option(
    "--state", type=click.Choice([status.value for status in PaymentStatus]), help="Only payments in this state."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number of rows.")
@types.json_option
def list_payments(*, state: str | None, limit: int, as_json: bool) -> None:
    """List recent payments, failed refunds and quarantined provider events.

    Example: flask payments list --state quarantined
    """
    with tenancy.system_session("payments.read") as session:
        rows = [_to_json(payment) for payment in payments.list_newest(session, state, limit)]
        failed = [_refund_to_json(refund) for refund in refunds.list_failed_refunds(session, limit)]
        events = [_event_to_json(event) for event in provider_events.list_quarantined_events(session, limit)]
    lines = [
        "{payment_id}  {organization_id}  {amount} {currency}  {provider}  {status}  {created_at}".format_map(row)
        + (f"  {row['failure_code']}" if row["failure_code"] else "")
        for row in rows
    ]
    lines += ["refund {refund_id} of {payment_id}: failed".format_map(refund) for refund in failed]
    lines += [
        "event {event_id} of {provider} ({type}) about {reference}: {error}".format_map(event) for event in events
    ]
    data = {"payments": rows, "failed_refunds": failed, "quarantined_events": events}
    output.print_result(data, lines or ["There are no payments."], as_json=as_json)


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
@click.argument("invoice_ids", metavar="INVOICE...", type=PublicId("inv"), nargs=-1, required=True)
@click.argument("amount")
@click.option("--reference", required=True, help="Bank reference; each invoice accepts it once.")
@click.option("--reason", required=True, help=REASON_HELP)
@click.option("--currency", help="Currency of the amount; by default that of the first invoice.")
@types.json_option
def record(
    *, organization_id: UUID, invoice_ids: tuple[UUID, ...], amount: str, reason: str, as_json: bool, **options: str
) -> None:
    """Book money that came another way, such as a bank transfer, on invoices in this order.

    What is more than due goes to the wallet, which pays other open invoices.

    Example: flask payments record org_... inv_... inv_... 58.00 --reference "MT940 0815" --reason "bank transfer"
    """
    output.require_organization(organization_id)
    with tenancy.system_session("payments.read") as session:
        currency = options["currency"] or invoices.get_invoice(session, organization_id, invoice_ids[0]).currency
    try:
        minor = money.parse_minor(amount, currency)
    except ValueError as error:
        raise CommandError(f"{error}; write 99.00.") from None
    if minor <= 0:
        raise CommandError("The amount must be above zero; write 99.00.")
    received = OfflinePayment(minor, currency, options["reference"])
    recorded = payments.record_offline_payment(organization_id, invoice_ids, received, output.current_os_user(), reason)
    lines = [
        f"{ids.format_id('pay', payment.id)}: {money.format_minor(payment.allocated_minor, currency)} {currency}"
        f" on {ids.format_id('inv', payment.invoice_id)}."
        for payment in recorded
    ]
    if excess := sum(payment.excess_minor for payment in recorded):
        lines.append(f"{money.format_minor(excess, currency)} {currency} to the wallet.")
    output.print_result({"payments": [_to_json(payment) for payment in recorded]}, lines, as_json=as_json)


@group.command("refund")
@types.json_option
def refund(*, as_json: bool) -> None:
    """Send due refunds now instead of waiting for the next scheduled run.

    Example: flask payments refund
    """
    count = refunds.process_due_refunds()
    if count:
        output.record_audit("refunds.sent", ("refund", "due"), {"count": count})
    output.print_result({"count": count}, [f"Refunds that ended: {count}."], as_json=as_json)


@action_commands.action_command(group, "refund-retry", actions.get_action("refund", "retry"))
def retry_refund(refund: Refund, _refund_id: UUID) -> Description:
    """Ask the provider for a failed refund again, with the next scheduled run.

    Example: flask payments refund-retry rfd_... --reason "the provider had no balance"
    """
    return _describe_refund(refund)


@action_commands.action_command(group, "refund-by-hand", actions.get_action("refund", "paid-back"))
def record_paid_back(refund: Refund, _refund_id: UUID) -> Description:
    """Record that a failed refund was paid back by hand, with the bank reference.

    Example: flask payments refund-by-hand rfd_... "MT940 0816" --reason "paid by transfer"
    """
    return _describe_refund(refund)


@action_commands.action_command(group, "refund-to-wallet", actions.get_action("refund", "to-wallet"))
def turn_into_credit(refund: Refund, _refund_id: UUID) -> Description:
    """Turn a failed refund into wallet credit, which pays open invoices first.

    Example: flask payments refund-to-wallet rfd_... --reason "the customer agreed"
    """
    return _describe_refund(refund)


@action_commands.action_command(group, "payout", actions.get_action("organization", "payout"))
def pay_out(payout: Payout, _organization_id: UUID) -> Description:
    """Pay wallet money back: through the providers it was paid by, or by hand with a bank reference.

    Example: flask payments payout org_... 21.00 --reason "overpaid"
    """
    amount = money.format_minor(payout.amount_minor, payout.currency)
    data = {
        "amount": amount,
        "currency": payout.currency,
        "reference": payout.reference,
        "refunds": [_refund_to_json(refund) for refund in payout.refunds],
    }
    way = f"under {payout.reference}" if payout.reference else "through the provider"
    return Description(data, [f"{amount} {payout.currency} are out of the wallet, {way}."])


def _describe_refund(refund: Refund) -> Description:
    data = _refund_to_json(refund)
    return Description(data, ["{refund_id} is {status}.".format_map(data)])


def _refund_to_json(refund: Refund) -> dict[str, Any]:
    return {
        "refund_id": ids.format_id("rfd", refund.id),
        "organization_id": ids.format_id("org", refund.organization_id),
        "payment_id": ids.format_id("pay", refund.payment_id),
        "amount_minor": refund.amount_minor,
        "status": refund.status,
        "reference": refund.provider_reference,
    }


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
