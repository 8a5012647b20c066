"""Reads of payments, by whoever looks after them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, tuple_
from sqlalchemy.orm import Session

from saas_api.billing.models import Invoice
from saas_api.core.errors import Invalid
from saas_api.core.fields import Page, decode_cursor, encode_cursor
from saas_api.payments.models import Payment, ProviderEvent, Refund
from saas_api.payments.rules.checking import IN_FLIGHT

_UNREFUNDED = text("""
SELECT n.organization_id, n.id FROM credit_notes n
 WHERE n.to_refund_minor > (SELECT coalesce(sum(r.amount_minor), 0) FROM refunds r
   WHERE r.organization_id = n.organization_id AND r.credit_note_id = n.id)
   AND NOT EXISTS (SELECT FROM refunds r WHERE r.organization_id = n.organization_id AND r.credit_note_id = n.id)
 ORDER BY n.issued_at LIMIT 100
""")
_DUE_EVENTS = text("""
SELECT provider, min(extract(epoch FROM next_at - now()))::float8 AS seconds FROM provider_events
 WHERE state = 'received' GROUP BY provider
""")


def by_reference(session: Session, provider: str, reference: str) -> Payment | None:
    """The payment that a provider calls by a name."""
    return session.scalars(
        select(Payment).where(Payment.provider == provider, Payment.provider_reference == reference)
    ).one_or_none()


def by_id(session: Session, payment_id: UUID) -> Payment | None:
    """A payment of whatever organization; ids are unique."""
    return session.scalars(select(Payment).where(Payment.id == payment_id)).one_or_none()


def in_flight(session: Session, organization_id: UUID, invoice_id: UUID) -> Payment | None:
    """The payment of an invoice that is not decided."""
    return session.scalars(
        select(Payment).where(
            Payment.organization_id == organization_id,
            Payment.invoice_id == invoice_id,
            Payment.state.in_(IN_FLIGHT),
        )
    ).one_or_none()


def invoice_of_period(session: Session, organization_id: UUID, period_id: UUID) -> UUID | None:
    """The invoice that stands for a period, the newest if some were replaced."""
    return session.scalars(
        select(Invoice.id)
        .where(Invoice.organization_id == organization_id, Invoice.billing_period_id == period_id)
        .order_by(Invoice.state == "void", Invoice.created_at.desc(), Invoice.id.desc())
        .limit(1)
    ).first()


def to_check(session: Session, at: datetime, limit: int) -> Sequence[Payment]:
    """Undecided payments that are to be asked about."""
    return session.scalars(
        select(Payment)
        .where(Payment.state.in_(IN_FLIGHT), Payment.next_check_at <= at)
        .order_by(Payment.next_check_at)
        .limit(limit)
    ).all()


def to_refund(session: Session) -> list[tuple[UUID, UUID]]:
    """Credit notes whose refund nobody asked for yet: organization and id."""
    return [(owner, note_id) for owner, note_id in session.execute(_UNREFUNDED)]


def is_refunded(session: Session, organization_id: UUID, note_id: UUID) -> bool:
    """Whether a credit note's refunds are planned."""
    planned = select(Refund.id).where(Refund.organization_id == organization_id, Refund.credit_note_id == note_id)
    return session.scalars(planned.limit(1)).first() is not None


def refundable(session: Session, organization_id: UUID, invoice_id: UUID) -> list[tuple[Payment, int]]:
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


def pending_refunds(session: Session) -> Sequence[Refund]:
    """Refunds whose end is not known, the oldest first."""
    return session.scalars(select(Refund).where(Refund.state == "pending").order_by(Refund.created_at).limit(100)).all()


def due_providers(session: Session) -> list[tuple[str, float]]:
    """Providers with events to work off, and in how many seconds the first is due."""
    return [(provider, float(seconds)) for provider, seconds in session.execute(_DUE_EVENTS)]


def newest(session: Session, state: str | None, limit: int) -> Sequence[Payment]:
    """The last payments, newest first."""
    wanted = select(Payment).order_by(Payment.created_at.desc(), Payment.id.desc()).limit(limit)
    return session.scalars(wanted.where(Payment.state == state) if state else wanted).all()


def quarantined_events(session: Session, limit: int) -> Sequence[ProviderEvent]:
    """Events that nobody could make sense of, newest first."""
    return session.scalars(
        select(ProviderEvent)
        .where(ProviderEvent.state == "quarantined")
        .order_by(ProviderEvent.received_at.desc())
        .limit(limit)
    ).all()


def history(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
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
    cursor = encode_cursor(last.created_at.isoformat(), str(last.id)) if last else None
    return Page(rows[: query["limit"]], cursor, query["limit"])


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, payment_id = decode_cursor(cursor)
        return datetime.fromisoformat(created_at), UUID(payment_id)
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
