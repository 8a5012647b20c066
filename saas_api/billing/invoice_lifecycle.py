"""Drafts, finalization, correction, void, release of held billing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.accounts.models import Organization
from saas_api.billing import bill_inputs, events, invoices, wallet
from saas_api.billing.invoices import PAYABLE_STATUSES, InvoiceNotOpen
from saas_api.billing.models import BillingPeriod, BillingProfile, Invoice, InvoiceLine
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import CALCULATION_VERSION, Bill
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids, money
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.faults import fault_point
from saas_api.core.settings import setting
from saas_api.mail import mails


class InvoiceHasPayments(Conflict):
    """Money has come in for the invoice, so it stays; a credit note corrects it."""

    code, message = "INVOICE_HAS_PAYMENTS", "Payments are booked on this invoice; write a credit note instead."


class InvoiceNotDraft(Conflict):
    """The invoice was finalized before."""

    code, message = "INVOICE_NOT_DRAFT", "This invoice is no draft any more."


class BillingOnHold(Conflict):
    """A check found something wrong with the organization's bills."""

    code, message = "BILLING_PARKED", "The billing of this organization is parked; look into the reason first."


@dataclass(frozen=True)
class InvoiceSummary:
    """An invoice in a few words; a draft that is only shown has neither id nor number."""

    organization_id: UUID
    id: UUID | None
    number: str | None
    total_minor: int
    currency: str
    status: str


def finalize_invoice(session: Session, organization_id: UUID, invoice_id: UUID, act: OperatorContext) -> InvoiceSummary:
    """Finalize a draft that was looked at.

    session: of the system
    raises: NotFound, NotADraft, BillingParked
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    profile = session.get_one(BillingProfile, organization_id)
    if profile.parked_at:
        raise BillingOnHold(details={"parked_reason": profile.parked_reason})
    finalize_draft(session, invoice, profile)
    act.record(session, organization_id, "invoice.reviewed", ("invoice", invoice.id), {"number": invoice.number})
    session.flush()  # a violated constraint belongs to this invoice
    return to_summary(invoice)


def recalculate_draft(
    session: Session, organization_id: UUID, invoice_id: UUID, act: OperatorContext
) -> InvoiceSummary:
    """Work a draft out anew from the ledger.

    session: of the system
    raises: NotFound, NotADraft
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    before = money.format_minor(invoice.total_minor, invoice.currency)
    recalculate_draft_lines(
        session, invoice, session.get_one(BillingPeriod, (organization_id, invoice.billing_period_id))
    )
    data = {"before": before, "after": money.format_minor(invoice.total_minor, invoice.currency)}
    act.record(session, organization_id, "invoice.redone", ("invoice", invoice.id), data)
    return to_summary(invoice)


def delete_draft(session: Session, organization_id: UUID, invoice_id: UUID, act: OperatorContext) -> None:
    """Drop a draft; its period is not billed.

    session: of the system
    raises: NotFound, NotADraft
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    data = {
        "total": money.format_minor(invoice.total_minor, invoice.currency),
        "period": str(invoice.billing_period_id),
    }
    delete_lines(session, invoice)
    session.delete(invoice)
    act.record(session, organization_id, "invoice.draft_deleted", ("invoice", invoice.id), data)


def void_invoice(
    session: Session, organization_id: UUID, invoice_id: UUID, act: OperatorContext, *, is_replaced: bool = False
) -> InvoiceSummary | None:
    """Take an invoice back on which no money was booked; what the wallet paid of it returns there.

    session: of the system
    is_replaced: write a new invoice for its period, worked out anew
    returns: the new invoice
    raises: NotFound, InvoiceHasPayments, InvoiceNotOpen
    """
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.paid_minor:
        raise InvoiceHasPayments
    if invoice.status not in PAYABLE_STATUSES:
        raise InvoiceNotOpen
    wallet.return_credits(session, invoice)
    invoice.status, invoice.voided_at, invoice.credits_applied_minor = "void", clock.now(), 0
    events.publish_invoice_event(session, invoice, "invoice.voided")
    act.record(session, organization_id, "invoice.voided", ("invoice", invoice.id), {"number": invoice.number})
    if not (is_replaced and invoice.billing_period_id):
        return None
    period = session.get_one(BillingPeriod, (organization_id, invoice.billing_period_id))
    replacement = create_draft(session, period, replaces_id=invoice.id)
    session.expire_all()  # the grants have their money back
    finalize_automatically(session, replacement)
    session.flush()  # a violated constraint belongs to this invoice
    return to_summary(replacement)


def _lock_draft(session: Session, organization_id: UUID, invoice_id: UUID) -> Invoice:
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.status != "draft":
        raise InvoiceNotDraft
    return invoice


def release_billing(session: Session, organization_id: UUID, act: OperatorContext) -> bool:
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


INVOICE_SERIES = "INV"
BILLING_CONTACT_ROLES = ("owner", "billing")
_NUMBER = text("""INSERT INTO number_series (series, last_value) VALUES (:series, 1)
  ON CONFLICT (series) DO UPDATE SET last_value = number_series.last_value + 1 RETURNING last_value""")


def next_serial_number(session: Session, series: str) -> tuple[int, str]:
    """The next serial of a series and the number made of it; whoever asks holds up all others until it commits."""
    serial = session.execute(_NUMBER, {"series": series}).scalar_one()
    return serial, f"{series}-{serial:06d}"


def finalize_draft(session: Session, invoice: Invoice, profile: BillingProfile) -> None:
    """Make an invoice of a draft: from here on it does not change, and is paid at once when nothing is due.

    invoice: its row is held by the caller
    """
    now = clock.now()
    organization = organizations.get(session, profile.organization_id)
    carried = 0 if invoice.total_minor else _carried_over(session, invoice)
    if carried:
        wallet.add_grant(
            session, invoice.organization_id, GrantSource(f"carry:{invoice.id}", "carry"), carried, invoice.currency
        )
    invoice.bill_to, invoice.seller = _bill_to(organization, profile), _seller()
    invoice.credits_applied_minor = wallet.apply_credits(session, invoice)
    _number(session, invoice, now + timedelta(days=profile.net_terms_days), now)
    _publish_finalized(session, invoice, organization)


def _number(session: Session, invoice: Invoice, due_at: datetime, now: datetime) -> None:
    serial, number = next_serial_number(session, INVOICE_SERIES)  # before the state: asking flushes
    fault_point("billing.after_number")
    invoice.finalized_at, invoice.due_at = now, due_at
    is_settled = invoice.credits_applied_minor == invoice.total_minor
    invoice.status, invoice.paid_at = ("paid", now) if is_settled else ("open", None)
    invoice.series, invoice.serial, invoice.number = INVOICE_SERIES, serial, number


def _carried_over(session: Session, invoice: Invoice) -> int:
    total = select(func.coalesce(func.sum(InvoiceLine.amount_minor), 0)).where(
        InvoiceLine.organization_id == invoice.organization_id,
        InvoiceLine.invoice_id == invoice.id,
        InvoiceLine.kind == "carry",
    )
    return int(session.scalar(total) or 0)


def _bill_to(organization: Organization, profile: BillingProfile) -> dict[str, Any]:
    known = {"name": organization.name, "email": organization.billing_email, "tax_id": profile.tax_id}
    return {**{name: value for name, value in known.items() if value}, **profile.bill_to}


def _seller() -> dict[str, Any]:
    known = {
        "name": setting("SELLER_NAME"),
        "address": [line.strip() for line in (setting("SELLER_ADDRESS") or "").split("|") if line.strip()],
        "tax_id": setting("SELLER_TAX_ID"),
    }
    return {name: value for name, value in known.items() if value}


def _publish_finalized(session: Session, invoice: Invoice, organization: Organization) -> None:
    events.publish_invoice_event(session, invoice, "invoice.finalized")
    if invoice.status == "paid":
        events.publish_invoice_event(session, invoice, "invoice.paid")
    data = {"number": invoice.number, "total": money.format_minor(invoice.total_minor, invoice.currency)}
    target = ("invoice", invoice.id)
    audit.record_event(session, invoice.organization_id, SYSTEM_ACTOR, "invoice.finalized", target, data)
    if invoice.total_minor:
        _email_invoice(session, invoice, organization)


def _email_invoice(session: Session, invoice: Invoice, organization: Organization) -> None:
    due_minor = invoice.total_minor - invoice.credits_applied_minor
    for reader in members.list_recipients(session, invoice.organization_id, BILLING_CONTACT_ROLES, includes_billing_email=True):
        mails.enqueue(
            session,
            "invoice_ready",
            reader.email,
            organization_id=invoice.organization_id,
            name=reader.name,
            organization=organization.name,
            number=invoice.number,
            amount=money.format_minor(due_minor, invoice.currency),
            currency=invoice.currency,
            due=f"{invoice.due_at:%d %B %Y}",
            invoice_id=ids.format_id("inv", invoice.id),
        )


_NEXT_UNINVOICED = (
    select(BillingPeriod)
    .where(BillingPeriod.status == "closed")
    .where(
        text("""NOT EXISTS (SELECT FROM billing_periods e WHERE e.organization_id = billing_periods.organization_id
          AND e.seq < billing_periods.seq AND e.state <> 'invoiced')""")
    )
    .with_for_update(skip_locked=True)
)


def to_summary(invoice: Invoice) -> InvoiceSummary:
    """A stored invoice in a few words."""
    return InvoiceSummary(
        invoice.organization_id, invoice.id, invoice.number, invoice.total_minor, invoice.currency, invoice.status
    )


def invoice_next_period(session: Session, organization_id: UUID) -> InvoiceSummary | None:
    """Invoice the earliest closed period of an organization.

    returns: None when there is none, or another process is at it
    """
    period = session.scalars(_NEXT_UNINVOICED.where(BillingPeriod.organization_id == organization_id)).first()
    if period is None:
        return None
    invoice = create_draft(session, period)
    fault_point("billing.after_draft")
    period.status = "invoiced"
    finalize_automatically(session, invoice)
    session.flush()  # a violated constraint belongs to this period, not to the next one
    fault_point("billing.after_invoice")
    return to_summary(invoice)


def create_draft(session: Session, period: BillingPeriod, *, replaces_id: UUID | None = None) -> Invoice:
    """Write the draft of a closed period's invoice.

    replaces_id: of the void invoice whose place it takes
    """
    draft = bill.calculate_bill(bill_inputs.get_period_inputs(session, period, period.ends_at))
    invoice = Invoice(
        organization_id=period.organization_id,
        id=ids.new_id(),
        billing_period_id=period.id,
        kind="cycle",
        status="draft",
        currency=draft.currency,
        subtotal_minor=draft.total_minor,
        total_minor=draft.total_minor,
        replaces_id=replaces_id,
        rule_version=CALCULATION_VERSION,
        created_at=clock.now(),
    )
    session.add(invoice)
    session.flush()  # the lines refer to it
    _write_lines(session, invoice, draft)
    return invoice


def recalculate_draft_lines(session: Session, invoice: Invoice, period: BillingPeriod) -> None:
    """Work a draft out anew, from the same ledger."""
    draft = bill.calculate_bill(bill_inputs.get_period_inputs(session, period, period.ends_at))
    delete_lines(session, invoice)
    invoice.currency, invoice.rule_version = draft.currency, CALCULATION_VERSION
    invoice.subtotal_minor = invoice.total_minor = draft.total_minor
    _write_lines(session, invoice, draft)


def delete_lines(session: Session, invoice: Invoice) -> None:
    """Delete the lines of a draft."""
    own = InvoiceLine.organization_id == invoice.organization_id
    session.execute(delete(InvoiceLine).where(own, InvoiceLine.invoice_id == invoice.id))


def finalize_automatically(session: Session, invoice: Invoice) -> None:
    """Finalize a draft, unless its organization's drafts are looked at first or its billing is parked."""
    profile = session.get_one(BillingProfile, invoice.organization_id)
    if not (profile.review_drafts or profile.parked_at):
        finalize_draft(session, invoice, profile)


def _write_lines(session: Session, invoice: Invoice, draft: Bill) -> None:
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
