"""Tables of the usage ledger, its rollups and watermark, and the counts of refused requests."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, FetchedValue, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model


class UsageEvent(Model):
    """One metered call in the append-only ledger, the only source of bills."""

    __tablename__ = "usage_events"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    source: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(Text)
    meter_code: Mapped[str] = mapped_column(Text)
    quantity: Mapped[Decimal] = mapped_column(Numeric(20, 6))
    occurred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    recorded_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    recorded_xid: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    api_key_id: Mapped[uuid.UUID | None]
    message_id: Mapped[uuid.UUID | None]
    properties: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    billing_period_id: Mapped[uuid.UUID]
    late_for_period_id: Mapped[uuid.UUID | None]
    reversal_of: Mapped[uuid.UUID | None]


class UsageRollup(Model):
    """Sums of the ledger by local hour, for dashboards and limits; bills never use them."""

    __tablename__ = "usage_rollups"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    billing_period_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    bucket_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    meter_code: Mapped[str] = mapped_column(Text, primary_key=True)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    api_key_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    is_late: Mapped[bool] = mapped_column(primary_key=True)
    quantity: Mapped[Decimal] = mapped_column(Numeric(24, 6))
    event_count: Mapped[int] = mapped_column(BigInteger)


class RollupWatermark(Model):
    """Transaction id up to which the ledger is rolled up; the table has one row."""

    __tablename__ = "usage_watermark"

    only_row: Mapped[bool] = mapped_column(primary_key=True, server_default=FetchedValue())
    through_xid: Mapped[int] = mapped_column(BigInteger)
    floor_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    system_identifier: Mapped[int] = mapped_column(BigInteger)
    rolled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class RefusedRequestCount(Model):
    """Refused calls of an API key by local hour; nothing is billed from it."""

    __tablename__ = "request_counts"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    bucket_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    api_key_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(Text, primary_key=True)
    method: Mapped[str] = mapped_column(Text, primary_key=True)
    mode: Mapped[str] = mapped_column(Text, primary_key=True)
    outcome: Mapped[str] = mapped_column(Text, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
