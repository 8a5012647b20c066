"""Webhook events of payments, and their mails to billing contacts and operators."""

from typing import Any
from uuid import UUID

from saas_api.accounts import members, organizations
from saas_api.billing import invoice_mails, invoices
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import Invoice
from saas_api.core import formatting, ids
from saas_api.core.db.tenancy import SystemSession
from saas_api.mail import mails
from saas_api.mail.mails import NewMail
from saas_api.payments.models import Payment
from saas_api.payments.schemas import PaymentEventOut
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject

BILLING_CONTACT_ROLES = ("owner", "billing")
_EVENT_VERSIONS = {"payment.failed": 2, "payment.succeeded": 3, "payment.refunded": 4}
_EXAMPLE: dict[str, Any] = {
    "payment_id": "pay_018f3c6a9d2e7a018b4c5d6e7f80ee05",
    "amount": "29.41",
    "currency": "USD",
    "provider": "stripe",
    "status": "succeeded",
    "invoice_id": "inv_018f3c6a9d2e7a018b4c5d6e7f80dd04",
    "payment_method_id": None,
    "captured": "29.41",
    "refunded": "0.00",
    "failure_code": None,
    "created_at": "2026-03-02T09:00:00.000Z",
    "settled_at": "2026-03-02T09:01:00.000Z",
}
event_types.register("payment.succeeded", schema=PaymentEventOut, description="A payment succeeded.", example=_EXAMPLE)
event_types.register(
    "payment.failed",
    schema=PaymentEventOut,
    description="A payment failed or was canceled; `failure_code` says why.",
    example={**_EXAMPLE, "status": "failed", "captured": "0.00", "failure_code": "card_declined", "settled_at": None},
)
event_types.register(
    "payment.refunded",
    schema=PaymentEventOut,
    description="Money of a payment was refunded.",
    example={**_EXAMPLE, "refunded": "29.41"},
)


def publish_payment_event(session: SystemSession, payment: Payment, event_type: str, *, step: int = 0) -> None:
    """Publish an event about a payment.

    event_type: such as "payment.succeeded"
    step: rises with each event of this type for the payment, from 0
    """
    session.flush()  # the data comes from the row
    data = event_types.dump_data(event_type, payment)
    subject = EventSubject(payment.id, _EVENT_VERSIONS[event_type] + step)
    events.publish(session, payment.organization_id, event_type, subject, data)


def email_billing_contacts(session: SystemSession, template: str, payment: Payment, invoice: Invoice) -> None:
    """Send a mail about a payment to the billing contacts of its organization."""
    organization_id = payment.organization_id
    with organizations.localized(session, organization_id) as organization:
        amount = formatting.format_money(payment.captured_minor or payment.amount_minor, payment.currency)
        days = InvoiceWithPeriod(invoice, invoices.get_period(session, invoice)).days
    context: dict[str, object] = {
        "organization": organization.name,
        "number": invoice.number or "",
        "amount": amount,
        "period": days,
        "invoice_id": ids.format_id("inv", payment.invoice_id),
    }
    attachment = None
    if template == "payment_failed":
        context["reason"] = payment.failure_code or "declined"
    else:
        attachment = invoice_mails.attach_invoice(invoice.id)
    contacts = members.list_recipients(session, organization_id, BILLING_CONTACT_ROLES, includes_billing_email=True)
    mails.enqueue_many(
        session,
        [
            NewMail(template, contact.email, organization_id, {**context, "name": contact.name}, attachment)
            for contact in contacts
        ],
    )


def payment_label(organization_id: UUID, payment_id: UUID) -> str:
    """A payment and its organization, as mails to operators name them."""
    return f"{ids.format_id('pay', payment_id)} of {ids.format_id('org', organization_id)}"
