"""Wire shapes of payments."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core.http import Id, PageQuery, Schema, Timestamp, page_of

PROVIDERS = ("stripe", "paystack", "mock")


class InitiatePaymentIn(Schema):
    """POST /billing/initiate-payment."""

    invoice_id = Id("inv", load_default=None, metadata={"description": "or billing_cycle_id"})
    billing_cycle_id = Id("bpd", load_default=None, metadata={"description": "a period; its invoice is paid"})
    provider = fields.String(
        load_default=None, allow_none=True, metadata={"description": "stripe, paystack or mock; the first offered here"}
    )

    @ma.validates_schema
    def _one_target(self, data: dict[str, Any], **_: Any) -> None:
        if (data.get("invoice_id") is None) == (data.get("billing_cycle_id") is None):
            raise ma.ValidationError("Name an invoice, or its period.", "invoice_id")


class PaymentOut(Schema):
    """A payment that was begun."""

    payment_id = Id("pay")
    payment_url = fields.String(metadata={"description": "where the customer pays"})
    amount = fields.String()
    currency = fields.String()
    provider = fields.String()
    status = fields.String()


class PaymentListItem(PaymentOut):
    """A payment with what became of it."""

    payment_url = fields.String(allow_none=True, metadata={"description": "while it is under way"})
    invoice_id = Id("inv")
    captured = fields.String()
    refunded = fields.String()
    failure_code = fields.String(allow_none=True)
    created_at = Timestamp()
    settled_at = Timestamp(allow_none=True)


class PaymentsQuery(PageQuery):
    """GET /billing/payments."""

    invoice_id = Id("inv", load_default=None)


class ReceivedOut(Schema):
    """That an event is kept."""

    status = fields.String(validate=validate.Equal("received"))


PaymentsOut = page_of("payments", PaymentListItem())
