"""The invoice of a closed period: written as a draft, and finalized at once unless somebody is to look first."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, BillingProfile, Invoice, InvoiceLine
from saas_api.billing.queries.inputs import period_inputs
from saas_api.billing.rules.bill import RULE_VERSION, Draft, invoice_draft
from saas_api.billing.service.invoicing.finalizing import finalize_draft
from saas_api.core import clock
from saas_api.core.ids import new_id
from saas_api.core.observe import fault

_NEXT_UNINVOICED = (
    select(BillingPeriod)
    .where(BillingPeriod.state == "closed")
    .where(
        text("""NOT EXISTS (SELECT FROM billing_periods e WHERE e.organization_id = billing_periods.organization_id
          AND e.seq < billing_periods.seq AND e.state <> 'invoiced')""")
    )
    .with_for_update(skip_locked=True)
)


@dataclass(frozen=True)
class Summary:
    """An invoice in a few words; a draft that is only shown has neither id nor number."""

    organization_id: UUID
    id: UUID | None
    number: str | None
    total_minor: int
    currency: str
    status: str


def summary_of(invoice: Invoice) -> Summary:
    """A stored invoice in a few words."""
    return Summary(
        invoice.organization_id, invoice.id, invoice.number, invoice.total_minor, invoice.currency, invoice.state
    )


def invoice_next(session: Session, organization_id: UUID) -> Summary | None:
    """Invoice the earliest closed period of an organization.

    returns: None when there is none, or another process is at it
    """
    period = session.scalars(_NEXT_UNINVOICED.where(BillingPeriod.organization_id == organization_id)).first()
    if period is None:
        return None
    invoice = write_draft(session, period)
    fault("billing.after_draft")
    period.state = "invoiced"
    finalize_unless_held(session, invoice)
    session.flush()  # a violated constraint belongs to this period, not to the next one
    fault("billing.after_invoice")
    return summary_of(invoice)


def write_draft(session: Session, period: BillingPeriod, *, replaces_id: UUID | None = None) -> Invoice:
    """Write the draft of a closed period's invoice.

    replaces_id: of the void invoice whose place it takes
    """
    draft = invoice_draft(period_inputs(session, period, period.ends_at))
    invoice = Invoice(
        organization_id=period.organization_id,
        id=new_id(),
        billing_period_id=period.id,
        kind="cycle",
        state="draft",
        currency=draft.currency,
        subtotal_minor=draft.total_minor,
        total_minor=draft.total_minor,
        replaces_id=replaces_id,
        rule_version=RULE_VERSION,
        created_at=clock.now(),
    )
    session.add(invoice)
    session.flush()  # the lines refer to it
    _write_lines(session, invoice, draft)
    return invoice


def rewrite_draft(session: Session, invoice: Invoice, period: BillingPeriod) -> None:
    """Work a draft out anew, from the same ledger."""
    draft = invoice_draft(period_inputs(session, period, period.ends_at))
    drop_lines(session, invoice)
    invoice.currency, invoice.rule_version = draft.currency, RULE_VERSION
    invoice.subtotal_minor = invoice.total_minor = draft.total_minor
    _write_lines(session, invoice, draft)


def drop_lines(session: Session, invoice: Invoice) -> None:
    """Delete the lines of a draft."""
    own = InvoiceLine.organization_id == invoice.organization_id
    session.execute(delete(InvoiceLine).where(own, InvoiceLine.invoice_id == invoice.id))


def finalize_unless_held(session: Session, invoice: Invoice) -> None:
    """Finalize a draft, unless its organization's drafts are looked at first or its billing is parked."""
    profile = session.get_one(BillingProfile, invoice.organization_id)
    if not (profile.review_drafts or profile.parked_at):
        finalize_draft(session, invoice, profile)


def _write_lines(session: Session, invoice: Invoice, draft: Draft) -> None:
    session.add_all(
        InvoiceLine(
            organization_id=invoice.organization_id,
            invoice_id=invoice.id,
            position=position,
            source_key=line.source_key,
            kind=line.kind,
            description=line.description,
            plan_version_id=line.version_id,
            meter_code=line.meter,
            late_for_period_id=line.late_for_period_id,
            service_starts_at=line.starts_at,
            service_ends_at=line.ends_at,
            quantity=line.quantity,
            amount_minor=line.amount_minor,
            calculation=dict(line.calculation),
        )
        for position, line in enumerate(draft.lines, start=1)
    )
    session.flush()  # finalization compares their sum with the subtotal
