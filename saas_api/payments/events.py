"""Payment.* events (PaymentOut), mails to billing contacts and operators."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.accounts import members, operators, organizations
from saas_api.billing.models import Invoice
from saas_api.core import ids, money
from saas_api.mail import mails
from saas_api.payments.models import Payment
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject

BILLING_CONTACT_ROLES = ("owner", "billing")
_EVENT_VERSIONS = {"payment.failed": 2, "payment.succeeded": 3, "payment.refunded": 4}


def publish_payment_event(session: Session, payment: Payment, kind: str, *, step: int = 0) -> None:
    """Publish an event about a payment.

    kind: such as "payment.succeeded"
    step: counts events of one kind, from 0
    """
    session.flush()  # the event shows what the row says
    version = _EVENT_VERSIONS[kind] + step
    data = {
        "object": "payment",
        "payment_id": ids.format_id("pay", payment.id),
        "status": payment.state,
        "invoice_id": ids.format_id("inv", payment.invoice_id),
        "amount": money.format_minor(payment.captured_minor or payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "provider": payment.provider,
        "refunded": money.format_minor(payment.refunded_minor, payment.currency),
        "error": payment.failure_code,
    }
    events.publish(session, payment.organization_id, kind, EventSubject(payment.id, version), data)


def email_billing_contacts(session: Session, template: str, payment: Payment, invoice: Invoice) -> None:
    """Write to whoever pays for an organization."""
    organization_id = payment.organization_id
    words: dict[str, object] = {
        "organization": organizations.get(session, organization_id).name,
        "number": invoice.number or "",
        "amount": money.format_minor(payment.captured_minor or payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "invoice_id": ids.format_id("inv", payment.invoice_id),
    }
    if template == "payment_failed":
        words["reason"] = payment.failure_code or "declined"
    for reader in members.list_recipients(session, organization_id, BILLING_CONTACT_ROLES, includes_billing_email=True):
        mails.enqueue(session, template, reader.email, organization_id=organization_id, name=reader.name, **words)


def email_operators(session: Session, subject_line: str, detail: str) -> None:
    """Write to every operator.

    session: of the system
    """
    for user, _ in operators.list_operators(session):
        words = {"name": user.full_name, "subject_line": subject_line, "detail": detail}
        mails.enqueue(session, "operator_alert", user.email, organization_id=None, **words)


def payment_label(organization_id: UUID, payment_id: UUID) -> str:
    """A payment as operators read of it."""
    return f"{ids.format_id('pay', payment_id)} of {ids.format_id('org', organization_id)}"
