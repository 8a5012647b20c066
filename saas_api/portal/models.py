"""Table of portal sessions."""

import uuid
from datetime import datetime

from sqlalchemy import DateTime, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from saas_api.core import ids
from saas_api.core.db.engine import Model


class PortalSession(Model):
    """A link to the portal, and the session of the browser that opened it first.

    service_token_id, operator_id: who made the link; one of them is None
    scopes: of `scopes.PERMISSIONS`
    return_url: where the portal leads back to
    link_digest, session_digest: of the tokens of the link and of the cookie
    opened_at, last_seen_at: None until the link is opened
    """

    __tablename__ = "portal_sessions"

    organization_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=ids.new_id)
    service_token_id: Mapped[uuid.UUID | None]
    operator_id: Mapped[uuid.UUID | None]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    return_url: Mapped[str | None] = mapped_column(Text)
    link_digest: Mapped[bytes] = mapped_column(LargeBinary)
    link_expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    session_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    opened_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
