"""The message model and its statuses."""

import uuid
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import cast

from sqlalchemy import CHAR, DateTime, FetchedValue, Numeric, SmallInteger, Table, Text
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.access import KeyMode
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText
from saas_api.messages.content import Channel


class MessageStatus(StrEnum):
    """A message moves down this list; `sent` is final for a channel without receipts."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELED = "canceled"


class Message(Model):
    """A message, and a row of the outbox of `core.jobs.outbox`: next_at is when it is due or when its lease ends."""

    __tablename__ = "messages"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    api_key_id: Mapped[uuid.UUID | None]
    mode: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    channel: Mapped[Channel] = mapped_column(EnumText(Channel))
    recipient: Mapped[str] = mapped_column(Text)
    subject: Mapped[str | None] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    segments: Mapped[int] = mapped_column(SmallInteger, server_default=FetchedValue())
    cost: Mapped[Decimal | None] = mapped_column(Numeric(20, 10))
    currency: Mapped[str] = mapped_column(CHAR(3), server_default=FetchedValue())
    status: Mapped[MessageStatus] = mapped_column(EnumText(MessageStatus), server_default=FetchedValue())
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

    @property
    def delivered_at(self) -> datetime | None:
        """When the recipient got it; None for a message that ended otherwise or is still open."""
        return self.finished_at if self.status == MessageStatus.DELIVERED else None

    @property
    def is_refunded(self) -> bool:
        """Whether its usage was reversed because it failed or was canceled; a test message has none."""
        has_ended_undelivered = self.status in (MessageStatus.FAILED, MessageStatus.CANCELED)
        return has_ended_undelivered and self.mode == KeyMode.LIVE and not self.cost


PAST_MESSAGES = cast("Table", Message.__table__).to_metadata(Model.metadata, name="past_messages")
"""Messages of past months, with the columns of Message. Lists read both through `past_messages.AnyMessage`."""
