"""Tables of billing, with enums of the values that their text columns allow."""

import uuid
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import CHAR, JSON, BigInteger, DateTime, FetchedValue, Numeric, SmallInteger, Text, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, column_property, mapped_column

from saas_api.billing.rating.bill import LineKind
from saas_api.billing.rating.charges import PriceModel
from saas_api.billing.rating.plan_file import EntitlementKind
from saas_api.billing.rating.thresholds import AlertSubject
from saas_api.core import ids
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText
from saas_api.usage.models import Meter


class SubscriptionStatus(StrEnum):
    """Subscriptions stay active; the schema reserves the end of one."""

    ACTIVE = "active"
    ENDED = "ended"


class BillingStanding(StrEnum):
    """What unpaid invoices have led to: restricted stops sending, suspended stops API keys."""

    GOOD = "good"
    RESTRICTED = "restricted"
    SUSPENDED = "suspended"


class PeriodStatus(StrEnum):
    """Open periods take usage; a closed one is complete and waits for its invoice."""

    OPEN = "open"
    CLOSED = "closed"
    INVOICED = "invoiced"


class PlanVersionStatus(StrEnum):
    """Prices of a version can change only while it is a draft; a retired one stays in force for its organizations."""

    DRAFT = "draft"
    PUBLISHED = "published"
    RETIRED = "retired"


class InvoiceKind(StrEnum):
    """The invoice of a billing period, or one that was made by hand."""

    CYCLE = "cycle"
    MANUAL = "manual"


class InvoiceStatus(StrEnum):
    """As in Stripe. Every status except draft is final: lines and totals no longer change."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    VOID = "void"
    UNCOLLECTIBLE = "uncollectible"


PAYABLE_STATUSES = (InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE)


class CreditNoteReason(StrEnum):
    """Why an invoice was lowered."""

    BILLING_ERROR = "billing_error"
    ORDER_CHANGE = "order_change"
    SERVICE_ISSUE = "service_issue"
    GOODWILL = "goodwill"
    DUPLICATE = "duplicate"
    CANCELLATION = "cancellation"


class GrantKind(StrEnum):
    """Where the money of a credit grant comes from; carry is the negative rest of an earlier invoice."""

    PROMOTIONAL = "promotional"
    PURCHASED = "purchased"
    CREDIT_NOTE = "credit_note"
    OVERPAYMENT = "overpayment"
    CARRY = "carry"


class CreditEntryReason(StrEnum):
    """Why the remainder of a credit grant changed; unapply returns what a void invoice used, payout is paid back."""

    APPLY = "apply"
    UNAPPLY = "unapply"
    EXPIRE = "expire"
    VOID = "void"
    PAYOUT = "payout"


CHARGE_AUTOMATICALLY, SEND_INVOICE = "charge_automatically", "send_invoice"
"""How invoices are collected: with the default payment method, or by the customer alone."""


class BillingProfile(Model):
    """Billing details and terms of an organization; drafts stay drafts while `on_hold_at` is set.

    collection: CHARGE_AUTOMATICALLY or SEND_INVOICE
    """

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
    on_hold_at: Mapped[datetime | None] = mapped_column("parked_at", DateTime(timezone=True))
    hold_reason: Mapped[str | None] = mapped_column("parked_reason", Text)


class Subscription(Model):
    """The one subscription of an organization; its plan over time is in the segments."""

    __tablename__ = "subscriptions"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    status: Mapped[SubscriptionStatus] = mapped_column(
        "state", EnumText(SubscriptionStatus), server_default=FetchedValue()
    )
    standing: Mapped[BillingStanding] = mapped_column(EnumText(BillingStanding), server_default=FetchedValue())
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    anchor_day: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class SubscriptionSegment(Model):
    """The plan version of a subscription between two instants; the newest segment has no end."""

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
    """A half-open range of time that is closed and invoiced exactly once.

    is_ended_early: it was closed before the end that it began with
    month: the first day of the month in whose partition the usage is that the period pays for; it never changes
    """

    __tablename__ = "billing_periods"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    subscription_id: Mapped[uuid.UUID]
    seq: Mapped[int]
    previous_seq: Mapped[int | None] = mapped_column(FetchedValue())
    starts_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ends_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    nominal_seconds: Mapped[int]
    is_ended_early: Mapped[bool] = mapped_column("is_cut", server_default=FetchedValue())
    timezone: Mapped[str] = mapped_column(Text)
    status: Mapped[PeriodStatus] = mapped_column("state", EnumText(PeriodStatus), server_default=FetchedValue())
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    month: Mapped[date] = mapped_column(server_default=FetchedValue())


class BillingPause(Model):
    """A time in which neither base nor minimum is charged; without an end while it lasts."""

    __tablename__ = "billing_pauses"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    ends_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class AlertRule(Model):
    """A usage or spend threshold at which an organization gets a notification."""

    __tablename__ = "alert_rules"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    subject: Mapped[AlertSubject] = mapped_column(EnumText(AlertSubject))
    meter_code: Mapped[str | None] = mapped_column(Text)
    threshold: Mapped[Decimal] = mapped_column(Numeric(20, 6))
    enabled: Mapped[bool] = mapped_column(server_default=FetchedValue())


class AlertFiring(Model):
    """A notification that was sent: at most one for each rule and period."""

    __tablename__ = "alert_firings"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    rule_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    billing_period_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    observed: Mapped[Decimal] = mapped_column(Numeric(24, 6))
    fired_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Plan(Model):
    """An offer; its prices are in its versions."""

    __tablename__ = "plans"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(SmallInteger)
    is_public: Mapped[bool] = mapped_column(server_default=FetchedValue())
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class PlanVersion(Model):
    """Prices and entitlements of a plan from one publication to the next; frozen once published."""

    __tablename__ = "plan_versions"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    plan_code: Mapped[str] = mapped_column(Text)
    version: Mapped[int]
    status: Mapped[PlanVersionStatus] = mapped_column(
        "state", EnumText(PlanVersionStatus), server_default=FetchedValue()
    )
    currency: Mapped[str] = mapped_column(CHAR(3))
    base_amount_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    min_spend_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Price(Model):
    """Price of a meter in a plan version, or of one value of a dimension of it; the price of all others has ''."""

    __tablename__ = "prices"

    plan_version_id: Mapped[str] = mapped_column(Text, primary_key=True)
    meter_code: Mapped[str] = mapped_column(Text, primary_key=True)
    dimension: Mapped[str | None] = mapped_column(Text)
    dimension_value: Mapped[str] = mapped_column(Text, primary_key=True, default="")
    model: Mapped[PriceModel] = mapped_column(EnumText(PriceModel))
    included_quantity: Mapped[Decimal] = mapped_column(Numeric(20, 6), server_default=FetchedValue())
    unit_price: Mapped[Decimal | None] = mapped_column(Numeric(20, 10))
    package_size: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    package_amount_minor: Mapped[int | None] = mapped_column(BigInteger)
    max_amount_minor: Mapped[int | None] = mapped_column(BigInteger)


class PriceTier(Model):
    """A tier of a graduated or volume price."""

    __tablename__ = "price_tiers"

    plan_version_id: Mapped[str] = mapped_column(Text, primary_key=True)
    meter_code: Mapped[str] = mapped_column(Text, primary_key=True)
    dimension_value: Mapped[str] = mapped_column(Text, primary_key=True, default="")
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    up_to: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    unit_price: Mapped[Decimal] = mapped_column(Numeric(20, 10))
    flat_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())


class Entitlement(Model):
    """What a plan version allows: features, configuration and quotas."""

    __tablename__ = "entitlements"

    plan_version_id: Mapped[str] = mapped_column(Text, primary_key=True)
    feature: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[EntitlementKind] = mapped_column(EnumText(EntitlementKind))
    value: Mapped[dict[str, Any]] = mapped_column(JSONB)
    meter_code: Mapped[str | None] = mapped_column(Text)
    limit_quantity: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))


class PlanDraft(Model):
    """A plan file that operators edit before it is published.

    id: the version that it follows, or the code of a new plan
    document: the file, which may still be invalid
    revision: rises with each save
    """

    __tablename__ = "plan_drafts"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    revision: Mapped[int]
    updated_by: Mapped[uuid.UUID]
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class NumberSeries(Model):
    """The last number of a series without gaps."""

    __tablename__ = "number_series"

    series: Mapped[str] = mapped_column(Text, primary_key=True)
    last_value: Mapped[int] = mapped_column(BigInteger)


class Invoice(Model):
    """An invoice; a trigger freezes it once it is no longer a draft.

    Total less credits, credit notes and payments is what is due. `reduced_minor` is the part of `credited_minor` that
    lowered what was due; the rest went to the wallet or back to the payer.
    """

    __tablename__ = "invoices"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    billing_period_id: Mapped[uuid.UUID | None]
    kind: Mapped[InvoiceKind] = mapped_column(EnumText(InvoiceKind))
    status: Mapped[InvoiceStatus] = mapped_column("state", EnumText(InvoiceStatus), server_default=FetchedValue())
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

    @property
    def is_payable(self) -> bool:
        """Whether a payment can still be applied; that includes an invoice that was written off."""
        return self.status in PAYABLE_STATUSES

    @property
    def amount_due_minor(self) -> int:
        """What is left to pay; the column `due_minor` does not know that nothing is due on a void invoice."""
        if self.status == InvoiceStatus.VOID:
            return 0
        return self.total_minor - self.credits_applied_minor - self.reduced_minor - self.paid_minor


class InvoiceLine(Model):
    """A line of an invoice; `calculation` holds every input of its amount, `unit` is that of its meter."""

    __tablename__ = "invoice_lines"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    invoice_id: Mapped[uuid.UUID]
    position: Mapped[int] = mapped_column(SmallInteger)
    source_key: Mapped[str] = mapped_column(Text)
    kind: Mapped[LineKind] = mapped_column(EnumText(LineKind))
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
    unit: Mapped[str | None] = column_property(select(Meter.unit).where(Meter.code == meter_code).scalar_subquery())

    @property
    def dimension_value(self) -> str:
        """Value of the dimension whose usage it charges; "" for all without a price of their own."""
        return str(self.calculation.get("dimension_value", ""))


class CreditNote(Model):
    """A reduction of a final invoice, divided between what was due, the wallet and a refund."""

    __tablename__ = "credit_notes"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    invoice_id: Mapped[uuid.UUID]
    series: Mapped[str] = mapped_column(Text)
    serial: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(CHAR(3))
    reason: Mapped[CreditNoteReason] = mapped_column(EnumText(CreditNoteReason))
    memo: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    total_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    to_due_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    to_wallet_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    to_refund_minor: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    issued_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class CreditNoteLine(Model):
    """The part of a credit note that reduces one invoice line."""

    __tablename__ = "credit_note_lines"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    credit_note_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    invoice_line_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    amount_minor: Mapped[int] = mapped_column(BigInteger)


class InvariantResult(Model):
    """Violations that one run of an invariant check found."""

    __tablename__ = "invariant_results"

    check_name: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    violations: Mapped[int]
    sample: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())


class CreditGrant(Model):
    """Wallet credit from one source."""

    __tablename__ = "credit_grants"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    source_key: Mapped[str] = mapped_column(Text)
    kind: Mapped[GrantKind] = mapped_column(EnumText(GrantKind))
    currency: Mapped[str] = mapped_column(CHAR(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    remaining_minor: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    effective_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class CreditEntry(Model):
    """A change of the remainder of a credit grant; below zero when credit was used.

    reference: of a payout: the bank's, or the id of the refund
    """

    __tablename__ = "credit_entries"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    grant_id: Mapped[uuid.UUID]
    invoice_id: Mapped[uuid.UUID | None]
    delta_minor: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[CreditEntryReason] = mapped_column(EnumText(CreditEntryReason))
    reference: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
