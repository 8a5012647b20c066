"""An invoice: written as a draft, then finalized with credits, a number without gaps and a due date.

Finalization takes the number last, since the lock of its series holds up every other one.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, BillingProfile, CreditEntry, CreditGrant, Invoice, InvoiceLine
from saas_api.billing.queries.inputs import period_inputs
from saas_api.billing.rules.bill import RULE_VERSION, Draft, invoice_draft
from saas_api.core import clock
from saas_api.core.ids import new_id
from saas_api.core.observe import fault
from saas_api.organizations import service as organizations

SERIES = "INV"

_NEXT_UNINVOICED = (
    select(BillingPeriod)
    .where(BillingPeriod.state == "closed")
    .where(
        text("""NOT EXISTS (SELECT FROM billing_periods e WHERE e.organization_id = billing_periods.organization_id
          AND e.seq < billing_periods.seq AND e.state <> 'invoiced')""")
    )
    .with_for_update(skip_locked=True)
)
_NUMBER = text("""INSERT INTO number_series (series, last_value) VALUES (:series, 1)
  ON CONFLICT (series) DO UPDATE SET last_value = number_series.last_value + 1 RETURNING last_value""")


@dataclass(frozen=True)
class Summary:
    """An invoice in a few words; a draft that is only shown has neither id nor number."""

    organization_id: UUID
    id: UUID | None
    number: str | None
    total_minor: int
    currency: str
    status: str


def invoice_next(session: Session, organization_id: UUID) -> Summary | None:
    """Invoice the earliest closed period of an organization.

    returns: None when there is none, or another process is at it
    """
    period = session.scalars(_NEXT_UNINVOICED.where(BillingPeriod.organization_id == organization_id)).first()
    if period is None:
        return None
    draft = invoice_draft(period_inputs(session, period, period.ends_at))
    invoice = _write(session, period, draft)
    profile = session.get_one(BillingProfile, organization_id)
    period.state = "invoiced"
    if not (profile.review_drafts or profile.parked_at):
        _finalize(session, invoice, profile, draft.carry_minor)
    session.flush()  # a violated constraint belongs to this period, not to the next one
    fault("billing.after_invoice")
    return Summary(organization_id, invoice.id, invoice.number, draft.total_minor, draft.currency, invoice.state)


def _write(session: Session, period: BillingPeriod, draft: Draft) -> Invoice:
    invoice = Invoice(
        organization_id=period.organization_id,
        id=new_id(),
        billing_period_id=period.id,
        kind="cycle",
        state="draft",
        currency=draft.currency,
        subtotal_minor=draft.total_minor,
        total_minor=draft.total_minor,
        rule_version=RULE_VERSION,
        created_at=clock.now(),
    )
    session.add(invoice)
    session.flush()  # the lines refer to it
    session.add_all(
        InvoiceLine(
            organization_id=period.organization_id,
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
    return invoice


def _finalize(session: Session, invoice: Invoice, profile: BillingProfile, carry_minor: int) -> None:
    now = clock.now()
    if carry_minor:
        session.add(_carry(invoice, carry_minor))
    invoice.bill_to = _bill_to(session, profile)
    invoice.credits_applied_minor = _apply_credits(session, invoice)
    serial = session.execute(_NUMBER, {"series": SERIES}).scalar_one()  # before the state: asking flushes
    invoice.finalized_at = now
    invoice.due_at = now + timedelta(days=profile.net_terms_days)
    is_settled = invoice.credits_applied_minor == invoice.total_minor
    invoice.state, invoice.paid_at = ("paid", now) if is_settled else ("open", None)
    invoice.series, invoice.serial = SERIES, serial
    invoice.number = f"{SERIES}-{invoice.serial:06d}"


def _bill_to(session: Session, profile: BillingProfile) -> dict[str, Any]:
    organization = organizations.get(session, profile.organization_id)
    known = {"name": organization.name, "email": organization.billing_email, "tax_id": profile.tax_id}
    return {**{name: value for name, value in known.items() if value}, **profile.bill_to}


def _carry(invoice: Invoice, amount_minor: int) -> CreditGrant:
    return CreditGrant(
        organization_id=invoice.organization_id,
        id=new_id(),
        source_key=f"carry:{invoice.id}",
        kind="carry",
        currency=invoice.currency,
        amount_minor=amount_minor,
        remaining_minor=amount_minor,
        effective_at=clock.now(),
    )


def _apply_credits(session: Session, invoice: Invoice) -> int:
    """Pay what the wallet covers, in the order in which grants are used up."""
    now, due = clock.now(), invoice.total_minor
    grants = session.scalars(
        select(CreditGrant)
        .where(CreditGrant.organization_id == invoice.organization_id, CreditGrant.currency == invoice.currency)
        .where(CreditGrant.remaining_minor > 0, CreditGrant.effective_at <= now)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at > now))
        .order_by(
            CreditGrant.priority,
            CreditGrant.expires_at.asc().nulls_last(),
            CreditGrant.created_at,
            CreditGrant.id,
        )
        .with_for_update()
    )
    for grant in grants.all() if due else ():
        taken = min(grant.remaining_minor, due)
        if not taken:
            break
        grant.remaining_minor -= taken
        due -= taken
        session.add(
            CreditEntry(
                organization_id=invoice.organization_id,
                id=new_id(),
                grant_id=grant.id,
                invoice_id=invoice.id,
                delta_minor=-taken,
                reason="apply",
                at=now,
            )
        )
    return invoice.total_minor - due
