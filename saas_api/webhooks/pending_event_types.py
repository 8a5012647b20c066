"""Event types that their domains do not register themselves yet: each moves into its domain's `events.py`."""

from typing import Any

from marshmallow import fields

from saas_api.core.fields import PrefixedId, StrictSchema
from saas_api.webhooks import event_types

_VERSION_NOTE = "Rises with every change of the object; trust the highest you have seen."


def _register(
    schema: type[StrictSchema], example: dict[str, Any], types: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    for event_type, (description, changes) in types.items():
        event_types.register(event_type, schema=schema, description=description, example={**example, **changes})


# --- billing: organization ---


class OrganizationEventOut(StrictSchema):
    """Event data of an organization."""

    id = PrefixedId("org")
    status = fields.String()
    reason = fields.String(allow_none=True)


_register(
    OrganizationEventOut,
    {"id": "org_018f3c6a0b1c7d2e8f3a4b5c6d7e8f90", "status": "restricted", "reason": "overdue"},
    {
        "organization.restricted": ("Sending is restricted until overdue invoices are paid.", {}),
        "organization.suspended": ("API keys are refused until the matter is settled.", {"status": "suspended"}),
        "organization.resumed": ("Everything works again.", {"status": "active", "reason": None}),
    },
)
