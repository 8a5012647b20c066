"""`flask payments`: see payments and what was quarantined, ask a provider again, and book what came another way."""

import getpass
import json
import sys
from typing import Any
from uuid import UUID

import click
from sqlalchemy.exc import IntegrityError

from saas_api.cli.boot import Commands
from saas_api.core import clock, tenancy
from saas_api.core.errors import ApiError
from saas_api.core.ids import read_id, wire_id
from saas_api.core.money import minor_to_text, text_to_minor
from saas_api.organizations.service import audit
from saas_api.payments import queries
from saas_api.payments import service as payments
from saas_api.payments.models import Payment, ProviderEvent
from saas_api.payments.rules.checking import IN_FLIGHT
from saas_api.providers.payments import ProviderAway

group = Commands("payments", help="Payments and their providers.")
STATES = (*IN_FLIGHT, "succeeded", "failed", "canceled", "quarantined")


@group.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only payments in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_payments(*, state: str | None, limit: int, as_json: bool) -> None:
    """Show the last payments, and events that nobody could make sense of.

    Example: flask payments list --state quarantined
    """
    with tenancy.as_system("payments.read") as session:
        found = [_shown(payment) for payment in queries.newest(session, state, limit)]
        odd = [_event(event) for event in queries.quarantined_events(session, limit)]
    if as_json:
        click.echo(json.dumps({"payments": found, "quarantined_events": odd}))
        return
    for one in found:
        click.echo(
            "{id}  {organization_id}  {amount} {currency}  {provider}  {status}  {created_at}".format_map(one)
            + (f"  {one['failure_code']}" if one["failure_code"] else "")
        )
    for one in odd:
        click.echo("event {event_id} of {provider} ({type}) about {reference}: {error}".format_map(one))
    if not found and not odd:
        click.echo("There are no payments.")


@group.command("check")
@click.argument("payment")
def check(payment: str) -> None:
    """Ask the provider about a payment now, and settle it by the answer; a quarantined one too.

    Example: flask payments check pay_...
    """
    found = _find(payment)
    try:
        outcome = payments.settle(found.provider, found.provider_reference or "")
    except ProviderAway:
        sys.exit(f"{found.provider} does not answer.")
    except LookupError:
        sys.exit(f"{found.provider} is not configured here.")
    after = _find(payment)
    click.echo(f"{payment} is {after.state}{' and not decided yet' if outcome == 'open' else ''}.")


@group.command("resolve")
@click.argument("payment")
@click.option("--reason", required=True, help="For the organization's log of acts.")
def resolve(payment: str, reason: str) -> None:
    """Close a quarantined payment, once the money is where it belongs; nothing is booked.

    Example: flask payments resolve pay_... --reason "ticket 4711: paid back by hand"
    """
    found = _find(payment)
    try:
        payments.resolve(found.id, _actor(), reason)
    except ApiError as error:
        sys.exit(error.message)
    click.echo(f"{payment} is canceled.")


@group.command("record")
@click.argument("organization")
@click.argument("invoice")
@click.argument("amount")
@click.option("--reference", required=True, help="Of the bank; it is booked once.")
@click.option("--reason", required=True, help="For the organization's log of acts.")
@click.option("--currency", default="USD", show_default=True)
def record(*, organization: str, invoice: str, amount: str, reference: str, reason: str, currency: str) -> None:
    """Book money that came another way, such as a bank transfer; what is more than due goes to the wallet.

    Example: flask payments record org_... inv_... 99.00 --reference "MT940 0815" --reason "bank transfer"
    """
    try:
        minor = text_to_minor(amount, currency)
    except ValueError as error:
        sys.exit(str(error))
    if minor <= 0:
        sys.exit("The amount must be above zero.")
    money = payments.Offline(minor, currency, reference)
    try:
        booked = payments.book_offline(_id("org", organization), _id("inv", invoice), money, _actor(), reason)
    except ApiError as error:
        sys.exit(error.message)
    except IntegrityError:
        sys.exit(f"{reference} was booked before.")
    click.echo(
        f"{wire_id('pay', booked.id)}: {minor_to_text(booked.allocated_minor, currency)} {currency} on the bill."
    )


@group.command("refund")
def refund() -> None:
    """Send back what credit notes promise now, instead of with the next round.

    Example: flask payments refund
    """
    click.echo(f"Refunds that ended: {payments.refund_due()}.")


def _find(text: str) -> Payment:
    with tenancy.as_system("payments.read") as session:
        found = queries.by_id(session, _id("pay", text))
    if found is None:
        sys.exit(f"There is no payment {text}.")
    return found


def _id(prefix: str, text: str) -> UUID:
    try:
        return read_id(prefix, text)
    except ValueError:
        sys.exit(f"{text} is no id that begins with {prefix}_.")


def _actor() -> audit.Actor:
    return audit.Actor("system", getpass.getuser())


def _shown(payment: Payment) -> dict[str, Any]:
    return {
        "id": wire_id("pay", payment.id),
        "organization_id": wire_id("org", payment.organization_id),
        "invoice_id": wire_id("inv", payment.invoice_id),
        "amount": minor_to_text(payment.amount_minor, payment.currency),
        "captured": minor_to_text(payment.captured_minor, payment.currency),
        "currency": payment.currency,
        "provider": payment.provider,
        "reference": payment.provider_reference,
        "status": payment.state,
        "failure_code": payment.failure_code,
        "created_at": clock.rfc3339(payment.created_at),
    }


def _event(event: ProviderEvent) -> dict[str, Any]:
    return {
        "provider": event.provider,
        "event_id": event.event_id,
        "type": event.event_type,
        "reference": event.reference,
        "error": event.error or "its payment is quarantined",
        "received_at": clock.rfc3339(event.received_at),
    }
