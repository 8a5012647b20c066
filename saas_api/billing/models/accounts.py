"""Tables of an organization's account: profile, subscription, periods, alerts."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CHAR, BigInteger, DateTime, FetchedValue, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core.db import Model
from saas_api.core.ids import new_id


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
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    state: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    standing: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    anchor_day: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class SubscriptionSegment(Model):
    """Which plan applies from when to when."""

    __tablename__ = "subscription_segments"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
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
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
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
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
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
