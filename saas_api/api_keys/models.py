"""ApiKey, ApiKeySecret."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import CHAR, DateTime, FetchedValue, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, INET
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model


class ApiKey(Model):
    """The stable identity of an API key: limits, usage and audit hang here."""

    __tablename__ = "api_keys"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    name: Mapped[str] = mapped_column(Text)
    mode: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=FetchedValue())
    ip_allow: Mapped[list[str] | None] = mapped_column(ARRAY(CIDR))
    rate_limit_per_minute: Mapped[int | None]
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_by: Mapped[uuid.UUID | None]
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class ApiKeySecret(Model):
    """One secret of a key; at most two live at once."""

    __tablename__ = "api_key_secrets"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    key_id: Mapped[uuid.UUID]
    slot: Mapped[int] = mapped_column(SmallInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    pepper_version: Mapped[int] = mapped_column(SmallInteger)
    hint: Mapped[str] = mapped_column(Text)
    last_four: Mapped[str] = mapped_column(CHAR(4))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_ip: Mapped[str | None] = mapped_column(INET)
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


@dataclass(frozen=True)
class KeyView:
    """A key as its organization sees it."""

    id: UUID
    name: str
    mode: str
    scopes: Sequence[str]
    allowed_ips: Sequence[str]
    rate_limit_per_minute: int | None
    hint: str
    last_four: str
    is_active: bool
    status: str
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime

    @property
    def masked(self) -> str:
        """Enough of the key to recognise it by."""
        return f"{self.hint}...{self.last_four}"
