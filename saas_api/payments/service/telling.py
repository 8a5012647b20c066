"""Who is told about a payment: the organization by event and mail, operators when one cannot be believed."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.billing.models import Invoice
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.organizations import queries as organization_queries
from saas_api.organizations import service as organizations
from saas_api.payments.models import Payment
from saas_api.users import service as users
from saas_api.webhooks import service as webhooks

_READERS = ("owner", "billing")
_VERSIONS = {"payment.failed": 2, "payment.succeeded": 3, "payment.refunded": 4}


def tell(session: Session, payment: Payment, kind: str, *, step: int = 0) -> None:
    """Publish an event about a payment.

    kind: such as "payment.succeeded"
    step: counts events of one kind, from 0
    """
    session.flush()  # the event shows what the row says
    version = _VERSIONS[kind] + step
    data = {
        "object": "payment",
        "payment_id": wire_id("pay", payment.id),
        "status": payment.state,
        "invoice_id": wire_id("inv", payment.invoice_id),
        "amount": minor_to_text(payment.captured_minor or payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "provider": payment.provider,
        "refunded": minor_to_text(payment.refunded_minor, payment.currency),
        "error": payment.failure_code,
    }
    webhooks.publish(session, payment.organization_id, kind, webhooks.Subject(payment.id, version), data)


def write(session: Session, template: str, payment: Payment, invoice: Invoice) -> None:
    """Write to whoever pays for an organization."""
    organization_id = payment.organization_id
    words: dict[str, object] = {
        "organization": organizations.get(session, organization_id).name,
        "number": invoice.number or "",
        "amount": minor_to_text(payment.captured_minor or payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "invoice_id": wire_id("inv", payment.invoice_id),
    }
    if template == "payment_failed":
        words["reason"] = payment.failure_code or "declined"
    for reader in organization_queries.recipients(session, organization_id, _READERS, is_bill=True):
        mail.send(session, template, reader.email, organization_id=organization_id, name=reader.name, **words)


def alert(session: Session, subject_line: str, detail: str) -> None:
    """Write to every operator.

    session: of the system
    """
    for user, _ in users.operators(session):
        words = {"name": user.full_name, "subject_line": subject_line, "detail": detail}
        mail.send(session, "operator_alert", user.email, organization_id=None, **words)


def name_of(organization_id: UUID, payment_id: UUID) -> str:
    """A payment as operators read of it."""
    return f"{wire_id('pay', payment_id)} of {wire_id('org', organization_id)}"
