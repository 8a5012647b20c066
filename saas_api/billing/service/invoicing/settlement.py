"""Money that meets an invoice, and the end of asking for it."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.models import Invoice
from saas_api.billing.service.invoicing.acts import Act
from saas_api.billing.service.invoicing.telling import tell
from saas_api.billing.service.invoicing.wallet import Source, add_grant
from saas_api.core import clock
from saas_api.core.errors import Conflict, NotFound
from saas_api.organizations.service import audit

PAYABLE = ("open", "uncollectible")


class InvoiceNotOpen(Conflict):
    """The invoice is in a state in which this cannot be done to it."""

    code, message = "INVOICE_NOT_OPEN", "The state of this invoice does not allow it."


@dataclass(frozen=True)
class Settled:
    """Where captured money went.

    allocated_minor: to the invoice
    excess_minor: to the wallet, for the next invoices
    is_paid: whether the invoice is paid now, or was before
    """

    allocated_minor: int
    excess_minor: int
    is_paid: bool


def lock_invoice(session: Session, organization_id: UUID, invoice_id: UUID) -> Invoice:
    """An invoice whose row nobody else changes until this transaction ends.

    raises: NotFound
    """
    invoice = session.get(Invoice, (organization_id, invoice_id), with_for_update=True, populate_existing=True)
    if invoice is None:
        raise NotFound
    return invoice


def outstanding(invoice: Invoice) -> int:
    """What is still due, in minor units, from the columns as they stand in this session."""
    return invoice.total_minor - invoice.credits_applied_minor - invoice.reduced_minor - invoice.paid_minor


def settle_invoice(
    session: Session, organization_id: UUID, invoice_id: UUID, captured_minor: int, source_key: str
) -> Settled:
    """Book captured money: on the invoice as much as is due, the rest, or all of it if none is due, into the wallet.

    The caller vouches that this money was not booked before.
    session: of the system
    captured_minor: > 0, in the invoice's currency
    source_key: of the grant that an excess becomes, such as "payment:<id>"
    raises: NotFound
    """
    invoice = lock_invoice(session, organization_id, invoice_id)
    allocated = min(captured_minor, outstanding(invoice)) if invoice.state in PAYABLE else 0
    excess = captured_minor - allocated
    if allocated:
        invoice.paid_minor += allocated
        close_if_settled(session, invoice)
    if excess:
        add_grant(session, organization_id, Source(source_key, "overpayment"), excess, invoice.currency)
    session.flush()  # a violated constraint belongs to this settlement
    session.expire(invoice, ["due_minor"])  # the database works it out
    return Settled(allocated, excess, invoice.state == "paid")


def close_if_settled(session: Session, invoice: Invoice) -> None:
    """Make an invoice that is due nothing any more paid, and tell of it."""
    if invoice.state not in PAYABLE or outstanding(invoice):
        return
    invoice.state, invoice.paid_at = "paid", clock.now()
    tell(session, invoice, "invoice.paid")
    audit.record(session, invoice.organization_id, audit.SYSTEM, "invoice.paid", ("invoice", invoice.id), {})


def mark_uncollectible(session: Session, organization_id: UUID, invoice_id: UUID, act: Act | None = None) -> None:
    """Stop expecting an open invoice to be paid; a payment that comes yet is taken.

    session: of the system
    act: of an operator; None for the end of dunning
    raises: NotFound, InvoiceNotOpen
    """
    invoice = lock_invoice(session, organization_id, invoice_id)
    if invoice.state == "uncollectible":
        return
    if invoice.state != "open":
        raise InvoiceNotOpen
    invoice.state = "uncollectible"
    tell(session, invoice, "invoice.marked_uncollectible")
    action, target, data = "invoice.marked_uncollectible", ("invoice", invoice.id), {"number": invoice.number}
    if act:
        act.record(session, organization_id, action, target, data)
    else:
        audit.record(session, organization_id, audit.SYSTEM, action, target, data)
