"""Payments and the events of their providers; of what is quarantined, by how much it differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.billing.models import Invoice
from saas_api.core.errors import NotFound
from saas_api.core.fields import Page
from saas_api.core.money import EXPONENTS, minor_to_text
from saas_api.organizations.models import AuditEvent, Organization
from saas_api.payments.models import Payment, ProviderEvent, Refund

SHOWN = 50


@dataclass(frozen=True)
class Apart:
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
    def told_text(self) -> str:
        """What was told, for people."""
        if self.told_minor is None or self.told_currency is None:
            return "no amount"
        if self.told_currency not in EXPONENTS:
            return f"{self.told_minor} {self.told_currency} in minor units"
        return f"{minor_to_text(self.told_minor, self.told_currency)} {self.told_currency}"

    @property
    def difference_text(self) -> str:
        """What was told against what was asked, for people."""
        minor, currency = self.difference_minor, self.payment.currency
        if minor is None:
            return "another currency" if self.told_currency else "not known"
        direction = "more" if minor > 0 else "less"
        return f"{minor_to_text(abs(minor), currency)} {currency} {direction}" if minor else "none"


def history(session: Session, query: dict[str, Any]) -> Page:
    """A page of payments as `Apart`, newest first.

    query: limit, cursor, format; status; provider
    raises: Invalid
    """
    wanted = _payments()
    if query["status"]:
        wanted = wanted.where(Payment.state == query["status"])
    if query["provider"]:
        wanted = wanted.where(Payment.provider == query["provider"])
    found = page_of(session, wanted, query, (Payment.created_at, Payment.id))
    return Page([_apart(row) for row in found.items], found.next_cursor, found.limit)


def quarantined(session: Session) -> list[Apart]:
    """Payments that stand apart, the newest first."""
    wanted = _payments().where(Payment.state == "quarantined").order_by(Payment.created_at.desc(), Payment.id.desc())
    return [_apart(row) for row in session.execute(wanted.limit(SHOWN))]


def open_one(session: Session, payment_id: UUID) -> Apart:
    """A payment of whatever organization.

    raises: NotFound
    """
    row = session.execute(_payments().where(Payment.id == payment_id)).first()
    if row is None:
        raise NotFound
    return _apart(row)


def refunds(session: Session, payment: Payment) -> Sequence[Refund]:
    """What of a payment goes back, the oldest first."""
    own = (Refund.organization_id == payment.organization_id, Refund.payment_id == payment.id)
    return session.scalars(sa.select(Refund).where(*own).order_by(Refund.created_at, Refund.id)).all()


def events_about(session: Session, payment: Payment) -> Sequence[ProviderEvent]:
    """Events of its provider that name a payment, the newest first."""
    if payment.provider_reference is None:
        return []
    own = (ProviderEvent.provider == payment.provider, ProviderEvent.reference == payment.provider_reference)
    return session.scalars(
        sa.select(ProviderEvent).where(*own).order_by(ProviderEvent.received_at.desc()).limit(SHOWN)
    ).all()


def events(session: Session, query: dict[str, Any]) -> Page:
    """A page of events of providers, newest first.

    query: limit, cursor, format; status; provider
    raises: Invalid
    """
    wanted = sa.select(ProviderEvent).options(sa.orm.defer(ProviderEvent.body))
    if query["status"]:
        wanted = wanted.where(ProviderEvent.state == query["status"])
    if query["provider"]:
        wanted = wanted.where(ProviderEvent.provider == query["provider"])
    order = (ProviderEvent.received_at, ProviderEvent.provider, ProviderEvent.event_id)
    found = page_of(session, wanted, query, order)
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


def _apart(row: Any) -> Apart:
    payment, name, number, said, at = row[:5]
    told = said or {}
    return Apart(payment, name, number, told.get("told_minor"), told.get("told_currency") or None, at)
