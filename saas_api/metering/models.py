"""Table of holds."""

import uuid
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, FetchedValue, LargeBinary, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import clock, ids
from saas_api.core.access import KeyMode
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText


class HoldStatus(StrEnum):
    """State of a hold; only an open one counts against limits."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Hold(Model):
    """Usage that a service has reserved before its quantity is known.

    mode: of the key; a hold of a test key counts against no limit
    source, idempotency_key: of the usage event that settling records
    properties: such as the dimensions by which it is priced; those of the settlement are added to them
    ended_by: digest of the request that ended it, so that the same request again gets the same answer
    usage_event_id: of a settled hold; in `test_usage_events` for a test key
    settled_quantity: what was really used, in the meter's unit
    """

    __tablename__ = "holds"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    mode: Mapped[KeyMode] = mapped_column(EnumText(KeyMode), server_default=FetchedValue())
    source: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str] = mapped_column(Text)
    meter_code: Mapped[str] = mapped_column(Text)
    quantity: Mapped[Decimal] = mapped_column(Numeric(20, 6))
    properties: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    endpoint: Mapped[str | None] = mapped_column(Text)
    api_key_id: Mapped[uuid.UUID | None]
    status: Mapped[HoldStatus] = mapped_column(EnumText(HoldStatus), server_default=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_by: Mapped[bytes | None] = mapped_column(LargeBinary)
    usage_event_id: Mapped[uuid.UUID | None]
    settled_quantity: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))

    @property
    def current_status(self) -> HoldStatus:
        """The status by the clock: a hold whose time is over has expired, also before the sweep has ended it."""
        is_over = self.status == HoldStatus.OPEN and self.expires_at <= clock.now()
        return HoldStatus.EXPIRED if is_over else self.status
