"""`flask payments`: see payments and what was quarantined, ask a provider again, and book what came another way."""

from typing import Any
from uuid import UUID

import click
from sqlalchemy.exc import IntegrityError

from saas_api.cli.acting import answer, note, operating_person, refuse_unknown
from saas_api.cli.boot import Commands, Stopped
from saas_api.cli.reading import WireId, json_option
from saas_api.core import clock, tenancy
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text, text_to_minor
from saas_api.payments import queries
from saas_api.payments import service as payments
from saas_api.payments.models import Payment, ProviderEvent
from saas_api.payments.rules.checking import IN_FLIGHT
from saas_api.providers.payments import ProviderAway

group = Commands("payments", help="Payments and their providers.")
STATES = (*IN_FLIGHT, "succeeded", "failed", "canceled", "quarantined")


@group.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only payments in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@json_option
def list_payments(*, state: str | None, limit: int, as_json: bool) -> None:
    """Show the last payments, and events that nobody could make sense of.

    Example: flask payments list --state quarantined
    """
    with tenancy.as_system("payments.read") as session:
        found = [_shown(payment) for payment in queries.newest(session, state, limit)]
        odd = [_event(event) for event in queries.quarantined_events(session, limit)]
    lines = [
        "{id}  {organization_id}  {amount} {currency}  {provider}  {status}  {created_at}".format_map(one)
        + (f"  {one['failure_code']}" if one["failure_code"] else "")
        for one in found
    ]
    lines += ["event {event_id} of {provider} ({type}) about {reference}: {error}".format_map(one) for one in odd]
    answer({"payments": found, "quarantined_events": odd}, lines or ["There are no payments."], as_json=as_json)


@group.command("check")
@click.argument("payment_id", metavar="PAYMENT", type=WireId("pay"))
@json_option
def check(payment_id: UUID, *, as_json: bool) -> None:
    """Ask the provider about a payment now, and settle it by the answer; a quarantined one too.

    Example: flask payments check pay_...
    """
    found = _find(payment_id)
    try:
        outcome = payments.settle(found.provider, found.provider_reference or "")
    except ProviderAway:
        raise Stopped(f"{found.provider} does not answer; try again in some minutes.") from None
    except LookupError:
        raise Stopped(f"{found.provider} is not configured here; set its secret key.") from None
    after, name = _find(payment_id), wire_id("pay", payment_id)
    if after.state != found.state:
        told = {"before": {"status": found.state}, "after": {"status": after.state}}
        note("payment.checked", ("payment", payment_id), told, organization_id=found.organization_id)
    line = f"{name} is {after.state}{' and not decided yet' if outcome == 'open' else ''}."
    answer(_shown(after), [line], as_json=as_json)


@group.command("resolve")
@click.argument("payment_id", metavar="PAYMENT", type=WireId("pay"))
@click.option("--reason", required=True, help="For the organization's log of acts.")
@json_option
def resolve(payment_id: UUID, reason: str, *, as_json: bool) -> None:
    """Close a quarantined payment, once the money is where it belongs; nothing is booked.

    Example: flask payments resolve pay_... --reason "ticket 4711: paid back by hand"
    """
    found = _find(payment_id)
    payments.resolve(found.id, operating_person(), reason)
    answer(_shown(_find(payment_id)), [f"{wire_id('pay', payment_id)} is canceled."], as_json=as_json)


@group.command("record")
@click.argument("organization_id", metavar="ORGANIZATION", type=WireId("org"))
@click.argument("invoice_id", metavar="INVOICE", type=WireId("inv"))
@click.argument("amount")
@click.option("--reference", required=True, help="Of the bank; it is booked once.")
@click.option("--reason", required=True, help="For the organization's log of acts.")
@click.option("--currency", default="USD", show_default=True, help="Of the amount.")
@json_option
def record(*, organization_id: UUID, invoice_id: UUID, amount: str, reason: str, as_json: bool, **money: str) -> None:
    """Book money that came another way, such as a bank transfer; what is more than due goes to the wallet.

    Example: flask payments record org_... inv_... 99.00 --reference "MT940 0815" --reason "bank transfer"
    """
    currency, reference = money["currency"], money["reference"]
    try:
        minor = text_to_minor(amount, currency)
    except ValueError as error:
        raise Stopped(f"{error}; write 99.00.") from None
    if minor <= 0:
        raise Stopped("The amount must be above zero; write 99.00.")
    refuse_unknown(organization_id)
    came = payments.Offline(minor, currency, reference)
    try:
        booked = payments.book_offline(organization_id, invoice_id, came, operating_person(), reason)
    except IntegrityError:
        raise Stopped(f"{reference} was booked before; flask payments list shows it.") from None
    found = {"id": wire_id("pay", booked.id), "allocated": minor_to_text(booked.allocated_minor, currency)}
    line = f"{found['id']}: {found['allocated']} {currency} on the bill."
    answer({**found, "currency": currency}, [line], as_json=as_json)


@group.command("refund")
@json_option
def refund(*, as_json: bool) -> None:
    """Send back what credit notes promise now, instead of with the next round.

    Example: flask payments refund
    """
    count = payments.refund_due()
    if count:
        note("refunds.sent", ("refund", "due"), {"count": count})
    answer({"count": count}, [f"Refunds that ended: {count}."], as_json=as_json)


def _find(payment_id: UUID) -> Payment:
    with tenancy.as_system("payments.read") as session:
        found = queries.by_id(session, payment_id)
    if found is None:
        raise Stopped(f"There is no payment {wire_id('pay', payment_id)}; flask payments list shows the last ones.")
    return found


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
