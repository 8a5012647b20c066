"""Previous balances: what is left of open invoices and too small to pursue moves to the next invoice."""

from sqlalchemy import select

from saas_api.billing import settlement, wallet
from saas_api.billing.models import CreditEntryReason, CreditGrant, GrantKind, Invoice, InvoiceLine, InvoiceStatus
from saas_api.billing.rating.bill import LineKind
from saas_api.billing.wallet import GrantSource
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.settings import setting

_SOURCE_PREFIX = "previous:"
_FIRST_POSITION = 1000
"""After every line of the period."""


def move_to(session: SystemSession, invoice: Invoice) -> None:
    """Move the rests of open invoices that are below DUNNING_MINIMUM_MINOR to a draft that is being finalized.

    Each becomes a line of the draft, and credit of the same amount settles the old invoice. Nothing moves while the
    draft with them stays below the minimum itself. The caller holds the lock of the wallet.
    """
    minimum = setting("DUNNING_MINIMUM_MINOR")
    rests = session.scalars(
        select(Invoice)
        .where(Invoice.organization_id == invoice.organization_id, Invoice.currency == invoice.currency)
        .where(Invoice.status == InvoiceStatus.OPEN, Invoice.due_minor < minimum)
        .order_by(Invoice.serial)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    if not rests or invoice.total_minor + sum(rest.amount_due_minor for rest in rests) < minimum:
        return
    for position, rest in enumerate(rests, start=_FIRST_POSITION):
        _move(session, invoice, rest, position)
    settlement.finish(session, invoice.organization_id, *rests)


def _move(session: SystemSession, invoice: Invoice, rest: Invoice, position: int) -> None:
    amount_minor = rest.amount_due_minor
    session.add(
        InvoiceLine(
            organization_id=invoice.organization_id,
            invoice_id=invoice.id,
            position=position,
            source_key=f"{_SOURCE_PREFIX}{rest.id}",
            kind=LineKind.MANUAL,
            description=f"Rest of {rest.number}",
            amount_minor=amount_minor,
        )
    )
    invoice.subtotal_minor += amount_minor
    invoice.total_minor += amount_minor
    source = GrantSource(f"{_SOURCE_PREFIX}{rest.id}:{invoice.id}", GrantKind.CARRY)
    grant_id = wallet.add_grant(session, invoice.organization_id, source, amount_minor, invoice.currency)
    grant = session.get_one(CreditGrant, (invoice.organization_id, grant_id))
    wallet.take_credit(session, grant, amount_minor, CreditEntryReason.APPLY, invoice_id=rest.id)
    rest.credits_applied_minor += amount_minor
    settlement.mark_paid_if_settled(rest)


def copy_to(session: SystemSession, invoice: Invoice, replacement: Invoice) -> None:
    """Copy the rests that moved to a void invoice to the draft that replaces it."""
    moved = select(InvoiceLine).where(
        InvoiceLine.organization_id == invoice.organization_id,
        InvoiceLine.invoice_id == invoice.id,
        InvoiceLine.source_key.startswith(_SOURCE_PREFIX),
    )
    names = ("organization_id", "position", "source_key", "kind", "description", "amount_minor")
    for line in session.scalars(moved.order_by(InvoiceLine.position)).all():
        session.add(InvoiceLine(invoice_id=replacement.id, **{name: getattr(line, name) for name in names}))
        replacement.subtotal_minor += line.amount_minor
        replacement.total_minor += line.amount_minor
