"""Commands of organizations: suspend, resume and close them, and name them for services."""

from uuid import UUID

from saas_api.accounts.models import Organization
from saas_api.admin import actions, subscription_actions
from saas_api.billing.organization_closing import ClosedOrganization
from saas_api.billing.schemas import InvoiceOut
from saas_api.cli import action_commands
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import CommandGroup
from saas_api.core import ids

group = CommandGroup("organizations", help="Organizations.")


@action_commands.action_command(group, "suspend", actions.get_action("organization", "suspend"))
def suspend(_result: None, organization_id: UUID) -> Description:
    """Suspend an organization: its API keys are refused, and no base amount is charged until it is resumed.

    Example: flask organizations suspend org_... --reason "ticket 4711: abuse"
    """
    public_id = ids.format_id("org", organization_id)
    return Description({"id": public_id, "status": "suspended"}, [f"{public_id} is suspended."])


@action_commands.action_command(group, "resume", actions.get_action("organization", "resume"))
def resume(_result: None, organization_id: UUID) -> Description:
    """End the suspension by an operator.

    Example: flask organizations resume org_... --reason "ticket 4711: settled"
    """
    public_id = ids.format_id("org", organization_id)
    return Description({"id": public_id, "status": "active"}, [f"{public_id} is active."])


@action_commands.action_command(group, "close", actions.get_action("organization", "close"))
def close(closed: ClosedOrganization, organization_id: UUID) -> Description:
    """Close an organization for good, with a final invoice.

    Its API keys are revoked and its billing period ends now. Its members still read and pay.

    Example: flask organizations close org_... --reason "ticket 4711: asked by the owner"
    """
    rows = [InvoiceOut().dump(item) for item in closed.invoices]
    data = {"id": ids.format_id("org", organization_id), "status": "closed", "invoices": rows}
    return Description(data, [subscription_actions.describe_closing(closed)])


@action_commands.action_command(
    group, "set-external-id", actions.get_action("organization", "external-id"), is_reason_required=False
)
def set_external_id(organization: Organization, organization_id: UUID) -> Description:
    """Name an organization as services know it; an empty name removes it.

    Usage events may then use the name as their subject.

    Example: flask organizations set-external-id org_... customer-4711
    """
    data = {"id": ids.format_id("org", organization_id), "external_id": organization.external_id}
    return Description(data, [f"{data['id']} has {organization.external_id or 'no external id'}."])
