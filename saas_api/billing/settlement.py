"""Settlement of invoices: how payments and wallet credit lower what is due, and what follows when it changes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.billing import events, invoices, periods, wallet
from saas_api.billing.models import BillingProfile, CreditEntryReason, CreditGrant, GrantKind, Invoice, InvoiceStatus
from saas_api.billing.wallet import GrantSource, GrantView
from saas_api.core import clock, money
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ValidationFailed

DueListener = Callable[[SystemSession, Invoice], None]
_listeners: list[DueListener] = []


class GrantExists(Conflict):
    """Credit from this source was granted before."""

    code, message = "GRANT_EXISTS", "A grant with this key exists already."


class GrantNotRevocable(Conflict):
    """Nothing is left of the grant, or it is the organization's own money."""

    code, message = "GRANT_NOT_REVOCABLE", "Only what is left of a credit that an operator granted can be revoked."


@dataclass(frozen=True)
class SettlementResult:
    """How a captured payment was divided.

    allocated_minor: paid on the invoice
    excess_minor: added to the wallet
    """

    allocated_minor: int
    excess_minor: int


def on_due_change(listener: DueListener) -> DueListener:
    """Register a function that runs in the transaction that changes what is due of an invoice.

    It gets the invoice with its new status, locked as by `invoices.lock_invoice`.
    """
    _listeners.append(listener)
    return listener


def apply_payment(
    session: SystemSession, organization_id: UUID, invoice_id: UUID, captured_minor: int, source_key: str
) -> SettlementResult:
    """Apply a captured payment to an invoice; an excess, or all of it if nothing is due, goes into the wallet.

    The caller makes sure that a payment is applied only once, and calls `finish` when it has stored the payment.

    captured_minor: > 0, in the invoice's currency
    source_key: of the credit grant for an excess, such as "payment:<id>"
    raises: NotFound
    """
    invoice = invoices.lock_invoice(session, organization_id, invoice_id)
    allocated = min(captured_minor, invoice.amount_due_minor) if invoice.is_payable else 0
    excess = captured_minor - allocated
    invoice.paid_minor += allocated
    mark_paid_if_settled(invoice)
    if excess:
        source = GrantSource(source_key, GrantKind.OVERPAYMENT)
        wallet.add_grant(session, organization_id, source, excess, invoice.currency)
    session.flush()  # a violated constraint belongs to this settlement
    session.expire(invoice, ["due_minor"])  # the database computes it
    return SettlementResult(allocated, excess)


def mark_paid_if_settled(invoice: Invoice) -> None:
    """Mark a payable invoice paid when nothing is due any more; `finish` publishes it."""
    if invoice.is_payable and not invoice.amount_due_minor:
        invoice.status, invoice.paid_at = InvoiceStatus.PAID, clock.now()


def finish(session: SystemSession, organization_id: UUID, *changed: Invoice) -> None:
    """Pay open invoices from the wallet, then call the listeners and publish `invoice.paid`.

    changed: invoices of which less is due than before, or that became void, in this transaction
    """
    session.flush()  # the listeners read the rows
    invoices_changed = [*changed, *_pay_open_invoices(session, organization_id)]
    for listener in _listeners:  # before the events: a change of standing locks the organization, and then endpoints
        for invoice in invoices_changed:
            listener(session, invoice)
    for invoice in invoices_changed:
        if invoice.status == InvoiceStatus.PAID:
            events.publish_invoice_event(session, invoice, "invoice.paid")
            audit.record_event(session, organization_id, SYSTEM_ACTOR, "invoice.paid", ("invoice", invoice.id), {})


def _pay_open_invoices(session: SystemSession, organization_id: UUID) -> list[Invoice]:
    """Apply wallet credit to the open invoices of an organization, the oldest due date first.

    returns: the invoices that got any
    """
    wallet.lock_wallet(session, organization_id)
    if not wallet.has_credit(session, organization_id):
        return []
    open_invoices = session.scalars(
        select(Invoice)
        .where(Invoice.organization_id == organization_id, Invoice.status == InvoiceStatus.OPEN)
        .order_by(Invoice.due_at, Invoice.serial)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    return [invoice for invoice in open_invoices if _pay_from_wallet(session, invoice)]


def _pay_from_wallet(session: SystemSession, invoice: Invoice) -> bool:
    applied_minor = wallet.apply_credits(session, invoice)
    if not applied_minor:
        return False
    invoice.credits_applied_minor += applied_minor
    mark_paid_if_settled(invoice)
    data = {"amount": money.format_minor(applied_minor, invoice.currency), "currency": invoice.currency}
    target = ("invoice", invoice.id)
    audit.record_event(session, invoice.organization_id, SYSTEM_ACTOR, "invoice.credit_applied", target, data)
    session.flush()
    session.expire(invoice, ["due_minor"])  # the database computes it
    return True


def grant_credit(
    session: SystemSession,
    organization_id: UUID,
    source: GrantSource,
    amount_minor: int,
    operator: OperatorContext,
    *,
    expires_at: datetime | None = None,
) -> UUID:
    """Grant an organization credit in the currency it is billed in; it pays open invoices at once.

    amount_minor: > 0
    raises: OrganizationNotFound, ValidationFailed, GrantExists
    """
    if amount_minor <= 0:
        raise ValidationFailed.at_field("amount", "Must be above zero.")
    if expires_at and expires_at <= clock.now():
        raise ValidationFailed.at_field("expires_at", "Must be in the future.")
    periods.ensure_account(session, organization_id)
    wallet.lock_wallet(session, organization_id)
    currency = session.get_one(BillingProfile, organization_id).currency
    grant_id = wallet.add_grant(session, organization_id, source, amount_minor, currency, expires_at=expires_at)
    if grant_id is None:
        raise GrantExists
    data = {"kind": source.kind, "amount": money.format_minor(amount_minor, currency), "currency": currency}
    operator.record(session, organization_id, "credit_grant.created", ("credit_grant", grant_id), data)
    finish(session, organization_id)
    return grant_id


def revoke_grant(session: SystemSession, organization_id: UUID, grant_id: UUID, operator: OperatorContext) -> GrantView:
    """Take what is left of a grant that an operator made out of the wallet.

    raises: NotFound; GrantNotRevocable for money of the organization, and when nothing is left
    """
    wallet.lock_wallet(session, organization_id)
    grant = session.get(CreditGrant, (organization_id, grant_id), with_for_update=True, populate_existing=True)
    if grant is None:
        raise NotFound
    revoked_minor = grant.remaining_minor
    if grant.kind not in wallet.OPERATOR_KINDS or not revoked_minor:
        raise GrantNotRevocable
    wallet.take_credit(session, grant, revoked_minor, CreditEntryReason.VOID)
    data = {"amount": money.format_minor(revoked_minor, grant.currency), "currency": grant.currency}
    operator.record(session, organization_id, "credit_grant.revoked", ("credit_grant", grant_id), data)
    session.flush()
    return wallet.add_entries(session, organization_id, [grant])[0]
