"""`flask mail`: mails of the platform."""

from itertools import islice

import click

from saas_api.cli import output, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import EMAIL
from saas_api.core import clock, ids
from saas_api.core.settings import setting
from saas_api.providers import mailbox, selection
from saas_api.providers.mail import OutboundEmail

group = CommandGroup("mail", help="Emails that the platform sends.")


@group.command("outbox")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number of rows.")
@click.option("--to", "recipient", metavar="EMAIL", help="Only emails to this address.")
@types.json_option
def outbox(limit: int, recipient: str | None, *, as_json: bool) -> None:
    """Show recent emails and their links, newest first.

    Example: flask mail outbox --to ann@acme.example
    """
    if setting("SMTP_HOST"):
        raise CommandError("Mails leave through SMTP_HOST; only without it are they kept.")
    matches = (
        mail for mail in mailbox.list_emails() if recipient is None or mail.recipient.lower() == recipient.lower()
    )
    items, lines = [], []
    for mail in islice(matches, limit):
        items.append(
            {"id": str(mail.id), "to": mail.recipient, "subject": mail.subject, "date": mail.date, "links": mail.links}
        )
        lines += [f"{mail.date}  {mail.recipient}  {mail.subject}", *(f"    {link}" for link in mail.links)]
    output.print_result({"mails": items}, lines or ["There are no mails."], as_json=as_json)


@group.command("test")
@click.argument("to", metavar="EMAIL", type=EMAIL)
@types.json_option
def test(to: str, *, as_json: bool) -> None:
    """Send a test email now, without the queue, and print the provider's answer.

    Example: flask mail test ann@acme.example
    """
    text = f"This mail was sent by flask mail test on {setting('APP_URL')}; mail gets out.\n"
    email = OutboundEmail(ids.new_id(), to, "Mail gets out", text, f"<p>{text}</p>", clock.now())
    [(_, outcome)] = list(selection.email_provider().deliver([email]))
    through = f"{setting('SMTP_HOST')}:{setting('SMTP_PORT')}" if setting("SMTP_HOST") else "the mailbox"
    data = {"to": to, "through": through, "outcome": outcome.kind, "error_code": outcome.error_code}
    output.record_audit("mail.tested", ("mail", email.id), data)
    is_sent = outcome.kind == "sent"
    lines = [f"{through} took the mail to {to}." + ("" if setting("SMTP_HOST") else " See flask mail outbox.")]
    output.print_result(data, lines if is_sent else [], as_json=as_json)
    if not is_sent:
        raise CommandError(
            f"{through} did not take it: {outcome.error_code}; look at the SMTP_ settings and the log above."
        )
