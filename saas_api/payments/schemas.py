"""InitiatePaymentIn, PaymentOut."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core import fields as core_fields
from saas_api.core import ids
from saas_api.core.fields import PageQuery, PrefixedId, StrictSchema, Timestamp

PROVIDERS = ("stripe", "paystack", "mock")


class InitiatePaymentIn(StrictSchema):
    """POST /billing/initiate-payment."""

    invoice_id = PrefixedId("inv", load_default=None, metadata={"description": "or billing_cycle_id"})
    billing_cycle_id = fields.String(
        load_default=None, metadata={"description": "a period, whose invoice is paid, or the invoice itself"}
    )
    provider = fields.String(
        load_default=None, allow_none=True, metadata={"description": "stripe, paystack or mock; the first offered here"}
    )

    @ma.validates_schema
    def _one_target(self, data: dict[str, Any], **_: Any) -> None:
        if (data.get("invoice_id") is None) == (data.get("billing_cycle_id") is None):
            raise ma.ValidationError("Name an invoice, or its period.", "invoice_id")

    @ma.post_load
    def _read_cycle(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """An older client calls the invoice itself a billing cycle."""
        cycle = data["billing_cycle_id"]
        if cycle is None:
            return data
        prefix, name = ("inv", "invoice_id") if cycle.startswith("inv_") else ("bpd", "billing_cycle_id")
        try:
            return {**data, "billing_cycle_id": None, name: ids.parse_id(prefix, cycle)}
        except ValueError as cause:
            raise ma.ValidationError("Not a valid bpd_ or inv_ id.", "billing_cycle_id") from cause


class InitiatedPaymentOut(StrictSchema):
    """A payment that was begun."""

    payment_id = PrefixedId("pay")
    payment_url = fields.String(metadata={"description": "where the customer pays"})
    amount = fields.String()
    currency = fields.String()
    provider = fields.String()
    status = fields.String()


class PaymentOut(InitiatedPaymentOut):
    """A payment with what became of it."""

    payment_url = fields.String(allow_none=True, metadata={"description": "while it is under way"})
    invoice_id = PrefixedId("inv")
    captured = fields.String()
    refunded = fields.String()
    failure_code = fields.String(allow_none=True)
    created_at = Timestamp()
    settled_at = Timestamp(allow_none=True)


class PaymentsQuery(PageQuery):
    """GET /billing/payments."""

    invoice_id = PrefixedId("inv", load_default=None)


class EventReceivedOut(StrictSchema):
    """That an event is kept."""

    status = fields.String(validate=validate.Equal("received"))


PaymentsOut = core_fields.page_schema("payments", PaymentOut())
