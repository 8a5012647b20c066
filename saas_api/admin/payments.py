"""Payments and provider events of every organization, the quarantined ones first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields, validate

from saas_api.accounts.models import AuditEvent, Organization
from saas_api.admin import context, lists
from saas_api.admin.context import ReasonForm
from saas_api.admin.lists import Columns, ListQuery
from saas_api.billing.models import Invoice
from saas_api.core import formatting, ids
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.core.fields import Text
from saas_api.core.money import CURRENCY_EXPONENTS
from saas_api.core.web import pages
from saas_api.payments.models import Payment, PaymentStatus, ProviderEvent, ProviderEventStatus, Refund
from saas_api.payments.schemas import PaymentOut

bp = Blueprint("payments", __name__, url_prefix="/admin")

MAX_ROWS = 50
PROVIDERS = ("stripe", "paystack", "mock", "offline")


class PaymentListQuery(ListQuery):
    """Filters of payments."""

    status = fields.String(load_default=None, validate=validate.OneOf(list(PaymentStatus)))
    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


class ProviderEventListQuery(ListQuery):
    """Filters of provider events."""

    status = fields.String(load_default=None, validate=validate.OneOf(list(ProviderEventStatus)))
    provider = fields.String(load_default=None, validate=validate.OneOf(PROVIDERS))


class PaidBackForm(ReasonForm):
    """The bank reference of money that was paid back by hand."""

    reference = Text(maximum=100, required=True)


@dataclass(frozen=True)
class PaymentDetail:
    """A payment, and the answer of its provider that quarantined it.

    reported_minor, reported_currency: None when the provider reported no amount, or the payment was never quarantined
    quarantined_at: None when the payment was never quarantined
    """

    payment: Payment
    organization_name: str
    invoice_number: str | None
    reported_minor: int | None
    reported_currency: str | None
    quarantined_at: datetime | None

    @property
    def difference_minor(self) -> int | None:
        """The reported amount less the requested one, in minor units; None where the currencies differ."""
        if self.reported_minor is None or self.reported_currency != self.payment.currency:
            return None
        return self.reported_minor - self.payment.amount_minor

    @property
    def reported_text(self) -> str:
        """The reported amount for a page."""
        if self.reported_minor is None or self.reported_currency is None:
            return "No amount"
        if self.reported_currency not in CURRENCY_EXPONENTS:
            return f"{self.reported_minor} {self.reported_currency} in minor units"
        return formatting.format_money(self.reported_minor, self.reported_currency)

    @property
    def difference_text(self) -> str:
        """The difference for a page."""
        minor, currency = self.difference_minor, self.payment.currency
        if minor is None:
            return "Different currency" if self.reported_currency else "Unknown"
        direction = "more" if minor > 0 else "less"
        return f"{formatting.format_money(abs(minor), currency)} {direction}" if minor else "None"


_payment = attrgetter("payment")
PAYMENT_COLUMNS: Columns = {
    **lists.resource_columns(PaymentOut(), "payment_id", read=_payment),
    "organization_id": lambda detail: ids.format_id("org", detail.payment.organization_id),
    "organization": lambda detail: detail.organization_name,
    **lists.resource_columns(PaymentOut(), "invoice_id", "provider", read=_payment),
    "reference": lambda detail: detail.payment.provider_reference,
    **lists.resource_columns(
        PaymentOut(), "status", "failure_code", "amount", "captured", "currency", "created_at", read=_payment
    ),
}
EVENT_COLUMNS: Columns = {
    "provider": lambda event: event.provider,
    "event_id": lambda event: event.event_id,
    "type": lambda event: event.event_type,
    "reference": lambda event: event.reference,
    "status": lambda event: event.status,
    "attempts": lambda event: event.attempts,
    "error_code": lambda event: event.error_code,
    "received_at": lambda event: lists.csv_time(event.received_at),
    "finished_at": lambda event: lists.csv_time(event.finished_at),
}


def list_payments(session: SystemSession, query: dict[str, Any]) -> Page:
    """A page of PaymentDetail, newest first.

    query: as of PaymentListQuery
    raises: ValidationFailed
    """
    statement = _select_details()
    if query["status"]:
        statement = statement.where(Payment.status == query["status"])
    if query["provider"]:
        statement = statement.where(Payment.provider == query["provider"])
    keys = (Payment.created_at.desc(), Payment.id.desc())
    return lists.paginate_or_export(session, statement, *keys, query=query, convert=_to_detail)


def list_quarantined(session: SystemSession) -> list[PaymentDetail]:
    """Quarantined payments, newest first; at most MAX_ROWS."""
    statement = _select_details().where(Payment.status == PaymentStatus.QUARANTINED)
    newest_first = statement.order_by(Payment.created_at.desc(), Payment.id.desc())
    return [_to_detail(row) for row in session.execute(newest_first.limit(MAX_ROWS))]


def get_payment(session: SystemSession, payment_id: UUID) -> PaymentDetail:
    """A payment of any organization.

    raises: NotFound
    """
    row = session.execute(_select_details().where(Payment.id == payment_id)).first()
    if row is None:
        raise NotFound
    return _to_detail(row)


def list_refunds(session: SystemSession, payment: Payment) -> Sequence[Refund]:
    """Refunds of a payment, oldest first."""
    is_of_payment = (Refund.organization_id == payment.organization_id, Refund.payment_id == payment.id)
    return session.scalars(sa.select(Refund).where(*is_of_payment).order_by(Refund.created_at, Refund.id)).all()


def list_payment_events(session: SystemSession, payment: Payment) -> Sequence[ProviderEvent]:
    """Events of the provider that name a payment, newest first; at most MAX_ROWS."""
    if payment.provider_reference is None:
        return []
    is_of_payment = (ProviderEvent.provider == payment.provider, ProviderEvent.reference == payment.provider_reference)
    return session.scalars(
        sa.select(ProviderEvent).where(*is_of_payment).order_by(ProviderEvent.received_at.desc()).limit(MAX_ROWS)
    ).all()


def list_events(session: SystemSession, query: dict[str, Any]) -> Page:
    """A page of provider events without their bodies, newest first.

    query: as of ProviderEventListQuery
    raises: ValidationFailed
    """
    statement = sa.select(ProviderEvent).options(sa.orm.defer(ProviderEvent.body))
    if query["status"]:
        statement = statement.where(ProviderEvent.status == query["status"])
    if query["provider"]:
        statement = statement.where(ProviderEvent.provider == query["provider"])
    keys = (ProviderEvent.received_at.desc(), ProviderEvent.provider.desc(), ProviderEvent.event_id.desc())
    return lists.paginate_or_export(session, statement, *keys, query=query)


def get_event(session: SystemSession, provider: str, event_id: str) -> ProviderEvent:
    """An event of a provider.

    raises: NotFound
    """
    event = session.get(ProviderEvent, (provider, event_id))
    if event is None:
        raise NotFound
    return event


def count_payments(session: SystemSession, query: dict[str, Any]) -> dict[str, int]:
    """Number of payments by status of a provider or of all, as of `lists.count_each`."""
    statement = sa.select(Payment.id)
    if query["provider"]:
        statement = statement.where(Payment.provider == query["provider"])
    return lists.count_each(session, statement, {status: Payment.status == status for status in PaymentStatus})


def _select_details() -> sa.Select[Any]:
    """Payments with the latest audit event of their quarantine, the only record of the reported amount."""
    quarantine = (
        sa.select(AuditEvent.data, AuditEvent.at)
        .where(
            AuditEvent.organization_id == Payment.organization_id,
            AuditEvent.action == "payment.quarantined",
            AuditEvent.target_id == sa.cast(Payment.id, sa.Text),
        )
        .order_by(AuditEvent.id.desc())
        .limit(1)
        .lateral("quarantine")
    )
    return (
        sa.select(Payment, Organization.name, Invoice.number, quarantine.c.data, quarantine.c.at)
        .join(Organization, Organization.id == Payment.organization_id)
        .join(Invoice, sa.and_(Invoice.organization_id == Payment.organization_id, Invoice.id == Payment.invoice_id))
        .outerjoin(quarantine, sa.true())
    )


def _to_detail(row: Any) -> PaymentDetail:
    payment, organization_name, invoice_number, data, at = row
    data = data or {}
    reported = data.get("told_minor"), data.get("told_currency") or None
    return PaymentDetail(payment, organization_name, invoice_number, *reported, at)


@bp.get("/payments")
@require_operator("support")
def index() -> Response:
    """List payments, and above them the quarantined ones with the difference."""
    query = lists.parse_query(PaymentListQuery())
    with context.read_session() as session:
        page, quarantined = list_payments(session, query), list_quarantined(session)
        counts = count_payments(session, query)
    if query["format"] == "csv":
        return lists.csv_export("payments", PAYMENT_COLUMNS, page)
    choices: dict[str, Any] = {"counts": counts, "providers": PROVIDERS}
    return pages.render_page("admin/payments/index.html", page=page, quarantined=quarantined, **choices)


@bp.get('/payments/<id("pay"):payment_id>')
@require_operator("support")
def show(payment_id: UUID) -> Response:
    """Show a payment with its provider events and refunds."""
    with context.read_session() as session:
        detail = get_payment(session, payment_id)
        events, refunds = list_payment_events(session, detail.payment), list_refunds(session, detail.payment)
    return pages.render_page("admin/payments/show.html", detail=detail, events=events, refunds=refunds)


@bp.get("/payments/events")
@require_operator("support")
def events_index() -> Response:
    """List provider events."""
    query = lists.parse_query(ProviderEventListQuery())
    with context.read_session() as session:
        page = list_events(session, query)
    if query["format"] == "csv":
        return lists.csv_export("payment-events", EVENT_COLUMNS, page)
    choices: dict[str, Any] = {"statuses": list(ProviderEventStatus), "providers": PROVIDERS}
    return pages.render_page("admin/payments/events.html", page=page, **choices)


@bp.get("/payments/events/<provider>/<path:event_id>")
@require_operator("support")
def show_event(provider: str, event_id: str) -> Response:
    """Show a provider event without its body, which holds data of customers."""
    with context.read_session() as session:
        event = get_event(session, provider, event_id)
    return pages.render_page("admin/payments/event.html", event=event)
