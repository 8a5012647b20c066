"""Events of an organization whose access changes, published by billing and by the operator console.

They are here because `accounts` stands below `webhooks`.
"""

from uuid import UUID

from marshmallow import fields, validate

from saas_api.accounts import organizations
from saas_api.accounts.schemas import OrganizationOut
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.fields import StrictSchema
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject

_STATUS = {
    "organization.restricted": "restricted",
    "organization.suspended": "suspended",
    "organization.resumed": "active",
    "organization.closed": "closed",
}


class OrganizationEventOut(OrganizationOut):
    """Event data of an organization."""

    class Meta(StrictSchema.Meta):
        """The part of the organization that events carry."""

        fields = ("id", "name", "slug", "status", "reason")

    status = fields.String(validate=validate.OneOf(tuple(_STATUS.values())))
    reason = fields.String(allow_none=True, validate=validate.OneOf(("overdue", "operator", "owner")))


_EXAMPLE = {
    "id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90",
    "name": "Acme",
    "slug": "acme-3f9a1c",
    "status": "restricted",
    "reason": "overdue",
}
event_types.register(
    "organization.restricted",
    schema=OrganizationEventOut,
    description="Sending is restricted until overdue invoices are paid.",
    example=_EXAMPLE,
)
event_types.register(
    "organization.suspended",
    schema=OrganizationEventOut,
    description="API keys are refused until the matter is settled.",
    example={**_EXAMPLE, "status": "suspended"},
)
event_types.register(
    "organization.resumed",
    schema=OrganizationEventOut,
    description="Everything works again.",
    example={**_EXAMPLE, "status": "active", "reason": None},
)
event_types.register(
    "organization.closed",
    schema=OrganizationEventOut,
    description="The organization is closed: its API keys are revoked, and its final invoice is written.",
    example={**_EXAMPLE, "status": "closed", "reason": "owner"},
)


def publish(session: SystemSession, organization_id: UUID, event_type: str, reason: str | None) -> None:
    """Publish an event of an organization whose generation has just been raised.

    event_type: "organization.restricted", "organization.suspended", "organization.resumed" or "organization.closed"
    reason: "overdue", "operator" or, of a closing, "owner"; None for "organization.resumed"
    """
    organization = organizations.get_organization(session, organization_id)
    session.refresh(organization, ["generation"])
    identity = {"id": organization.id, "name": organization.name, "slug": organization.slug}
    data = event_types.dump_data(event_type, {**identity, "status": _STATUS[event_type], "reason": reason})
    events.publish(session, organization_id, event_type, EventSubject(organization_id, organization.generation), data)
