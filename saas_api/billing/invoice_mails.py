"""Mails that carry an invoice as PDF."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.accounts import members, organizations
from saas_api.billing import invoice_documents, invoices
from saas_api.core import formatting, ids
from saas_api.core.db import tenancy
from saas_api.mail import attachments, mails
from saas_api.mail.attachments import Attachment
from saas_api.mail.mails import NewMail
from saas_api.providers.mail import AttachedFile

_ATTACHMENT_KIND = "invoice"


def attach_invoice(invoice_id: UUID) -> Attachment:
    """The PDF of an invoice, for a mail of its organization."""
    return Attachment(_ATTACHMENT_KIND, invoice_id)


@attachments.register(_ATTACHMENT_KIND)
def render_attachment(organization_id: UUID, invoice_id: UUID) -> AttachedFile:
    """Render the PDF of an invoice as it is now, in a transaction of its own.

    raises: NotFound
    """
    with tenancy.tenant_session(organization_id) as session:
        document = invoice_documents.get_document(session, organization_id, invoice_id)
    return AttachedFile(f"{document.number}.pdf", "application/pdf", invoice_documents.render_pdf(document))


def send_copy(session: Session, organization_id: UUID, invoice_id: UUID, user_id: UUID) -> str:
    """Send a member a final invoice.

    returns: the address
    raises: NotFound
    """
    detail = invoices.get_invoice_detail(session, organization_id, invoice_id)
    [recipient] = members.list_recipients(session, organization_id, (), user_ids=[user_id])
    with organizations.localized(session, organization_id) as organization:
        context = {
            "name": recipient.name,
            "organization": organization.name,
            "number": detail.invoice.number,
            "total": formatting.format_money(detail.invoice.total_minor, detail.currency),
            "period": detail.days,
            "invoice_id": ids.format_id("inv", invoice_id),
        }
    copy = NewMail("invoice_copy", recipient.email, organization_id, context, attach_invoice(invoice_id))
    mails.enqueue_many(session, [copy])
    return recipient.email
