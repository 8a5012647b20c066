"""`flask billing`: what an operator does to invoices and wallets; every act needs a reason and is logged."""

import getpass
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.billing.queries import invoices
from saas_api.billing.service.invoicing.crediting import REASONS
from saas_api.cli.money.billing import group
from saas_api.core import tenancy
from saas_api.core.errors import ApiError
from saas_api.core.ids import new_id, read_id, wire_id
from saas_api.core.money import minor_to_text, text_to_minor
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit

_CURRENCY = "USD"


def _identifier(prefix: str) -> Callable[[click.Context, click.Parameter, str], UUID]:
    def read(_context: click.Context, _parameter: click.Parameter, text: str) -> UUID:
        try:
            return read_id(prefix, text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is no id that begins with {prefix}_.") from None

    return read


organization_argument = click.argument("organization", callback=_identifier("org"))
invoice_argument = click.argument("invoice", callback=_identifier("inv"))
reason_option = click.option("--reason", required=True, help="For the organization's log of acts.")


@group.command("credit")
@organization_argument
@invoice_argument
@reason_option
@click.option("--kind", type=click.Choice(REASONS), default="billing_error", show_default=True)
@click.option("--amount", help="Taken off the lines in their order; without it, all that is left.")
@click.option("--line", "lines", multiple=True, metavar="ID=AMOUNT", help="Take an amount off one line.")
@click.option("--refund", "is_refund", is_flag=True, help="Send back what was paid, instead of filling the wallet.")
def credit(*, organization: UUID, invoice: UUID, reason: str, **options: Any) -> None:
    """Write a credit note; it lowers what is due first, the rest goes to the wallet.

    Example: flask billing credit org_... inv_... --amount 12.35 --reason "ticket 4711: wrong figures"
    """
    with _corrections() as session:
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
    click.echo(f"{note.number} {minor_to_text(note.total_minor, currency)} {currency}: {told}.")


@group.command("void")
@organization_argument
@invoice_argument
@reason_option
@click.option("--replace", "is_replaced", is_flag=True, help="Write a new invoice for the period.")
def void(*, organization: UUID, invoice: UUID, reason: str, is_replaced: bool) -> None:
    """Take back an invoice on which no payment is booked.

    Example: flask billing void org_... inv_... --reason "wrong tax id" --replace
    """
    with _corrections() as session:
        replacement = billing.void(session, organization, invoice, _act(reason), is_replaced=is_replaced)
    click.echo(f"{wire_id('inv', invoice)} is void.")
    if replacement:
        _show(replacement)


@group.command("grant")
@organization_argument
@click.argument("amount")
@reason_option
@click.option("--kind", type=click.Choice(["promotional", "purchased"]), default="promotional", show_default=True)
@click.option("--expires-at", metavar="TIME", help="When the rest of it is lost.")
@click.option("--key", help="Of its source, which pays once; repeat the command safely with the same one.")
def grant(*, organization: UUID, amount: str, reason: str, kind: str, expires_at: str | None, key: str | None) -> None:
    """Put money into an organization's wallet, for its next invoices.

    Example: flask billing grant org_... 25.00 --reason "welcome"
    """
    minor, ends_at = _amount(amount, _CURRENCY), _time(expires_at)
    source = billing.Source(f"operator:{key or new_id()}", kind)
    with _corrections() as session:
        grant_id = billing.grant(session, organization, source, minor, _act(reason), expires_at=ends_at)
    click.echo(f"{wire_id('grt', grant_id)} {minor_to_text(minor, _CURRENCY)} {_CURRENCY} in the wallet.")


@group.command("finalize")
@organization_argument
@invoice_argument
@reason_option
@click.option("--redo", "is_redone", is_flag=True, help="Only work the draft out anew.")
@click.option("--delete", "is_deleted", is_flag=True, help="Drop the draft; its period is not billed.")
def finalize(*, organization: UUID, invoice: UUID, reason: str, is_redone: bool, is_deleted: bool) -> None:
    """Finalize a draft that was looked at, work it out anew, or drop it.

    Example: flask billing finalize org_... inv_... --reason "reviewed"
    """
    if is_redone and is_deleted:
        raise click.UsageError("--redo and --delete exclude each other.")
    with _corrections() as session:
        if is_deleted:
            billing.delete_draft(session, organization, invoice, _act(reason))
            click.echo(f"{wire_id('inv', invoice)} is deleted.")
            return
        act = billing.redo_draft if is_redone else billing.finalize
        summary = act(session, organization, invoice, _act(reason))
    _show(summary)


@group.command("unpark")
@organization_argument
@reason_option
def unpark(*, organization: UUID, reason: str) -> None:
    """Let an organization's invoices be finalized again, after a check had found something wrong.

    Example: flask billing unpark org_... --reason "ticket 4711: repaired"
    """
    with _corrections() as session:
        is_done = billing.unpark(session, organization, _act(reason))
    click.echo("It is billed again; its drafts wait for finalize." if is_done else "It was not parked.")


@contextmanager
def _corrections() -> Iterator[Session]:
    try:
        with tenancy.as_system("billing.corrections") as session:
            yield session
    except organizations.NoSuchOrganization:
        sys.exit("There is no such organization.")
    except ApiError as error:
        fields = "; ".join(f"{one['field']}: {one['reason']}" for one in error.details.get("fields", []))
        sys.exit(f"{error.code}: {fields or error.message}")


def _act(reason: str) -> billing.Act:
    return billing.Act(audit.Actor("system", getpass.getuser()), reason)


def _show(summary: billing.Summary) -> None:
    invoice_id = summary.id and wire_id("inv", summary.id)
    amount = minor_to_text(summary.total_minor, summary.currency)
    click.echo(f"{summary.number or '(draft)'} {invoice_id} {amount} {summary.currency} {summary.status}")


def _line(text: str, currency: str) -> tuple[UUID, int]:
    name, _, amount = text.partition("=")
    try:
        return read_id("lin", name), _amount(amount, currency)
    except ValueError:
        sys.exit(f"{name} is no id of a line.")


def _amount(text: str, currency: str) -> int:
    try:
        return text_to_minor(text, currency)
    except ValueError:
        sys.exit(f"{text} is no amount in {currency}; write 12.35.")


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        sys.exit(f"{text} is no time; write 2026-05-01T00:00:00Z.")
    return time if time.tzinfo else time.replace(tzinfo=UTC)
