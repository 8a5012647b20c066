"""Drafts of closed periods, their finalization, and corrections: recalculate, delete, void, release held billing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, text
from sqlalchemy.exc import DataError

from saas_api.accounts import audit, members, operators, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.accounts.models import Organization
from saas_api.billing import bill_inputs, events, invoice_mails, invoices, previous_balances, settlement, wallet
from saas_api.billing.invoices import InvoiceNotOpen, InvoiceWithPeriod
from saas_api.billing.models import (
    BillingPeriod,
    BillingProfile,
    GrantKind,
    Invoice,
    InvoiceKind,
    InvoiceLine,
    InvoiceStatus,
    PeriodStatus,
)
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import CALCULATION_VERSION, Bill, LineKind
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, formatting, ids, money
from saas_api.core.db import cells, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.faults import fault_point
from saas_api.core.roles import BILLING_ROLES
from saas_api.core.settings import setting
from saas_api.mail import mails
from saas_api.mail.mails import NewMail

INVOICE_SERIES = "INV"
FINALIZED_ACTION = "invoice.finalized"
CALCULATION_ERRORS = (ArithmeticError, LookupError, ValueError, DataError)
"""Errors that a calculation of the same period raises again, among them amounts that PostgreSQL cannot store."""
_NOT_CALCULATED = 0  # rule_version of a draft without calculation


class InvoiceHasPayments(Conflict):
    """A payment was applied to the invoice, so it can only be corrected by a credit note."""

    code, message = "INVOICE_HAS_PAYMENTS", "Payments are booked on this invoice; write a credit note instead."


class InvoiceNotDraft(Conflict):
    """The invoice is final."""

    code, message = "INVOICE_NOT_DRAFT", "This invoice is no draft any more."


class InvoiceNotCalculated(Conflict):
    """The period of the draft could not be calculated, or its amounts are too large to be stored."""

    code = "INVOICE_NOT_CALCULATED"
    message = "The period of this draft could not be calculated; remove the cause and recalculate it, or delete it."


class BillingOnHold(Conflict):
    """A failed invariant check stops invoices of the organization."""

    code, message = "BILLING_PARKED", "The billing of this organization is on hold; look into the reason first."


def due_date(profile: BillingProfile, finalized_at: datetime) -> datetime:
    """When an invoice is due: the organization's net terms, counted from the moment it became final.

    The only place that decides it. Dunning counts its steps from this date (`payments/dunning_schedule.py`);
    the default of seven days is that of the column `billing_profiles.net_terms_days`; docs/billing.md explains it.
    """
    return finalized_at + timedelta(days=profile.net_terms_days)


# The lock lets foreign keys refer to the period: a call that records late usage for it must not make it look locked.
NEXT_UNINVOICED_PERIOD = (
    select(BillingPeriod)
    .where(BillingPeriod.status == PeriodStatus.CLOSED)
    .where(
        text("""NOT EXISTS (SELECT FROM billing_periods e WHERE e.organization_id = billing_periods.organization_id
          AND e.seq < billing_periods.seq AND e.state <> 'invoiced')""")
    )
    .with_for_update(skip_locked=True, key_share=True)
)
"""The earliest closed period of each organization, locked; without those that another process is invoicing."""


def invoice_next_period(session: SystemSession, organization_id: UUID) -> InvoiceWithPeriod | None:
    """Invoice the earliest closed period of an organization.

    returns: None when there is none, or when another process is invoicing it
    """
    statement = NEXT_UNINVOICED_PERIOD.where(BillingPeriod.organization_id == organization_id)
    period = session.scalars(statement).first()
    if period is None:
        return None
    invoice = create_draft(session, period)
    fault_point("billing.after_draft")
    period.status = PeriodStatus.INVOICED
    finalize_automatically(session, invoice)
    session.flush()  # a violated constraint belongs to this period, not to the next one
    fault_point("billing.after_invoice")
    return _reload(session, invoice)


def hold_next_period(session: SystemSession, organization_id: UUID, problem: str) -> InvoiceWithPeriod | None:
    """Store an empty draft for the earliest closed period, which cannot be calculated, and put billing on hold.

    The draft lets later periods be invoiced; it cannot become final before it is recalculated.

    problem: for operators, who get a mail
    returns: None when another process has invoiced the period
    """
    statement = NEXT_UNINVOICED_PERIOD.where(BillingPeriod.organization_id == organization_id)
    period = session.scalars(statement).first()
    if period is None:
        return None
    profile = session.get_one(BillingProfile, organization_id)
    invoice = _new_draft(period, profile.currency, _NOT_CALCULATED)
    session.add(invoice)
    period.status = PeriodStatus.INVOICED
    reason = f"period {period.seq} could not be calculated: {problem}"
    if profile.on_hold_at is None:
        profile.on_hold_at, profile.hold_reason = clock.now(), reason
        target, data = ("organization", organization_id), {"what": reason}
        audit.record_event(session, organization_id, SYSTEM_ACTOR, "billing.parked", target, data)
    detail = f"{ids.format_id('org', organization_id)}: {reason}"
    operators.send_alert(session, "a period could not be invoiced", detail)
    session.flush()
    return _reload(session, invoice)


def _reload(session: SystemSession, invoice: Invoice) -> InvoiceWithPeriod:
    """The stored invoice with its period; both can be read after the session has ended."""
    session.refresh(invoice)
    return InvoiceWithPeriod(invoice, invoices.get_period(session, invoice))


def create_draft(session: SystemSession, period: BillingPeriod, *, replaces_id: UUID | None = None) -> Invoice:
    """Store the draft of a closed period's invoice.

    replaces_id: the void invoice that it replaces
    """
    period_bill = _calculate_bill(session, period)
    invoice = new_draft(period, period_bill)
    invoice.replaces_id = replaces_id
    session.add(invoice)
    session.flush()  # the lines refer to it
    _add_lines(session, invoice, period_bill)
    return invoice


def new_draft(period: BillingPeriod, period_bill: Bill) -> Invoice:
    """A draft of a period's invoice that is not stored yet."""
    draft = _new_draft(period, period_bill.currency, CALCULATION_VERSION)
    draft.subtotal_minor = draft.total_minor = period_bill.total_minor
    return draft


def _new_draft(period: BillingPeriod, currency: str, rule_version: int) -> Invoice:
    return Invoice(
        organization_id=period.organization_id,
        id=ids.new_id(),
        billing_period_id=period.id,
        kind=InvoiceKind.CYCLE,
        status=InvoiceStatus.DRAFT,
        currency=currency,
        rule_version=rule_version,
        created_at=clock.now(),
    )


def _calculate_bill(session: SystemSession, period: BillingPeriod) -> Bill:
    tenancy.allow_long_statements(session)  # millions of events must not prevent an invoice
    return bill.calculate_bill(bill_inputs.get_period_inputs(session, period, period.ends_at))


def _add_lines(session: SystemSession, invoice: Invoice, period_bill: Bill) -> None:
    session.add_all(InvoiceLine(**values) for values in line_values(invoice, period_bill))
    session.flush()  # finalization compares their sum with the subtotal


def line_values(invoice: Invoice, period_bill: Bill) -> Iterator[dict[str, Any]]:
    """The lines of an invoice, as values by attribute of `InvoiceLine`."""
    for position, line in enumerate(period_bill.lines, start=1):
        yield {
            "organization_id": invoice.organization_id,
            "invoice_id": invoice.id,
            "position": position,
            "source_key": line.source_key,
            "kind": line.kind,
            "description": line.description,
            "plan_version_id": line.version_id,
            "meter_code": line.meter,
            "late_for_period_id": line.late_for_period_id,
            "service_starts_at": line.starts_at,
            "service_ends_at": line.ends_at,
            "quantity": line.quantity,
            "amount_minor": line.amount_minor,
            "calculation": dict(line.calculation),
        }


def _delete_lines(session: SystemSession, invoice: Invoice, *conditions: ColumnElement[bool]) -> None:
    own = InvoiceLine.organization_id == invoice.organization_id
    session.execute(delete(InvoiceLine).where(own, InvoiceLine.invoice_id == invoice.id, *conditions))


def finalize_automatically(session: SystemSession, invoice: Invoice) -> None:
    """Finalize a draft, unless the organization's drafts are reviewed first or its billing is on hold."""
    profile = session.get_one(BillingProfile, invoice.organization_id)
    if is_finalized_automatically(profile):
        _finalize(session, invoice, profile)


def is_finalized_automatically(profile: BillingProfile) -> bool:
    """Whether nobody reviews the drafts of an organization, and its billing is not on hold."""
    return not (profile.review_drafts or profile.on_hold_at)


def _finalize(session: SystemSession, invoice: Invoice, profile: BillingProfile) -> None:
    """Make a draft final; it is paid at once when the wallet covers it. The caller holds the lock of the invoice."""
    organization = organizations.get_organization(session, profile.organization_id)
    wallet.lock_wallet(session, invoice.organization_id)
    credits_minor = use_wallet(session, invoice)
    [serial] = next_serials(session, local_series(INVOICE_SERIES), 1)
    fault_point("billing.after_number")
    for name, value in final_values(invoice, organization, profile, credits_minor, serial).items():
        setattr(invoice, name, value)
    _publish_finalized(session, invoice, organization)


def use_wallet(session: SystemSession, invoice: Invoice) -> int:
    """Settle what a draft that becomes final has to do with the wallet.

    What its lines come to below zero becomes credit, small rests of older invoices move to it, and credit pays it. The
    caller holds the lock of the wallet.

    returns: the credit that pays it, in minor units, which the caller adds to the invoice
    """
    carried_minor = 0 if invoice.total_minor else _carried_over(session, invoice)
    if carried_minor:
        source = GrantSource(f"carry:{invoice.id}", GrantKind.CARRY)
        wallet.add_grant(session, invoice.organization_id, source, carried_minor, invoice.currency)
        settlement.finish(session, invoice.organization_id)
    previous_balances.move_to(session, invoice)
    return wallet.apply_credits(session, invoice)


def final_values(
    invoice: Invoice, organization: Organization, profile: BillingProfile, credits_minor: int, serial: int
) -> dict[str, Any]:
    """What changes of a draft when it becomes final now, by attribute of `Invoice`.

    credits_minor: credit that pays it
    serial: in the series of invoices
    """
    now = clock.now()
    is_settled = credits_minor == invoice.total_minor
    return {
        "bill_to": _bill_to(organization, profile),
        "seller": _seller(),
        "credits_applied_minor": credits_minor,
        "finalized_at": now,
        "due_at": due_date(profile, now),
        "status": InvoiceStatus.PAID if is_settled else InvoiceStatus.OPEN,
        "paid_at": now if is_settled else None,
        "series": local_series(INVOICE_SERIES),
        "serial": serial,
        "number": format_number(local_series(INVOICE_SERIES), serial),
    }


def _carried_over(session: SystemSession, invoice: Invoice) -> int:
    total = select(func.coalesce(func.sum(InvoiceLine.amount_minor), 0)).where(
        InvoiceLine.organization_id == invoice.organization_id,
        InvoiceLine.invoice_id == invoice.id,
        InvoiceLine.kind == LineKind.CARRY,
    )
    return int(session.scalar(total) or 0)


@dataclass(frozen=True)
class _Customer:
    name: str
    email: str | None
    tax_id: str | None


def _bill_to(organization: Organization, profile: BillingProfile) -> dict[str, Any]:
    customer = _Customer(organization.name, organization.billing_email, profile.tax_id)
    return {**{name: value for name, value in vars(customer).items() if value}, **profile.bill_to}


def _seller() -> dict[str, Any]:
    values = {
        "name": setting("SELLER_NAME"),
        "address": [line.strip() for line in (setting("SELLER_ADDRESS") or "").split("|") if line.strip()],
        "tax_id": setting("SELLER_TAX_ID"),
    }
    return {name: value for name, value in values.items() if value}


_NEXT_SERIALS = text("""INSERT INTO number_series (series, last_value) VALUES (:series, :count)
  ON CONFLICT (series) DO UPDATE SET last_value = number_series.last_value + :count RETURNING last_value""")


def next_serials(session: SystemSession, series: str, count: int) -> range:
    """Take the next serials of a series without gaps.

    The series stays locked until the transaction ends, so take numbers late.

    count: >= 1
    """
    last = int(session.execute(_NEXT_SERIALS, {"series": series, "count": count}).scalar_one())
    return range(last - count + 1, last + 1)


def local_series(series: str) -> str:
    """The series of the current cell: numbers are without gaps in each, and no two cells give the same."""
    cell = cells.current()
    return series if cell is None else f"{series}-{cell.upper()}"


def format_number(series: str, serial: int) -> str:
    """A number such as INV-000042."""
    return f"{series}-{serial:06d}"


def _publish_finalized(session: SystemSession, invoice: Invoice, organization: Organization) -> None:
    events.publish_invoice_event(session, invoice, "invoice.finalized")
    if invoice.status == InvoiceStatus.PAID:
        events.publish_invoice_event(session, invoice, "invoice.paid")
    target = ("invoice", invoice.id)
    data = audit_data(invoice)
    audit.record_event(session, invoice.organization_id, SYSTEM_ACTOR, FINALIZED_ACTION, target, data)
    if invoice.total_minor:
        dated = InvoiceWithPeriod(invoice, invoices.get_period(session, invoice))
        email_invoices(session, [(dated, organization)])


def audit_data(invoice: Invoice) -> dict[str, str | None]:
    """What the audit log keeps of an invoice that became final."""
    return {"number": invoice.number, "total": money.format_minor(invoice.total_minor, invoice.currency)}


def finalize_invoice(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, operator: OperatorContext
) -> InvoiceWithPeriod:
    """Finalize a reviewed draft.

    raises: NotFound, InvoiceNotDraft, InvoiceNotCalculated, BillingOnHold
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    if invoice.rule_version == _NOT_CALCULATED:
        raise InvoiceNotCalculated
    profile = session.get_one(BillingProfile, organization_id)
    if profile.on_hold_at:
        raise BillingOnHold(details={"parked_reason": profile.hold_reason})
    _finalize(session, invoice, profile)
    operator.record(session, organization_id, "invoice.reviewed", ("invoice", invoice.id), {"number": invoice.number})
    session.flush()  # a violated constraint belongs to this invoice
    return _reload(session, invoice)


def recalculate_draft(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, operator: OperatorContext
) -> InvoiceWithPeriod:
    """Calculate a draft again from the ledger and replace its lines.

    raises: NotFound, InvoiceNotDraft, InvoiceNotCalculated
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    before = money.format_minor(invoice.total_minor, invoice.currency)
    period = session.get_one(BillingPeriod, (organization_id, invoice.billing_period_id))
    lines = invoices.list_lines(session, organization_id, invoice_id)
    rests_minor = sum(line.amount_minor for line in lines if line.kind == LineKind.MANUAL)
    _delete_lines(session, invoice, InvoiceLine.kind != LineKind.MANUAL)
    try:
        period_bill = _calculate_bill(session, period)
        invoice.currency, invoice.rule_version = period_bill.currency, CALCULATION_VERSION
        invoice.subtotal_minor = invoice.total_minor = period_bill.total_minor + rests_minor
        _add_lines(session, invoice, period_bill)
    except CALCULATION_ERRORS as cause:
        raise InvoiceNotCalculated from cause
    data = {"before": before, "after": money.format_minor(invoice.total_minor, invoice.currency)}
    operator.record(session, organization_id, "invoice.redone", ("invoice", invoice.id), data)
    return _reload(session, invoice)


def delete_draft(session: SystemSession, organization_id: UUID, invoice_id: UUID, operator: OperatorContext) -> None:
    """Delete a draft; its period is never invoiced.

    raises: NotFound, InvoiceNotDraft
    """
    invoice = _lock_draft(session, organization_id, invoice_id)
    data = {
        "total": money.format_minor(invoice.total_minor, invoice.currency),
        "period": str(invoice.billing_period_id),
    }
    _delete_lines(session, invoice)
    session.delete(invoice)
    operator.record(session, organization_id, "invoice.draft_deleted", ("invoice", invoice.id), data)


def void_invoice(
    session: SystemSession,
    organization_id: UUID,
    invoice_id: UUID,
    operator: OperatorContext,
    *,
    is_replaced: bool = False,
) -> InvoiceWithPeriod | None:
    """Void an invoice without payments; wallet credit that was applied to it pays other invoices, the new one first.

    is_replaced: create and finalize a new invoice for the period, calculated from the ledger
    returns: the new invoice
    raises: NotFound, InvoiceHasPayments, InvoiceNotOpen
    """
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.paid_minor:
        raise InvoiceHasPayments
    if not invoice.is_payable:
        raise InvoiceNotOpen
    wallet.return_credits(session, invoice)
    invoice.status, invoice.voided_at, invoice.credits_applied_minor = InvoiceStatus.VOID, clock.now(), 0
    events.publish_invoice_event(session, invoice, "invoice.voided")
    operator.record(session, organization_id, "invoice.voided", ("invoice", invoice.id), {"number": invoice.number})
    replacement = _create_replacement(session, invoice) if is_replaced and invoice.billing_period_id else None
    settlement.finish(session, organization_id, invoice)
    return replacement


def _create_replacement(session: SystemSession, invoice: Invoice) -> InvoiceWithPeriod:
    """Create the invoice in place of a void one, which uses the returned credit before older invoices do."""
    period = session.get_one(BillingPeriod, (invoice.organization_id, invoice.billing_period_id))
    replacement = create_draft(session, period, replaces_id=invoice.id)
    previous_balances.copy_to(session, invoice, replacement)
    finalize_automatically(session, replacement)
    session.flush()  # a violated constraint belongs to this invoice
    return _reload(session, replacement)


def _lock_draft(session: SystemSession, organization_id: UUID, invoice_id: UUID) -> Invoice:
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    if invoice.status != InvoiceStatus.DRAFT:
        raise InvoiceNotDraft
    return invoice


def release_billing(session: SystemSession, organization_id: UUID, operator: OperatorContext) -> bool:
    """Allow the organization's drafts to be finalized again after a failed check.

    returns: whether its billing was on hold
    raises: NotFound
    """
    profile = session.get(BillingProfile, organization_id, with_for_update=True)
    if profile is None:
        raise NotFound
    if profile.on_hold_at is None:
        return False
    data = {"parked_reason": profile.hold_reason}
    profile.on_hold_at = profile.hold_reason = None
    operator.record(session, organization_id, "billing.unparked", ("organization", organization_id), data)
    return True


def email_invoices(session: SystemSession, charged: Sequence[tuple[InvoiceWithPeriod, Organization]]) -> None:
    """Send final invoices to the billing contacts of their organizations."""
    recipients = members.list_recipients_in_batch(session, [organization for _, organization in charged], BILLING_ROLES)
    new_mails = [
        NewMail("invoice_ready", recipient.email, organization.id, {**context, "name": recipient.name}, attachment)
        for dated, organization in charged
        for context, attachment in [
            (_mail_context(dated, organization), invoice_mails.attach_invoice(dated.invoice.id))
        ]
        for recipient in recipients[organization.id]
    ]
    mails.enqueue_many(session, new_mails)


def _mail_context(dated: InvoiceWithPeriod, organization: Organization) -> dict[str, Any]:
    invoice = dated.invoice
    with formatting.localized(organization.locale):
        return {
            "organization": organization.name,
            "number": invoice.number,
            "amount": formatting.format_money(invoice.amount_due_minor, invoice.currency),
            "due": dated.due_day,
            "period": dated.days,
            "invoice_id": ids.format_id("inv", invoice.id),
        }
