"""API keys, their secrets, and the view of a key that its organization reads."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CHAR, DateTime, FetchedValue, LargeBinary, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY, CIDR, INET
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.access import KeyMode
from saas_api.core.db.engine import Model
from saas_api.core.db.types import EnumText


class KeyStatus(StrEnum):
    """Whether requests with a key are accepted, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ApiKey(Model):
    """The stable identity of an API key; limits, usage and the audit log refer to it."""

    __tablename__ = "api_keys"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    name: Mapped[str] = mapped_column(Text)
    mode: Mapped[KeyMode] = mapped_column(EnumText(KeyMode), server_default=FetchedValue())
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=FetchedValue())
    ip_allow: Mapped[list[str] | None] = mapped_column(ARRAY(CIDR))
    rate_limit_per_minute: Mapped[int | None]
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_by: Mapped[uuid.UUID | None]
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class ApiKeySecret(Model):
    """One secret of a key; at most two are active at once."""

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
    """A key with its newest secret, as its organization reads it.

    hint: prefix, mode and first four characters of the secret
    scopes: sorted; with full access those that there are now
    has_full_access: the key has every scope, also of services that are added later
    expires_at: when the newest secret expires
    created_by: None for a key of the platform
    is_orphaned: the user who created it has left, is disabled, or may no longer create keys
    """

    id: UUID
    name: str
    mode: KeyMode
    scopes: Sequence[str]
    allowed_ips: Sequence[str]
    rate_limit_per_minute: int | None
    hint: str
    last_four: str
    status: KeyStatus
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    created_by: UUID | None
    is_orphaned: bool
    has_full_access: bool

    @property
    def is_active(self) -> bool:
        """Whether requests with the key are accepted."""
        return self.status == KeyStatus.ACTIVE

    @property
    def masked(self) -> str:
        """Enough of the secret to recognize the key."""
        return f"{self.hint}...{self.last_four}"


@dataclass(frozen=True)
class CreatedKey(KeyView):
    """A key with its new secret, which is not stored."""

    secret: str = field(repr=False)


@dataclass(frozen=True)
class RotatedKey(CreatedKey):
    """A key with its new secret, and the expiry of the previous one."""

    old_expires_at: datetime
