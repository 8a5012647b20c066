"""Tables of meters, the usage ledger, its rollups and their watermark, the counts of requests and their log."""

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, FetchedValue, Integer, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText
from saas_api.usage.meter_file import Aggregation


class Meter(Model):
    """What usage events count, with its unit.

    service: name of the service that reports it; None for any
    value_property: property of an event that holds its quantity; None for the event's `quantity`
    unique_property: property whose distinct values are counted
    dimensions: properties by which prices and reports may group
    reverse_on_failure: a call that fails after it was accepted costs nothing
    follows_rate_setting: BILLING_RATE_PER_REQUEST is its price on the plans that follow the setting; of one meter
    """

    __tablename__ = "meters"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    unit: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    service: Mapped[str | None] = mapped_column(Text)
    aggregation: Mapped[Aggregation] = mapped_column(EnumText(Aggregation), server_default=FetchedValue())
    value_property: Mapped[str | None] = mapped_column(Text)
    unique_property: Mapped[str | None] = mapped_column(Text)
    dimensions: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=FetchedValue())
    reverse_on_failure: Mapped[bool] = mapped_column(server_default=FetchedValue())
    follows_rate_setting: Mapped[bool] = mapped_column(server_default=FetchedValue())
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class UsageEvent(Model):
    """One metered call in the append-only ledger, the only source of bills.

    month: of the billing period that pays, as `BillingPeriod.month`; the ledger has a partition for each
    """

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
    endpoint: Mapped[str | None] = mapped_column(Text)
    unique_value: Mapped[str | None] = mapped_column(Text)
    billing_period_id: Mapped[uuid.UUID]
    late_for_period_id: Mapped[uuid.UUID | None]
    reversal_of: Mapped[uuid.UUID | None]
    month: Mapped[date]


class UsageEventKey(Model):
    """What was recorded once, for ever: it stays when the partition of its event is archived.

    month: of the event
    """

    __tablename__ = "usage_event_keys"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(Text, primary_key=True)
    event_id: Mapped[uuid.UUID]
    month: Mapped[date]
    quantity: Mapped[Decimal] = mapped_column(Numeric(20, 6))


class TestUsageEvent(Model):
    """One metered call of a test key; it is shown and never billed."""

    __tablename__ = "test_usage_events"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(Text)
    meter_code: Mapped[str] = mapped_column(Text)
    quantity: Mapped[Decimal] = mapped_column(Numeric(20, 6))
    occurred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    api_key_id: Mapped[uuid.UUID | None]
    endpoint: Mapped[str | None] = mapped_column(Text)
    properties: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())


class UsageRollup(Model):
    """Sums of the ledger by local hour, for dashboards and limits; bills never use them.

    late_for_period_id: the closed period in which the usage happened; the nil id for usage of its own period
    bucket_at: start of the hour, or of the plan version or period that begins in it
    event_count: without reversals
    first_at, last_at: times of its first and last event
    """

    __tablename__ = "usage_rollups"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    billing_period_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    late_for_period_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    bucket_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    meter_code: Mapped[str] = mapped_column(Text, primary_key=True)
    source: Mapped[str] = mapped_column(Text, primary_key=True)
    api_key_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    dimensions: Mapped[dict[str, str]] = mapped_column(JSONB, primary_key=True, server_default=FetchedValue())
    quantity: Mapped[Decimal] = mapped_column(Numeric(24, 6))
    event_count: Mapped[int] = mapped_column(BigInteger)
    reversal_count: Mapped[int] = mapped_column(BigInteger)
    first_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    last_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class UsageEventAhead(Model):
    """An event below the watermark that no rollup contains yet, because its time is not over."""

    __tablename__ = "usage_events_ahead"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    event_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    month: Mapped[date]
    occurred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class RollupWatermark(Model):
    """Transaction id up to which the ledger is rolled up; the table has one row."""

    __tablename__ = "usage_watermark"

    only_row: Mapped[bool] = mapped_column(primary_key=True, server_default=FetchedValue())
    through_xid: Mapped[int] = mapped_column(BigInteger)
    floor_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    system_identifier: Mapped[int] = mapped_column(BigInteger)
    rolled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class RequestCount(Model):
    """Calls under an API key by minute, later by local hour; nothing is billed from it.

    is_hour: of a local hour, into which the minutes of more than a day ago are summed
    latency: calls by bucket of `request_counts.latency_bucket`; shorter where the last ones are empty, and without the
        calls whose latency is not known
    """

    __tablename__ = "request_counts"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    bucket_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    api_key_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(Text, primary_key=True)
    method: Mapped[str] = mapped_column(Text, primary_key=True)
    mode: Mapped[str] = mapped_column(Text, primary_key=True)
    status: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    is_hour: Mapped[bool] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    latency: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=FetchedValue())


class LoggedRequest(Model):
    """One request of the log: every error and a sample of the others, for 30 days.

    request_id: as the client saw it; one that the client has chosen may repeat
    path: without its query; of a call of a service its route
    user_id: of a request with an access token; api_key_id is None then
    latency_ms: None for a call of a service, which the service answers
    message_id: of the message that the request was about
    """

    __tablename__ = "request_log"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(Text)
    mode: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    route: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    status: Mapped[int] = mapped_column(SmallInteger)
    error_code: Mapped[str | None] = mapped_column(Text)
    error_message: Mapped[str | None] = mapped_column(Text)
    api_key_id: Mapped[uuid.UUID | None]
    user_id: Mapped[uuid.UUID | None]
    ip: Mapped[str | None] = mapped_column(Text)
    latency_ms: Mapped[int | None]
    message_id: Mapped[uuid.UUID | None]
