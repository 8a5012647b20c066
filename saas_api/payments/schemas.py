"""Schemas of payments: the API, exports and event data dump a payment through `PaymentOut`."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from saas_api.core import fields as core_fields
from saas_api.core import ids
from saas_api.core.fields import MinorAmount, PageQuery, PrefixedId, StrictSchema, Timestamp
from saas_api.payments.models import PaymentMethodStatus, PaymentStatus

PROVIDERS = ("stripe", "paystack", "mock")


class ProviderIn(StrictSchema):
    """The provider of a payment."""

    provider = fields.String(
        load_default=None, allow_none=True, metadata={"description": "stripe, paystack or mock; the first offered here"}
    )


class InitiatePaymentIn(ProviderIn):
    """POST /billing/initiate-payment."""

    invoice_id = PrefixedId("inv", load_default=None, metadata={"description": "or billing_cycle_id"})
    billing_cycle_id = fields.String(
        load_default=None, metadata={"description": "a period, whose invoice is paid, or the invoice itself"}
    )

    @ma.validates_schema
    def _require_one_invoice(self, data: dict[str, Any], **_: Any) -> None:
        if (data.get("invoice_id") is None) == (data.get("billing_cycle_id") is None):
            raise ma.ValidationError("Name an invoice, or its period.", "invoice_id")

    @ma.post_load
    def _parse_billing_cycle(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Older clients send the id of the invoice as `billing_cycle_id`."""
        cycle_id = data["billing_cycle_id"]
        if cycle_id is None:
            return data
        prefix, name = ("inv", "invoice_id") if cycle_id.startswith("inv_") else ("bpd", "billing_cycle_id")
        try:
            return {**data, "billing_cycle_id": None, name: ids.parse_id(prefix, cycle_id)}
        except ValueError as cause:
            raise ma.ValidationError("Not a valid bpd_ or inv_ id.", "billing_cycle_id") from cause


class InitiatedPaymentOut(StrictSchema):
    """A payment that was started."""

    payment_id = PrefixedId("pay", attribute="id")
    payment_url = fields.String(attribute="checkout_url", metadata={"description": "where the organization pays"})
    amount = MinorAmount(attribute="amount_minor")
    currency = fields.String()
    provider = fields.String()
    status = fields.String(validate=validate.OneOf(list(PaymentStatus)))


class PaymentOut(InitiatedPaymentOut):
    """A payment: `amount` was requested, `captured` was paid, `refunded` was returned."""

    payment_url = fields.String(allow_none=True, metadata={"description": "while it is under way"})
    invoice_id = PrefixedId("inv")
    payment_method_id = PrefixedId("pmd", allow_none=True, metadata={"description": "the saved one that was charged"})
    captured = MinorAmount(attribute="captured_minor")
    refunded = MinorAmount(attribute="refunded_minor")
    failure_code = fields.String(allow_none=True)
    created_at = Timestamp()
    settled_at = Timestamp(allow_none=True)


class PaymentEventOut(PaymentOut):
    """Event data of a payment."""

    class Meta(StrictSchema.Meta):
        """Receivers of events get no checkout page."""

        exclude = ("payment_url",)


class PaymentMethodOut(StrictSchema):
    """A saved payment method; it is `pending` until its card is saved at `setup_url`."""

    id = PrefixedId("pmd")
    provider = fields.String()
    status = fields.String(validate=validate.OneOf(list(PaymentMethodStatus)))
    brand = fields.String(allow_none=True, metadata={"example": "visa"})
    last_four = fields.String(allow_none=True, metadata={"example": "4242"})
    expiry_month = fields.Integer(allow_none=True, metadata={"example": 12})
    expiry_year = fields.Integer(allow_none=True, metadata={"example": 2030})
    is_default = fields.Boolean(metadata={"description": "whether auto-pay charges it"})
    setup_url = fields.String(
        allow_none=True,
        metadata={"description": "where the card is saved, while pending", "example": "https://pay.example/setups/1"},
    )
    created_at = Timestamp()


class PaymentMethodsOut(StrictSchema):
    """GET /billing/payment-methods."""

    auto_pay = fields.Boolean(metadata={"description": "whether new invoices are charged to the default method"})
    payment_methods = fields.List(fields.Nested(PaymentMethodOut()))


class AutoPay(StrictSchema):
    """PUT /billing/auto-pay."""

    enabled = fields.Boolean(required=True)


class PaymentsQuery(PageQuery):
    """GET /billing/payments."""

    invoice_id = PrefixedId("inv", load_default=None)


class EventReceivedOut(StrictSchema):
    """Confirmation that an event is stored."""

    status = fields.String(validate=validate.Equal("received"))


PaymentsOut = core_fields.page_schema("payments", PaymentOut())
