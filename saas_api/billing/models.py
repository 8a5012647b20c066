"""All billing tables; InvoiceStatus, PriceModel, GrantKind, AlertSubject, BillingStanding."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CHAR, BigInteger, DateTime, FetchedValue, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model


class BillingProfile(Model):
    """To whom and how an organization is billed."""

    __tablename__ = "billing_profiles"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(CHAR(3), server_default=FetchedValue())
    bill_to: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    tax_id: Mapped[str | None] = mapped_column(Text)
    net_terms_days: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    collection: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    spend_cap_minor: Mapped[int | None] = mapped_column(BigInteger)
    spend_cap_is_default: Mapped[bool] = mapped_column(server_default=FetchedValue())
    spend_cap_action: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    review_drafts: Mapped[bool] = mapped_column(server_default=FetchedValue())
    parked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    parked_reason: Mapped[str | None] = mapped_column(Text)


class Subscription(Model):
    """An organization's one subscription; plans change by segment."""

    __tablename__ = "subscriptions"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    state: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    standing: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    anchor_day: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class SubscriptionSegment(Model):
    """Which plan applies from when to when."""

    __tablename__ = "subscription_segments"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    subscription_id: Mapped[uuid.UUID]
    seq: Mapped[int]
    previous_seq: Mapped[int | None] = mapped_column(FetchedValue())
    plan_version_id: Mapped[str] = mapped_column(Text)
    starts_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ends_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class BillingPeriod(Model):
    """A period that is closed and invoiced exactly once."""

    __tablename__ = "billing_periods"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    subscription_id: Mapped[uuid.UUID]
    seq: Mapped[int]
    previous_seq: Mapped[int | None] = mapped_column(FetchedValue())
    starts_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ends_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    nominal_seconds: Mapped[int]
    is_cut: Mapped[bool] = mapped_column(server_default=FetchedValue())
    timezone: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class AlertRule(Model):
    """At what use or spend an organization wants to be told."""

    __tablename__ = "alert_rules"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    subject: Mapped[str] = mapped_column(Text)
    meter_code: Mapped[str | None] = mapped_column(Text)
    threshold: Mapped[Decimal] = mapped_column(Numeric(20, 6))
    enabled: Mapped[bool] = mapped_column(server_default=FetchedValue())


class AlertFiring(Model):
    """An alert that was raised; once a rule and period."""

    __tablename__ = "alert_firings"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    rule_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    billing_period_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    observed: Mapped[Decimal] = mapped_column(Numeric(24, 6))
    fired_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Meter(Model):
    """What is counted, and its unit."""

    __tablename__ = "meters"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    unit: Mapped[str] = mapped_column(Text)
    aggregation: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    reverse_on_failure: Mapped[bool] = mapped_column(server_default=FetchedValue())
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Plan(Model):
    """A plan of the catalogue."""

    __tablename__ = "plans"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(SmallInteger)
    is_public: Mapped[bool] = mapped_column(server_default=FetchedValue())
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class PlanVersion(Model):
    """What a plan costs from one publication to the next; frozen once published."""

    __tablename__ = "plan_versions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    plan_code: Mapped[str] = mapped_column(Text)
    version: Mapped[int]
    state: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    currency: Mapped[str] = mapped_column(CHAR(3))
    base_amount_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    min_spend_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Price(Model):
    """What a meter costs on a plan version."""

    __tablename__ = "prices"

    plan_version_id: Mapped[str] = mapped_column(Text, primary_key=True)
    meter_code: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text)
    included_quantity: Mapped[Decimal] = mapped_column(Numeric(20, 6), server_default=FetchedValue())
    unit_price: Mapped[Decimal | None] = mapped_column(Numeric(20, 10))
    package_size: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    package_amount_minor: Mapped[int | None] = mapped_column(BigInteger)
    max_amount_minor: Mapped[int | None] = mapped_column(BigInteger)


class PriceTier(Model):
    """One step of a graduated or volume price."""

    __tablename__ = "price_tiers"

    plan_version_id: Mapped[str] = mapped_column(Text, primary_key=True)
    meter_code: Mapped[str] = mapped_column(Text, primary_key=True)
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    up_to: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    unit_price: Mapped[Decimal] = mapped_column(Numeric(20, 10))
    flat_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())


class Entitlement(Model):
    """What a plan version allows besides what it charges."""

    __tablename__ = "entitlements"

    plan_version_id: Mapped[str] = mapped_column(Text, primary_key=True)
    feature: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    value: Mapped[dict[str, Any]] = mapped_column(JSONB)
    meter_code: Mapped[str | None] = mapped_column(Text)
    limit_quantity: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))


class NumberSeries(Model):
    """The last number given in a series without gaps."""

    __tablename__ = "number_series"

    series: Mapped[str] = mapped_column(Text, primary_key=True)
    last_value: Mapped[int] = mapped_column(BigInteger)


class Invoice(Model):
    """An invoice; frozen by trigger once it left draft."""

    __tablename__ = "invoices"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
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
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
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
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
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


class CreditGrant(Model):
    """Money the platform owes, by grant."""

    __tablename__ = "credit_grants"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    source_key: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    remaining_minor: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    effective_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class CreditEntry(Model):
    """A movement of a grant."""

    __tablename__ = "credit_entries"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    grant_id: Mapped[uuid.UUID]
    invoice_id: Mapped[uuid.UUID | None]
    delta_minor: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
