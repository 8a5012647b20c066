"""Reads; settle_payment, record_offline_payment, expire_payment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.billing import events as billing_events
from saas_api.billing import invoices
from saas_api.billing.models import Invoice
from saas_api.core import clock, ids, money
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.observability import get_logger
from saas_api.payments import dunning, provider_checks
from saas_api.payments import events as payment_events
from saas_api.payments.models import Payment, Refund
from saas_api.payments.provider_checks import PENDING_STATUSES, ExpectedPayment
from saas_api.providers import selection
from saas_api.providers.payments import PaymentStatus, ProviderUnreachable

log = get_logger(__name__)


def get_by_reference(session: Session, provider: str, reference: str) -> Payment | None:
    """The payment that a provider calls by a name."""
    return session.scalars(
        select(Payment).where(Payment.provider == provider, Payment.provider_reference == reference)
    ).one_or_none()


def get_by_id(session: Session, payment_id: UUID) -> Payment | None:
    """A payment of whatever organization; ids are unique."""
    return session.scalars(select(Payment).where(Payment.id == payment_id)).one_or_none()


def find_pending_payment(session: Session, organization_id: UUID, invoice_id: UUID) -> Payment | None:
    """The payment of an invoice that is not decided."""
    return session.scalars(
        select(Payment).where(
            Payment.organization_id == organization_id,
            Payment.invoice_id == invoice_id,
            Payment.state.in_(PENDING_STATUSES),
        )
    ).one_or_none()


def find_invoice_for_period(session: Session, organization_id: UUID, period_id: UUID) -> UUID | None:
    """The invoice that stands for a period, the newest if some were replaced."""
    return session.scalars(
        select(Invoice.id)
        .where(Invoice.organization_id == organization_id, Invoice.billing_period_id == period_id)
        .order_by(Invoice.status == "void", Invoice.created_at.desc(), Invoice.id.desc())
        .limit(1)
    ).first()


def lock_refundable_payments(session: Session, organization_id: UUID, invoice_id: UUID) -> list[tuple[Payment, int]]:
    """Payments of an invoice and what of each may still go back, the newest first; rows are locked.

    returns: minor units above zero
    """
    payments = session.scalars(
        select(Payment)
        .where(
            Payment.organization_id == organization_id, Payment.invoice_id == invoice_id, Payment.state == "succeeded"
        )
        .order_by(Payment.settled_at.desc(), Payment.id.desc())
        .with_for_update()
    ).all()
    asked = dict(
        session.execute(
            select(Refund.payment_id, func.sum(Refund.amount_minor))
            .where(Refund.organization_id == organization_id, Refund.state != "failed")
            .group_by(Refund.payment_id)
        ).all()
    )
    left = [(payment, payment.allocated_minor - int(asked.get(payment.id, 0))) for payment in payments]
    return [(payment, minor) for payment, minor in left if minor > 0]


def list_newest(session: Session, state: str | None, limit: int) -> Sequence[Payment]:
    """The last payments, newest first."""
    wanted = select(Payment).order_by(Payment.created_at.desc(), Payment.id.desc()).limit(limit)
    return session.scalars(wanted.where(Payment.state == state) if state else wanted).all()


def list_payments(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of an organization's payments, newest first.

    query: limit, cursor, invoice_id
    raises: Invalid for a cursor of another list
    """
    wanted = select(Payment).where(Payment.organization_id == organization_id)
    if query["invoice_id"]:
        wanted = wanted.where(Payment.invoice_id == query["invoice_id"])
    if query["cursor"]:
        wanted = wanted.where(tuple_(Payment.created_at, Payment.id) < _position(query["cursor"]))
    newest_first = wanted.order_by(Payment.created_at.desc(), Payment.id.desc()).limit(query["limit"] + 1)
    rows = session.scalars(newest_first).all()
    last = rows[query["limit"] - 1] if len(rows) > query["limit"] else None
    cursor = pagination.encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None
    return Page(rows[: query["limit"]], cursor, query["limit"])


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, payment_id = pagination.decode_cursor(cursor)
        return datetime.fromisoformat(created_at), UUID(payment_id)
    except ValueError as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause


SETTLED, OPEN, QUARANTINED, UNKNOWN = "done", "open", "quarantined", "unknown"


@dataclass(frozen=True)
class OfflinePayment:
    """Money that came another way.

    reference: of the bank; booked once
    """

    amount_minor: int
    currency: str
    reference: str


def settle_payment(provider: str, reference: str) -> str:
    """Let a payment be what its provider says now.

    returns: DONE, OPEN (nothing decided), QUARANTINED, or UNKNOWN for a reference that is nobody's
    raises: ProviderAway; LookupError when the provider is not offered any more
    """
    with tenancy.system_session("payments.settle") as session:
        payment = get_by_reference(session, provider, reference)
    if payment is None:
        return UNKNOWN
    truth = selection.payment_provider(provider).get_status(reference)
    fault_point("payments.after_ask")
    with tenancy.system_session("payments.settle") as session:
        payment = _lock(session, payment.organization_id, payment.id)
        return _apply_status(session, payment, truth)


def refresh_payment(payment_id: UUID) -> Payment | None:
    """A payment whose customer comes back from the provider: asked about, if nothing is decided yet."""
    payment = _find(payment_id)
    if payment is None or payment.state not in PENDING_STATUSES or not payment.provider_reference:
        return payment
    try:
        settle_payment(payment.provider, payment.provider_reference)
    except (ProviderUnreachable, LookupError):
        log.warning("payment_not_asked", payment_id=str(payment_id))
    return _find(payment_id)


def expire_payment(organization_id: UUID, payment_id: UUID, code: str) -> None:
    """Cancel a payment that was never decided; late truth still books it."""
    with tenancy.system_session("payments.settle") as session:
        payment = _lock(session, organization_id, payment_id)
        if payment.state in PENDING_STATUSES:
            _close(session, payment, "canceled", code)


def record_offline_payment(
    organization_id: UUID, invoice_id: UUID, money: OfflinePayment, actor: Actor, reason: str
) -> Payment:
    """Book money that did not come through a provider.

    raises: NotFound; IntegrityError for a reference that was booked before
    """
    with tenancy.system_session("payments.settle") as session:
        invoice = invoices.lock_invoice(session, organization_id, invoice_id)
        if invoice.currency != money.currency or invoice.status == "draft":
            raise NotFound
        payment_id, now = ids.new_id(), clock.now()
        settled = invoices.apply_payment(
            session, organization_id, invoice_id, money.amount_minor, f"payment:{payment_id}"
        )
        payment = Payment(
            organization_id=organization_id,
            id=payment_id,
            invoice_id=invoice_id,
            provider="offline",
            provider_reference=money.reference,
            initiated_by="operator",
            currency=money.currency,
            amount_minor=money.amount_minor,
            captured_minor=money.amount_minor,
            allocated_minor=settled.allocated_minor,
            excess_minor=settled.excess_minor,
            refunded_minor=0,
            state="succeeded",
            created_at=now,
            settled_at=now,
        )
        session.add(payment)
        data = {"reason": reason, "reference": money.reference}
        audit.record_event(session, organization_id, actor, "payment.recorded", ("payment", payment_id), data)
        _finish_success(session, payment)
        return payment


def _find(payment_id: UUID) -> Payment | None:
    with tenancy.system_session("payments.settle") as session:
        return get_by_id(session, payment_id)


def _lock(session: Session, organization_id: UUID, payment_id: UUID) -> Payment:
    return session.get_one(Payment, (organization_id, payment_id), with_for_update=True, populate_existing=True)


def _apply_status(session: Session, payment: Payment, truth: PaymentStatus) -> str:
    if payment.state == "succeeded":
        return SETTLED
    told = ExpectedPayment(truth.reference, truth.currency, truth.amount_minor)
    asked = ExpectedPayment(payment.provider_reference, payment.currency, payment.amount_minor)
    problem = provider_checks.find_mismatch(truth.kind, told, asked)
    if problem:
        _quarantine(session, payment, problem, told)
        return QUARANTINED
    kind = provider_checks.resolve_status(truth.kind, clock.now() - payment.created_at)
    if kind == "open":
        return OPEN
    if kind == "succeeded":
        _book_capture(session, payment, truth.amount_minor)
    elif payment.state in PENDING_STATUSES:
        _close(session, payment, kind, truth.failure_code or "expired")
    return SETTLED


def _book_capture(session: Session, payment: Payment, captured_minor: int) -> None:
    source = f"payment:{payment.id}"
    settled = invoices.apply_payment(session, payment.organization_id, payment.invoice_id, captured_minor, source)
    payment.captured_minor = captured_minor
    payment.allocated_minor, payment.excess_minor = settled.allocated_minor, settled.excess_minor
    payment.state, payment.settled_at = "succeeded", clock.now()
    payment.failure_code = payment.next_check_at = None
    data = {"minor": captured_minor, "excess_minor": settled.excess_minor}
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, "payment.succeeded", target, data)
    _finish_success(session, payment)
    fault_point("payments.before_commit")


def _finish_success(session: Session, payment: Payment) -> None:
    payment_events.publish_payment_event(session, payment, "payment.succeeded")
    invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
    payment_events.email_billing_contacts(session, "payment_received", payment, invoice)
    dunning.stop_if_settled(session, payment.organization_id, payment.invoice_id)


def _close(session: Session, payment: Payment, state: str, code: str) -> None:
    payment.state, payment.failure_code, payment.next_check_at = state, code, None
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, f"payment.{state}", target, {"failure_code": code})
    payment_events.publish_payment_event(session, payment, "payment.failed")
    if state == "failed":
        invoice = invoices.lock_invoice(session, payment.organization_id, payment.invoice_id)
        if invoice.is_payable:
            billing_events.publish_invoice_event(session, invoice, "invoice.payment_failed", attempt=1)
        payment_events.email_billing_contacts(session, "payment_failed", payment, invoice)


def _quarantine(session: Session, payment: Payment, problem: str, told: ExpectedPayment) -> None:
    if payment.state == "quarantined" and payment.failure_code == problem:
        return
    payment.state, payment.failure_code, payment.next_check_at = "quarantined", problem, None
    data = {"problem": problem, "told_minor": told.amount_minor, "told_currency": told.currency}
    actor, target = SYSTEM_ACTOR, ("payment", payment.id)
    audit.record_event(session, payment.organization_id, actor, "payment.quarantined", target, data)
    asked = f"{money.format_minor(payment.amount_minor, payment.currency)} {payment.currency} were asked for"
    detail = (
        f"{payment_events.payment_label(payment.organization_id, payment.id)}: {problem}; {asked}, {payment.provider} says "
        f"{told.amount_minor} {told.currency} in minor units. Nothing was booked."
    )
    payment_events.email_operators(session, "a payment is quarantined", detail)
