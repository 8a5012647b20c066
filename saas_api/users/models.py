"""Tables of this room; keys, checks, policies and triggers are in migrations/."""

import uuid
from datetime import datetime

from sqlalchemy import DateTime, FetchedValue, Text
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core.db import Model
from saas_api.core.ids import new_id


class User(Model):
    """A person; the password hash is loaded only where it is asked for."""

    __tablename__ = "users"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str] = mapped_column(Text)
    full_name: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    password_hash: Mapped[str] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    email_verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tokens_valid_after: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())


class Operator(Model):
    """Somebody who runs the platform; no tenant's role gives that."""

    __tablename__ = "operators"

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=FetchedValue())
