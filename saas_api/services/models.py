"""Tables of services, their tokens and routes, and statistics of their calls."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, FetchedValue, LargeBinary, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model


class Service(Model):
    """A program outside this application that serves metered calls.

    allowed_ips: networks that may use its tokens; empty allows all
    scopes: that its calls may require of an API key
    is_open: forward authentication admits what no route matches
    openapi: its own OpenAPI document, shown beside ours
    portal_origins: that may embed the customer portal and to which it leads back, such as "https://app.example.com"
    """

    __tablename__ = "services"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    name: Mapped[str] = mapped_column(Text)
    allowed_ips: Mapped[list[str]] = mapped_column(ARRAY(CIDR), server_default=FetchedValue())
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=FetchedValue())
    is_open: Mapped[bool] = mapped_column(server_default=FetchedValue())
    openapi: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    portal_origins: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=FetchedValue())
    last_seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ServiceToken(Model):
    """One secret of a service; at most two are active at once."""

    __tablename__ = "service_tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    service_id: Mapped[uuid.UUID]
    slot: Mapped[int] = mapped_column(SmallInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    pepper_version: Mapped[int] = mapped_column(SmallInteger)
    hint: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class ServiceRoute(Model):
    """A route of forward authentication; the first that matches a request counts.

    method: "*" for all
    pattern: path, in which {name} stands for one segment
    permission: scope that the API key needs; None for any key
    quantity, quantity_header: what a call adds to the meter, or the request header that says it; 1 without both
    """

    __tablename__ = "service_routes"

    service_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    method: Mapped[str] = mapped_column(Text)
    pattern: Mapped[str] = mapped_column(Text)
    permission: Mapped[str | None] = mapped_column(Text)
    meter_code: Mapped[str | None] = mapped_column(Text)
    quantity: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    quantity_header: Mapped[str | None] = mapped_column(Text)


class ServiceCallCount(Model):
    """Calls of a service by hour, operation and code, with their time in microseconds; nothing is billed from it.

    operation: "verify", "events", "holds", "organizations" or "gate"
    """

    __tablename__ = "service_calls"

    service_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    bucket_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    operation: Mapped[str] = mapped_column(Text, primary_key=True)
    code: Mapped[str] = mapped_column(Text, primary_key=True)
    calls: Mapped[int] = mapped_column(BigInteger)
    total_us: Mapped[int] = mapped_column(BigInteger)
    max_us: Mapped[int] = mapped_column(BigInteger)


class CatalogueGeneration(Model):
    """Rises with every change of services, tokens, routes and meters; the table has one row."""

    __tablename__ = "catalogue_generation"

    only_row: Mapped[bool] = mapped_column(primary_key=True, server_default=FetchedValue())
    generation: Mapped[int] = mapped_column(BigInteger)
