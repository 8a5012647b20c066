"""Event types that their domains do not register themselves yet: each moves into its domain's `events.py`."""

from typing import Any

from marshmallow import fields

from saas_api.core.fields import DateField, MoneyAmount, PrefixedId, StrictSchema, Timestamp
from saas_api.webhooks import event_types

_VERSION_NOTE = "Rises with every change of the object; trust the highest you have seen."


def _register(
    schema: type[StrictSchema], example: dict[str, Any], types: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    for event_type, (description, changes) in types.items():
        event_types.register(event_type, schema=schema, description=description, example={**example, **changes})


# --- billing: invoice ---


class InvoiceEventOut(StrictSchema):
    """Event data of an invoice."""

    id = PrefixedId("inv")
    number = fields.String(allow_none=True)
    status = fields.String()
    total_amount = MoneyAmount()
    currency = fields.String()
    due_date = DateField(allow_none=True)
    paid_at = Timestamp(allow_none=True)
    attempt = fields.Integer()
    next_attempt_at = Timestamp(allow_none=True)
    version = fields.Integer(metadata={"description": _VERSION_NOTE})


_register(
    InvoiceEventOut,
    {
        "id": "inv_018f3c6a9d2e7a018b4c5d6e7f80dd04",
        "number": "INV-000042",
        "status": "open",
        "total_amount": "29.41",
        "currency": "USD",
        "due_date": "2026-03-08",
        "paid_at": None,
        "attempt": 0,
        "next_attempt_at": None,
        "version": 2,
    },
    {
        "invoice.finalized": ("An invoice got its number and can be paid.", {}),
        "invoice.paid": (
            "An invoice is paid in full.",
            {"status": "paid", "paid_at": "2026-03-02T09:00:00.000Z", "version": 3},
        ),
        "invoice.payment_failed": (
            "A payment of an invoice failed.",
            {"attempt": 1, "next_attempt_at": "2026-03-11T09:00:00.000Z", "version": 3},
        ),
        "invoice.overdue": ("An invoice is past its due date.", {"attempt": 1, "version": 4}),
        "invoice.voided": ("An invoice was voided: nothing is owed for it.", {"status": "void", "version": 3}),
        "invoice.marked_uncollectible": ("An invoice was written off.", {"status": "uncollectible", "version": 5}),
    },
)

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
