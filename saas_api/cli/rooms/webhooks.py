"""`flask webhooks`: recover what an endpoint missed, and encrypt secrets anew after SECRET_KEY has changed."""

from datetime import datetime
from uuid import UUID

import click

from saas_api.cli.acting import answer, note, operating_person, watched
from saas_api.cli.boot import Commands, Stopped
from saas_api.cli.reading import INSTANT, WireId, json_option
from saas_api.core import tenancy
from saas_api.core.crypto import Undecipherable
from saas_api.core.ids import wire_id
from saas_api.webhooks import queries
from saas_api.webhooks import service as webhooks

group = Commands("webhooks", help="Webhooks of organizations.")


@group.command("recover")
@click.argument("endpoint_id", metavar="ENDPOINT", type=WireId("whe"))
@click.option("--since", required=True, metavar="TIME", type=INSTANT, help="At most 30 days before the end.")
@click.option("--until", metavar="TIME", type=INSTANT, help="Now, if not given.")
@click.option(
    "--only",
    type=click.Choice(["failed", "missing", "all"]),
    default="all",
    show_default=True,
    help="What failed or was canceled, what was never tried, or both.",
)
@json_option
def recover(*, endpoint_id: UUID, since: datetime, until: datetime | None, only: str, as_json: bool) -> None:
    """Send an endpoint what it missed: what failed, what was canceled, what was never tried.

    Example: flask webhooks recover whe_... --since 2026-05-01T00:00:00Z
    """
    with tenancy.as_system("webhooks.command") as session:
        organization_id = queries.organization_of(session, endpoint_id)
    if organization_id is None:
        raise Stopped(f"There is no endpoint {wire_id('whe', endpoint_id)}; its organization's dashboard lists them.")
    with tenancy.transaction(organization_id) as session:
        count = webhooks.recover(session, operating_person(), (organization_id, endpoint_id), since, until, only)
    answer({"count": count}, [f"Deliveries queued: {count}."], as_json=as_json)


@group.command("reencrypt")
@json_option
def reseal(*, as_json: bool) -> None:
    """Encrypt the secrets of endpoints under the first SECRET_KEY, so that an older one may be dropped.

    Example: SECRET_KEY=new,old flask webhooks reencrypt
    """
    try:
        count = webhooks.reseal(watched("Encrypting secrets anew", is_silent=as_json))
    except Undecipherable:
        raise Stopped(
            "A secret was encrypted under a SECRET_KEY that is not given; nothing was changed. Give SECRET_KEY=new,old."
        ) from None
    note("webhooks.resealed", ("webhook_secrets", "all"), {"count": count})
    answer({"count": count}, [f"Secrets encrypted anew: {count}."], as_json=as_json)
