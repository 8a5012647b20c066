"""The catalogue's tables."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CHAR, BigInteger, DateTime, FetchedValue, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core.db import Model


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
