"""What an operator does to invoices: drafts finalized, worked out anew or dropped; invoices voided."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, BillingProfile, Invoice
from saas_api.billing.service.invoicing.acts import Act
from saas_api.billing.service.invoicing.finalizing import finalize_draft
from saas_api.billing.service.invoicing.invoices import (
    Summary,
    drop_lines,
    finalize_unless_held,
    rewrite_draft,
    summary_of,
    write_draft,
)
from saas_api.billing.service.invoicing.settlement import (
    PAYABLE,
    InvoiceNotOpen,
    lock_invoice,
)
from saas_api.billing.service.invoicing.telling import tell
from saas_api.billing.service.invoicing.wallet import give_back
from saas_api.core import clock
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.money import minor_to_text


class InvoiceHasPayments(Conflict):
    """Money has come in for the invoice, so it stays; a credit note corrects it."""

    code, message = "INVOICE_HAS_PAYMENTS", "Payments are booked on this invoice; write a credit note instead."


class NotADraft(Conflict):
    """The invoice was finalized before."""

    code, message = "INVOICE_NOT_DRAFT", "This invoice is no draft any more."


class BillingParked(Conflict):
    """A check found something wrong with the organization's bills."""

    code, message = "BILLING_PARKED", "The billing of this organization is parked; look into the reason first."


def finalize(session: Session, organization_id: UUID, invoice_id: UUID, act: Act) -> Summary:
    """Finalize a draft that was looked at.

    session: of the system
    raises: NotFound, NotADraft, BillingParked
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    profile = session.get_one(BillingProfile, organization_id)
    if profile.parked_at:
        raise BillingParked(details={"parked_reason": profile.parked_reason})
    finalize_draft(session, invoice, profile)
    act.record(session, organization_id, "invoice.reviewed", ("invoice", invoice.id), {"number": invoice.number})
    session.flush()  # a violated constraint belongs to this invoice
    return summary_of(invoice)


def redo_draft(session: Session, organization_id: UUID, invoice_id: UUID, act: Act) -> Summary:
    """Work a draft out anew from the ledger.

    session: of the system
    raises: NotFound, NotADraft
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    before = minor_to_text(invoice.total_minor, invoice.currency)
    rewrite_draft(session, invoice, session.get_one(BillingPeriod, (organization_id, invoice.billing_period_id)))
    data = {"before": before, "after": minor_to_text(invoice.total_minor, invoice.currency)}
    act.record(session, organization_id, "invoice.redone", ("invoice", invoice.id), data)
    return summary_of(invoice)


def delete_draft(session: Session, organization_id: UUID, invoice_id: UUID, act: Act) -> None:
    """Drop a draft; its period is not billed.

    session: of the system
    raises: NotFound, NotADraft
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    data = {"total": minor_to_text(invoice.total_minor, invoice.currency), "period": str(invoice.billing_period_id)}
    drop_lines(session, invoice)
    session.delete(invoice)
    act.record(session, organization_id, "invoice.draft_deleted", ("invoice", invoice.id), data)


def void(
    session: Session, organization_id: UUID, invoice_id: UUID, act: Act, *, is_replaced: bool = False
) -> Summary | None:
    """Take an invoice back on which no money was booked; what the wallet paid of it returns there.

    session: of the system
    is_replaced: write a new invoice for its period, worked out anew
    returns: the new invoice
    raises: NotFound, InvoiceHasPayments, InvoiceNotOpen
    """
    invoice = lock_invoice(session, organization_id, invoice_id)
    if invoice.paid_minor:
        raise InvoiceHasPayments
    if invoice.state not in PAYABLE:
        raise InvoiceNotOpen
    give_back(session, invoice)
    invoice.state, invoice.voided_at, invoice.credits_applied_minor = "void", clock.now(), 0
    tell(session, invoice, "invoice.voided")
    act.record(session, organization_id, "invoice.voided", ("invoice", invoice.id), {"number": invoice.number})
    if not (is_replaced and invoice.billing_period_id):
        return None
    period = session.get_one(BillingPeriod, (organization_id, invoice.billing_period_id))
    replacement = write_draft(session, period, replaces_id=invoice.id)
    session.expire_all()  # the grants have their money back
    finalize_unless_held(session, replacement)
    session.flush()  # a violated constraint belongs to this invoice
    return summary_of(replacement)


def _lock_draft(session: Session, organization_id: UUID, invoice_id: UUID) -> Invoice:
    invoice = lock_invoice(session, organization_id, invoice_id)
    if invoice.state != "draft":
        raise NotADraft
    return invoice


def unpark(session: Session, organization_id: UUID, act: Act) -> bool:
    """Let an organization's drafts be finalized again.

    session: of the system
    returns: whether they were not
    raises: NotFound
    """
    profile = session.get(BillingProfile, organization_id, with_for_update=True)
    if profile is None:
        raise NotFound
    if profile.parked_at is None:
        return False
    data = {"parked_reason": profile.parked_reason}
    profile.parked_at = profile.parked_reason = None
    act.record(session, organization_id, "billing.unparked", ("organization", organization_id), data)
    return True
