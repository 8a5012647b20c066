"""`flask webhooks`: recover what an endpoint missed, and encrypt secrets anew after SECRET_KEY has changed."""

import json
import sys
from datetime import UTC, datetime
from uuid import UUID

import click

from saas_api.cli.boot import Commands
from saas_api.core import tenancy
from saas_api.core.crypto import Undecipherable
from saas_api.core.errors import ApiError, Invalid
from saas_api.core.ids import read_id
from saas_api.webhooks import queries
from saas_api.webhooks import service as webhooks

group = Commands("webhooks", help="Webhooks of organizations.")


def read_time(_context: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    """An instant; without an offset it is UTC."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time; write 2026-05-01T00:00:00Z.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@group.command("recover")
@click.argument("endpoint")
@click.option("--since", required=True, metavar="TIME", callback=read_time, help="At most 30 days before the end.")
@click.option("--until", metavar="TIME", callback=read_time, help="Now, if not given.")
@click.option("--only", type=click.Choice(["failed", "missing", "all"]), default="all", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recover(*, endpoint: str, since: datetime, until: datetime | None, only: str, as_json: bool) -> None:
    """Send an endpoint what it missed: what failed, what was canceled, what was never tried.

    Example: flask webhooks recover whe_... --since 2026-05-01T00:00:00Z
    """
    endpoint_id = _endpoint(endpoint)
    with tenancy.as_system("webhooks.command") as session:
        organization_id = queries.organization_of(session, endpoint_id)
    if organization_id is None:
        sys.exit(f"There is no endpoint {endpoint}.")
    try:
        with tenancy.transaction(organization_id) as session:
            count = webhooks.recover(session, None, (organization_id, endpoint_id), since, until, only)
    except Invalid as error:
        (problem,) = error.details["fields"]
        sys.exit(f"--{problem['field']}: {problem['reason']}")
    except ApiError as error:
        sys.exit(error.message)
    click.echo(json.dumps({"count": count}) if as_json else f"Deliveries queued: {count}.")


@group.command("reseal")
def reseal() -> None:
    """Encrypt the secrets of endpoints under the first SECRET_KEY, so that an older one may be dropped.

    Example: SECRET_KEY=new,old flask webhooks reseal
    """
    try:
        count = webhooks.reseal()
    except Undecipherable:
        sys.exit("A secret was encrypted under a SECRET_KEY that is not given; nothing was changed.")
    click.echo(f"Secrets encrypted anew: {count}.")


def _endpoint(text: str) -> UUID:
    try:
        return read_id("whe", text)
    except ValueError:
        sys.exit(f"{text} is no id of an endpoint.")
