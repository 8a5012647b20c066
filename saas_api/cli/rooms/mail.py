"""`flask mail outbox`: the last mails of the mailbox that stands in for SMTP."""

import json
import sys
from itertools import islice

import click

from saas_api.cli.boot import Commands
from saas_api.core.settings import setting
from saas_api.providers import mailbox

group = Commands("mail", help="The platform's own mail.")


@group.command("outbox")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--to", "recipient", metavar="EMAIL", help="Only mails to this address.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def outbox(limit: int, recipient: str | None, *, as_json: bool) -> None:
    """Show the last mails and their links, the newest first.

    Example: flask mail outbox --to ann@acme.example
    """
    if setting("SMTP_HOST"):
        sys.exit("Mails leave through SMTP_HOST; only without it are they kept.")
    wanted = (mail for mail in mailbox.newest() if recipient is None or mail.recipient.lower() == recipient.lower())
    kept = list(islice(wanted, limit))
    if as_json:
        shown = [
            {"id": str(mail.id), "to": mail.recipient, "subject": mail.subject, "date": mail.date, "links": mail.links}
            for mail in kept
        ]
        click.echo(json.dumps({"mails": shown}))
        return
    for mail in kept:
        click.echo(f"{mail.date}  {mail.recipient}  {mail.subject}")
        for link in mail.links:
            click.echo(f"    {link}")
    if not kept:
        click.echo("There are no mails.")
