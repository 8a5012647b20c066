"""Tables of the wallet."""

import uuid
from datetime import datetime

from sqlalchemy import CHAR, BigInteger, DateTime, FetchedValue, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core.db import Model
from saas_api.core.ids import new_id


class CreditGrant(Model):
    """Money the platform owes, by grant."""

    __tablename__ = "credit_grants"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
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
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    grant_id: Mapped[uuid.UUID]
    invoice_id: Mapped[uuid.UUID | None]
    delta_minor: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
