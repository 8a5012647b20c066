"""What lists and forms of running and money are asked and sent."""

from typing import Any

import marshmallow as ma
from flask import request
from marshmallow import fields, validate

from saas_api.billing.service.invoicing.crediting import REASONS
from saas_api.core.fields import Amount, Id, QueryInt, Schema, Text
from saas_api.core.http import load

ROWS = 25
INVOICE_STATES = ("draft", "open", "overdue", "paid", "uncollectible", "void")
PAYMENT_STATES = ("created", "pending", "requires_action", "succeeded", "failed", "canceled", "quarantined")
EVENT_STATES = ("received", "processed", "ignored", "quarantined")
PROVIDERS = ("stripe", "paystack", "mock", "offline")
DELIVERY_STATES = ("queued", "sending", "delivered", "failed", "canceled")
MAIL_STATES = ("queued", "sending", "sent", "failed")


def asked(schema: Schema) -> dict[str, Any]:
    """What the address of a list asks for; what is empty is left out.

    raises: Invalid
    """
    return load(schema, {name: value for name, value in request.args.items() if value.strip()})


class ListQuery(Schema):
    """Of every list."""

    limit = QueryInt(minimum=1, maximum=100, load_default=ROWS)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))
    format = fields.String(load_default=None, validate=validate.OneOf(["csv"]))


class InvoicesQuery(ListQuery):
    """Filters of invoices."""

    status = fields.String(load_default=None, validate=validate.OneOf(INVOICE_STATES))
    days = QueryInt(minimum=1, maximum=3650, load_default=None)
    organization_id = Id("org", load_default=None)
    number = Text(maximum=40, load_default=None)


class PaymentsQuery(ListQuery):
    """Filters of payments."""

    status = fields.String(load_default=None, validate=validate.OneOf(PAYMENT_STATES))
    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


class EventsQuery(ListQuery):
    """Filters of the events of providers."""

    status = fields.String(load_default=None, validate=validate.OneOf(EVENT_STATES))
    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


class EndpointsQuery(ListQuery):
    """Filters of endpoints, and the id of a delivery to go to."""

    health = fields.String(load_default=None, validate=validate.OneOf(["failing", "disabled"]))
    organization_id = Id("org", load_default=None)
    delivery = Id("whd", load_default=None)


class DeliveriesQuery(ListQuery):
    """Filters of an endpoint's deliveries."""

    status = fields.String(load_default=None, validate=validate.OneOf(DELIVERY_STATES))


class MailsQuery(ListQuery):
    """Filters of the outbox."""

    status = fields.String(load_default=None, validate=validate.OneOf(MAIL_STATES))
    template = Text(maximum=60, load_default=None)
    recipient = Text(maximum=254, load_default=None)


class Reason(Text):
    """Why an operator does it, in at least ten characters."""

    def __init__(self) -> None:
        super().__init__(minimum=10, maximum=500, multiline=True, required=True)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        return super()._deserialize(value, attr, data, **options).strip()

    def _validate(self, value: str) -> None:
        if len(value) < 10:
            raise ma.ValidationError("Say why, in at least 10 characters.")
        super()._validate(value)


class ReasonForm(Schema):
    """Why an operator does it; for the log of acts."""

    reason = Reason()


class VoidForm(ReasonForm):
    """An invoice that is taken back, and whether a new one takes its place."""

    is_replaced = fields.Boolean(load_default=False)


class CreditForm(ReasonForm):
    """A credit note; without an amount it takes off all that is left."""

    kind = fields.String(load_default="billing_error", validate=validate.OneOf(REASONS))
    amount = Amount(load_default=None)
    memo = Text(maximum=200, load_default="")
    is_refund = fields.Boolean(load_default=False)
