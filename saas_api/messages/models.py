"""Message; MessageStatus, Channel."""

import uuid
from datetime import datetime
from decimal import Decimal

from sqlalchemy import DateTime, FetchedValue, Numeric, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model


class Message(Model):
    """A message, which is its own place in the queue: next_at is schedule and lease expiry."""

    __tablename__ = "messages"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    api_key_id: Mapped[uuid.UUID | None]
    mode: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    channel: Mapped[str] = mapped_column(Text)
    recipient: Mapped[str] = mapped_column(Text)
    subject: Mapped[str | None] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    segments: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    cost: Mapped[Decimal | None] = mapped_column(Numeric(20, 10))
    status: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    interruptions: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    next_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lease_token: Mapped[uuid.UUID | None]
    error_code: Mapped[str | None] = mapped_column(Text)
    provider_reference: Mapped[str | None] = mapped_column(Text)
    accepted_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
