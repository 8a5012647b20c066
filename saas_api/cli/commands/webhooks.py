"""`flask webhooks`: webhooks of organizations."""

from datetime import datetime
from uuid import UUID

import click

from saas_api.cli import output, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import INSTANT, PublicId
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.webhooks import deliveries, endpoints

group = CommandGroup("webhooks", help="Webhooks of organizations.")


@group.command("recover")
@click.argument("endpoint_id", metavar="ENDPOINT", type=PublicId("whe"))
@click.option(
    "--since",
    required=True,
    metavar="TIME",
    type=INSTANT,
    help="Start of the time range, at most 30 days before its end.",
)
@click.option("--until", metavar="TIME", type=INSTANT, help="End of the time range; now by default.")
@click.option(
    "--only",
    type=click.Choice(["failed", "missing", "all"]),
    default="all",
    show_default=True,
    help="Which events: failed or canceled, never sent, or both.",
)
@types.json_option
def recover(*, endpoint_id: UUID, since: datetime, until: datetime | None, only: str, as_json: bool) -> None:
    """Resend failed, canceled and unsent events to an endpoint.

    Example: flask webhooks recover whe_... --since 2026-05-01T00:00:00Z
    """
    with tenancy.system_session("webhooks.command") as session:
        organization_id = endpoints.find_endpoint_organization(session, endpoint_id)
    if organization_id is None:
        raise CommandError(
            f"There is no endpoint {ids.format_id('whe', endpoint_id)}; its organization's dashboard lists them."
        )
    with tenancy.tenant_session(organization_id) as session:
        count = deliveries.recover_endpoint(
            session, output.current_os_user(), organization_id, endpoint_id, since, until, only
        )
    output.print_result({"count": count}, [f"Deliveries queued: {count}."], as_json=as_json)
