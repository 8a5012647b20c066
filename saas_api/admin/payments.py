"""Payments and provider events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts.models import AuditEvent, Organization
from saas_api.admin import context, lists
from saas_api.admin.lists import Columns, ListQuery
from saas_api.billing.models import Invoice
from saas_api.core import ids, money
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.errors import NotFound
from saas_api.core.money import CURRENCY_EXPONENTS
from saas_api.core.web import pages
from saas_api.payments.models import Payment, ProviderEvent, Refund

bp = Blueprint("payments", __name__, url_prefix="/admin")

MAX_ROWS = 50


@dataclass(frozen=True)
class QuarantinedPayment:
    """A payment, and what its provider said when it was set apart.

    told_minor, told_currency: None when the provider told none, or it was never set apart
    told_at: when it was set apart
    """

    payment: Payment
    organization_name: str
    invoice_number: str | None
    told_minor: int | None
    told_currency: str | None
    told_at: datetime | None

    @property
    def difference_minor(self) -> int | None:
        """What was told above what was asked, in minor units; None where the currencies differ."""
        if self.told_minor is None or self.told_currency != self.payment.currency:
            return None
        return self.told_minor - self.payment.amount_minor

    @property
    def reported_text(self) -> str:
        """What was told, for people."""
        if self.told_minor is None or self.told_currency is None:
            return "no amount"
        if self.told_currency not in CURRENCY_EXPONENTS:
            return f"{self.told_minor} {self.told_currency} in minor units"
        return f"{money.format_minor(self.told_minor, self.told_currency)} {self.told_currency}"

    @property
    def difference_text(self) -> str:
        """What was told against what was asked, for people."""
        minor, currency = self.difference_minor, self.payment.currency
        if minor is None:
            return "another currency" if self.told_currency else "not known"
        direction = "more" if minor > 0 else "less"
        return f"{money.format_minor(abs(minor), currency)} {currency} {direction}" if minor else "none"


def list_payments(session: Session, query: dict[str, Any]) -> Page:
    """A page of payments as `Apart`, newest first.

    query: limit, cursor, format; status; provider
    raises: Invalid
    """
    wanted = _payments()
    if query["status"]:
        wanted = wanted.where(Payment.status == query["status"])
    if query["provider"]:
        wanted = wanted.where(Payment.provider == query["provider"])
    found = lists.paginate_or_export(session, wanted, query, (Payment.created_at, Payment.id))
    return Page([_to_quarantined(row) for row in found.items], found.next_cursor, found.limit)


def list_quarantined(session: Session) -> list[QuarantinedPayment]:
    """Payments that stand apart, the newest first."""
    wanted = _payments().where(Payment.status == "quarantined").order_by(Payment.created_at.desc(), Payment.id.desc())
    return [_to_quarantined(row) for row in session.execute(wanted.limit(MAX_ROWS))]


def get_payment(session: Session, payment_id: UUID) -> QuarantinedPayment:
    """A payment of whatever organization.

    raises: NotFound
    """
    row = session.execute(_payments().where(Payment.id == payment_id)).first()
    if row is None:
        raise NotFound
    return _to_quarantined(row)


def list_refunds(session: Session, payment: Payment) -> Sequence[Refund]:
    """What of a payment goes back, the oldest first."""
    own = (Refund.organization_id == payment.organization_id, Refund.payment_id == payment.id)
    return session.scalars(sa.select(Refund).where(*own).order_by(Refund.created_at, Refund.id)).all()


def list_payment_events(session: Session, payment: Payment) -> Sequence[ProviderEvent]:
    """Events of its provider that name a payment, the newest first."""
    if payment.provider_reference is None:
        return []
    own = (ProviderEvent.provider == payment.provider, ProviderEvent.reference == payment.provider_reference)
    return session.scalars(
        sa.select(ProviderEvent).where(*own).order_by(ProviderEvent.received_at.desc()).limit(MAX_ROWS)
    ).all()


def list_events(session: Session, query: dict[str, Any]) -> Page:
    """A page of events of providers, newest first.

    query: limit, cursor, format; status; provider
    raises: Invalid
    """
    wanted = sa.select(ProviderEvent).options(sa.orm.defer(ProviderEvent.body))
    if query["status"]:
        wanted = wanted.where(ProviderEvent.status == query["status"])
    if query["provider"]:
        wanted = wanted.where(ProviderEvent.provider == query["provider"])
    order = (ProviderEvent.received_at, ProviderEvent.provider, ProviderEvent.event_id)
    found = lists.paginate_or_export(session, wanted, query, order)
    return Page([row[0] for row in found.items], found.next_cursor, found.limit)


def get_event(session: Session, provider: str, event_id: str) -> ProviderEvent:
    """An event of a provider.

    raises: NotFound
    """
    event = session.get(ProviderEvent, (provider, event_id))
    if event is None:
        raise NotFound
    return event


def _payments() -> sa.Select[Any]:
    """With the last words about its quarantine: they stand in the log of acts, and nowhere else."""
    said = (
        sa.select(AuditEvent.data, AuditEvent.at)
        .where(
            AuditEvent.organization_id == Payment.organization_id,
            AuditEvent.action == "payment.quarantined",
            AuditEvent.target_id == sa.cast(Payment.id, sa.Text),
        )
        .order_by(AuditEvent.id.desc())
        .limit(1)
        .lateral("said")
    )
    return (
        sa.select(Payment, Organization.name, Invoice.number, said.c.data, said.c.at)
        .join(Organization, Organization.id == Payment.organization_id)
        .join(Invoice, sa.and_(Invoice.organization_id == Payment.organization_id, Invoice.id == Payment.invoice_id))
        .outerjoin(said, sa.true())
    )


def _to_quarantined(row: Any) -> QuarantinedPayment:
    payment, name, number, said, at = row[:5]
    told = said or {}
    return QuarantinedPayment(payment, name, number, told.get("told_minor"), told.get("told_currency") or None, at)


PAYMENT_COLUMNS: Columns = {
    "id": lambda one: ids.format_id("pay", one.payment.id),
    "organization_id": lambda one: ids.format_id("org", one.payment.organization_id),
    "organization": lambda one: one.organization_name,
    "invoice_id": lambda one: ids.format_id("inv", one.payment.invoice_id),
    "provider": lambda one: one.payment.provider,
    "reference": lambda one: one.payment.provider_reference or "",
    "status": lambda one: one.payment.status,
    "failure_code": lambda one: one.payment.failure_code or "",
    "amount": lambda one: lists.csv_money(one.payment.amount_minor, one.payment.currency),
    "captured": lambda one: lists.csv_money(one.payment.captured_minor, one.payment.currency),
    "currency": lambda one: one.payment.currency,
    "created_at": lambda one: lists.csv_time(one.payment.created_at),
}
EVENT_COLUMNS: Columns = {
    "provider": lambda event: event.provider,
    "event_id": lambda event: event.event_id,
    "type": lambda event: event.event_type,
    "reference": lambda event: event.reference or "",
    "status": lambda event: event.status,
    "attempts": lambda event: event.attempts,
    "error": lambda event: event.error or "",
    "received_at": lambda event: lists.csv_time(event.received_at),
    "processed_at": lambda event: lists.csv_time(event.processed_at),
}
PaymentStatus = ("created", "pending", "requires_action", "succeeded", "failed", "canceled", "quarantined")
ProviderEventStatus = ("received", "processed", "ignored", "quarantined")
PROVIDERS = ("stripe", "paystack", "mock", "offline")


class PaymentListQuery(ListQuery):
    """Filters of payments."""

    status = fields.String(load_default=None, validate=validate.OneOf(PaymentStatus))
    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


class ProviderEventListQuery(ListQuery):
    """Filters of the events of providers."""

    status = fields.String(load_default=None, validate=validate.OneOf(ProviderEventStatus))
    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


_PAYMENT = '/payments/<id("pay"):payment_id>'
_EVENT = "/payments/events/<provider>/<path:event_id>"


@bp.get("/payments")
@require_operator("support")
def index() -> Response:
    """Payments, and on top those that are quarantined, with the difference."""
    query = lists.parse_query(PaymentListQuery())
    with context.read_session() as session:
        found, apart = list_payments(session, query), list_quarantined(session)
    if query["format"] == "csv":
        return lists.csv_export("payments", PAYMENT_COLUMNS, found)
    choices: dict[str, Any] = {"states": PaymentStatus, "providers": PROVIDERS}
    return pages.render_page("admin/payments/index.html", found=found, apart=apart, **choices)


@bp.get(_PAYMENT)
@require_operator("support")
def show(payment_id: UUID) -> Response:
    """One payment, what its provider said, and what goes back of it."""
    with context.read_session() as session:
        one = get_payment(session, payment_id)
        events, refunds = list_payment_events(session, one.payment), list_refunds(session, one.payment)
    return pages.render_page("admin/payments/show.html", one=one, events=events, refunds=refunds)


@bp.get("/payments/events")
@require_operator("support")
def events_index() -> Response:
    """What providers told us."""
    query = lists.parse_query(ProviderEventListQuery())
    with context.read_session() as session:
        found = list_events(session, query)
    if query["format"] == "csv":
        return lists.csv_export("payment-events", EVENT_COLUMNS, found)
    choices: dict[str, Any] = {"states": ProviderEventStatus, "providers": PROVIDERS}
    return pages.render_page("admin/payments/events.html", found=found, **choices)


@bp.get(_EVENT)
@require_operator("support")
def show_event(provider: str, event_id: str) -> Response:
    """One event, without its body: that holds data of customers."""
    with context.read_session() as session:
        found = get_event(session, provider, event_id)
    return pages.render_page("admin/payments/event.html", event=found)
