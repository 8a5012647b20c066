"""Tables of invoices, credit notes and their numbers, and what the nightly checks found."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CHAR, BigInteger, DateTime, FetchedValue, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core.db import Model
from saas_api.core.ids import new_id


class NumberSeries(Model):
    """The last number given in a series without gaps."""

    __tablename__ = "number_series"

    series: Mapped[str] = mapped_column(Text, primary_key=True)
    last_value: Mapped[int] = mapped_column(BigInteger)


class Invoice(Model):
    """An invoice; frozen by trigger once it left draft."""

    __tablename__ = "invoices"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    billing_period_id: Mapped[uuid.UUID | None]
    kind: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    series: Mapped[str | None] = mapped_column(Text)
    serial: Mapped[int | None] = mapped_column(BigInteger)
    number: Mapped[str | None] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    bill_to: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    seller: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    subtotal_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    discount_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    tax_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    total_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    credits_applied_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    reduced_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    paid_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    credited_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    due_minor: Mapped[int | None] = mapped_column(BigInteger, FetchedValue())
    finalized_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    paid_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    voided_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    replaces_id: Mapped[uuid.UUID | None]
    rule_version: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class InvoiceLine(Model):
    """A line that explains itself."""

    __tablename__ = "invoice_lines"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    invoice_id: Mapped[uuid.UUID]
    position: Mapped[int] = mapped_column(SmallInteger)
    source_key: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    plan_version_id: Mapped[str | None] = mapped_column(Text)
    meter_code: Mapped[str | None] = mapped_column(Text)
    late_for_period_id: Mapped[uuid.UUID | None]
    service_starts_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    service_ends_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    quantity: Mapped[Decimal] = mapped_column(Numeric(24, 6), server_default=FetchedValue())
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    discount_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    tax_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    calculation: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())


class CreditNote(Model):
    """What an invoice is lowered by, and where that goes."""

    __tablename__ = "credit_notes"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    invoice_id: Mapped[uuid.UUID]
    series: Mapped[str] = mapped_column(Text)
    serial: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    reason: Mapped[str] = mapped_column(Text)
    memo: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    total_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    to_due_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    to_wallet_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    to_refund_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    issued_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class CreditNoteLine(Model):
    """What a credit note takes off one line."""

    __tablename__ = "credit_note_lines"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    credit_note_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    invoice_line_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    amount_minor: Mapped[int] = mapped_column(BigInteger)


class InvariantResult(Model):
    """What one nightly check found."""

    __tablename__ = "invariant_results"

    check_name: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    violations: Mapped[int]
    sample: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
