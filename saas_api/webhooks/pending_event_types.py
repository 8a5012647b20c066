"""Event types that their domains do not register themselves yet: each moves into its domain's `events.py`."""

from typing import Any

from marshmallow import fields, validate

from saas_api.core.fields import DateField, MoneyAmount, PrefixedId, StrictSchema, Timestamp
from saas_api.webhooks import event_types


def _one_of(*values: str) -> fields.String:
    return fields.String(validate=validate.OneOf(values))


def _register(
    schema: type[StrictSchema], example: dict[str, Any], types: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    for event_type, (description, changes) in types.items():
        event_types.register(event_type, schema=schema, description=description, example={**example, **changes})


# --- billing: spend cap ---


class SpendCapEventOut(StrictSchema):
    """Event data of a spend cap."""

    amount = MoneyAmount()
    currency = fields.String()
    action = fields.String()


_register(
    SpendCapEventOut,
    {"amount": "50.00", "currency": "USD", "action": "block"},
    {"spend_cap.reached": ("The spend cap of the running period was reached.", {})},
)

# --- billing: usage ---


class UsageEventOut(StrictSchema):
    """Event data of an alert."""

    meter = fields.String(allow_none=True, metadata={"description": "Null for an alert on money: see `spent`."})
    percent = fields.Integer(allow_none=True, metadata={"description": "Null for an alert on an absolute amount."})
    quantity = fields.Integer(allow_none=True)
    included = fields.Integer(allow_none=True)
    spent = MoneyAmount(allow_none=True, metadata={"description": "Null for an alert on a meter."})
    cap = MoneyAmount(allow_none=True)
    period_end = DateField()


_register(
    UsageEventOut,
    {
        "meter": "sms",
        "percent": 80,
        "quantity": 800,
        "included": 1000,
        "spent": None,
        "cap": None,
        "period_end": "2026-03-31",
    },
    {"usage.threshold_reached": ("Usage of a meter reached a percentage of what is included.", {})},
)

# --- billing: subscription ---


class SubscriptionEventOut(StrictSchema):
    """Event data of a subscription."""

    id = PrefixedId("sub")
    status = fields.String()
    plan = fields.String()
    previous_plan = fields.String(allow_none=True)
    canceled_at = Timestamp(allow_none=True)


_register(
    SubscriptionEventOut,
    {
        "id": "sub_018f3c6a9d2e7a018b4c5d6e7f80cc03",
        "status": "active",
        "plan": "free",
        "previous_plan": None,
        "canceled_at": None,
    },
    {
        "subscription.created": ("A subscription began.", {}),
        "subscription.updated": ("The plan of a subscription changed.", {"plan": "pro", "previous_plan": "free"}),
    },
)

# --- payments ---


class PaymentEventOut(StrictSchema):
    """Event data of a payment."""

    payment_id = PrefixedId("pay")
    status = fields.String()
    invoice_id = PrefixedId("inv", allow_none=True)
    amount = MoneyAmount()
    currency = fields.String()
    provider = fields.String()
    refunded = MoneyAmount()
    error = fields.String(allow_none=True)


_register(
    PaymentEventOut,
    {
        "payment_id": "pay_018f3c6a9d2e7a018b4c5d6e7f80ee05",
        "status": "succeeded",
        "invoice_id": "inv_018f3c6a9d2e7a018b4c5d6e7f80dd04",
        "amount": "29.41",
        "currency": "USD",
        "provider": "stripe",
        "refunded": "0.00",
        "error": None,
    },
    {
        "payment.succeeded": ("A payment arrived.", {}),
        "payment.failed": ("A payment failed.", {"status": "failed", "error": "card_declined"}),
        "payment.refunded": ("Money of a payment was given back.", {"refunded": "29.41"}),
    },
)
