"""`flask billing`: what an operator does to invoices and wallets; every act needs a reason and is logged."""

from typing import Any
from uuid import UUID

import click

from saas_api.billing import service as billing
from saas_api.billing.queries import invoices
from saas_api.billing.service.invoicing.crediting import REASONS
from saas_api.cli.acting import answer, operating_person, refuse_unknown
from saas_api.cli.boot import Stopped
from saas_api.cli.money.billing import group
from saas_api.cli.reading import INSTANT, WireId, json_option
from saas_api.core import clock, tenancy
from saas_api.core.ids import new_id, read_id, wire_id
from saas_api.core.money import minor_to_text, text_to_minor

_CURRENCY = "USD"


organization_argument = click.argument("organization", type=WireId("org"))
invoice_argument = click.argument("invoice", type=WireId("inv"))
reason_option = click.option("--reason", required=True, help="For the organization's log of acts.")


@group.command("credit")
@organization_argument
@invoice_argument
@reason_option
@click.option("--kind", type=click.Choice(REASONS), default="billing_error", show_default=True)
@click.option("--amount", help="Taken off the lines in their order; without it, all that is left.")
@click.option("--line", "lines", multiple=True, metavar="ID=AMOUNT", help="Take an amount off one line.")
@click.option("--refund", "is_refund", is_flag=True, help="Send back what was paid, instead of filling the wallet.")
@json_option
def credit(*, organization: UUID, invoice: UUID, reason: str, as_json: bool, **options: Any) -> None:
    """Write a credit note; it lowers what is due first, the rest goes to the wallet.

    Example: flask billing credit org_... inv_... --amount 12.35 --reason "ticket 4711: wrong figures"
    """
    with tenancy.as_system("billing.corrections") as session:
        currency = invoices.get_invoice(session, organization, invoice).currency
        wanted = billing.Credit(
            options["kind"],
            dict(_line(text, currency) for text in options["lines"]),
            options["amount"] and _amount(options["amount"], currency),
            reason,
            is_refund=options["is_refund"],
        )
        note = billing.credit(session, organization, invoice, wanted, _act(reason))
    parts = {"due": note.to_due_minor, "wallet": note.to_wallet_minor, "refund": note.to_refund_minor}
    told = ", ".join(f"{minor_to_text(minor, currency)} to {name}" for name, minor in parts.items() if minor)
    total = minor_to_text(note.total_minor, currency)
    amounts = {f"to_{name}": minor_to_text(minor, currency) for name, minor in parts.items()}
    found = {"number": note.number, "total_amount": total, "currency": currency, **amounts}
    answer(found, [f"{note.number} {total} {currency}: {told}."], as_json=as_json)


@group.command("void")
@organization_argument
@invoice_argument
@reason_option
@click.option("--replace", "is_replaced", is_flag=True, help="Write a new invoice for the period.")
@json_option
def void(*, organization: UUID, invoice: UUID, reason: str, is_replaced: bool, as_json: bool) -> None:
    """Take back an invoice on which no payment is booked.

    Example: flask billing void org_... inv_... --reason "wrong tax id" --replace
    """
    with tenancy.as_system("billing.corrections") as session:
        replacement = billing.void(session, organization, invoice, _act(reason), is_replaced=is_replaced)
    found, line = _described(replacement) if replacement else (None, "")
    lines = [f"{wire_id('inv', invoice)} is void.", *filter(None, [line])]
    answer({"id": wire_id("inv", invoice), "status": "void", "replacement": found}, lines, as_json=as_json)


@group.command("grant")
@organization_argument
@click.argument("amount")
@reason_option
@click.option("--kind", type=click.Choice(["promotional", "purchased"]), default="promotional", show_default=True)
@click.option("--expires-at", type=INSTANT, metavar="TIME", help="When the rest of it is lost.")
@click.option("--key", help="Of its source, which pays once; repeat the command safely with the same one.")
@json_option
def grant(*, organization: UUID, amount: str, reason: str, kind: str, as_json: bool, **source: Any) -> None:
    """Put money into an organization's wallet, for its next invoices.

    Example: flask billing grant org_... 25.00 --reason "welcome"
    """
    minor, expires_at = _amount(amount, _CURRENCY), source["expires_at"]
    paid_by = billing.Source(f"operator:{source['key'] or new_id()}", kind)
    refuse_unknown(organization)
    with tenancy.as_system("billing.corrections") as session:
        grant_id = billing.grant(session, organization, paid_by, minor, _act(reason), expires_at=expires_at)
    name, text = wire_id("grt", grant_id), minor_to_text(minor, _CURRENCY)
    found = {"id": name, "amount": text, "currency": _CURRENCY, "expires_at": expires_at and clock.rfc3339(expires_at)}
    answer(found, [f"{name} {text} {_CURRENCY} in the wallet."], as_json=as_json)


@group.command("finalize")
@organization_argument
@invoice_argument
@reason_option
@click.option("--redo", "is_redone", is_flag=True, help="Only work the draft out anew.")
@click.option("--delete", "is_deleted", is_flag=True, help="Drop the draft; its period is not billed.")
@json_option
def finalize(
    *, organization: UUID, invoice: UUID, reason: str, is_redone: bool, is_deleted: bool, as_json: bool
) -> None:
    """Finalize a draft that was looked at, work it out anew, or drop it.

    Example: flask billing finalize org_... inv_... --reason "reviewed"
    """
    if is_redone and is_deleted:
        raise click.UsageError("--redo and --delete exclude each other.")
    with tenancy.as_system("billing.corrections") as session:
        if is_deleted:
            billing.delete_draft(session, organization, invoice, _act(reason))
            name = wire_id("inv", invoice)
            found, line = {"id": name, "status": "deleted"}, f"{name} is deleted."
        else:
            act = billing.redo_draft if is_redone else billing.finalize
            found, line = _described(act(session, organization, invoice, _act(reason)))
    answer(found, [line], as_json=as_json)


@group.command("release")
@organization_argument
@reason_option
@json_option
def unpark(*, organization: UUID, reason: str, as_json: bool) -> None:
    """Let an organization's invoices be finalized again, after a check had found something wrong.

    Example: flask billing release org_... --reason "ticket 4711: repaired"
    """
    refuse_unknown(organization)
    with tenancy.as_system("billing.corrections") as session:
        is_done = billing.unpark(session, organization, _act(reason))
    line = "It is billed again; its drafts wait for finalize." if is_done else "It was not parked."
    answer({"was_parked": is_done}, [line], as_json=as_json)


def _act(reason: str) -> billing.Act:
    return billing.Act(operating_person(), reason)


def _described(summary: billing.Summary) -> tuple[dict[str, Any], str]:
    """An invoice for programs, and as a line."""
    found = {
        "id": summary.id and wire_id("inv", summary.id),
        "number": summary.number,
        "total_amount": minor_to_text(summary.total_minor, summary.currency),
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
        return read_id("lin", name), _amount(amount, currency)
    except ValueError:
        raise Stopped(f"{name} is no id of a line; write lin_...=12.35.") from None


def _amount(text: str, currency: str) -> int:
    try:
        return text_to_minor(text, currency)
    except ValueError:
        raise Stopped(f"{text} is no amount in {currency}; write 12.35.") from None
