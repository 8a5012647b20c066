"""Reads of API keys as their organization sees them; a key is shown with its newest secret's hint."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.api_keys.models import ApiKey, ApiKeySecret
from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor


@dataclass(frozen=True)
class Described:
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


def find_key(session: Session, organization_id: UUID, key_id: UUID) -> Described | None:
    """A key, revoked ones included."""
    statement = _with_secret().where(ApiKey.organization_id == organization_id, ApiKey.id == key_id)
    row = session.execute(statement).first()
    return describe(row[0], row[1]) if row else None


def organization_of(session: Session, key_id: UUID) -> UUID | None:
    """Whose key it is; as the system."""
    return session.scalar(sa.select(ApiKey.organization_id).where(ApiKey.id == key_id))


def list_keys(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of keys, newest first.

    query: `mode`, `status` ("active", "expired", "revoked"), `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = _with_secret().where(ApiKey.organization_id == organization_id)
    if query["mode"]:
        statement = statement.where(ApiKey.mode == query["mode"])
    if query["status"]:
        statement = statement.where(_has_status(query["status"]))
    if query["cursor"]:
        statement = statement.where(ApiKey.id < _position(query["cursor"]))
    rows = session.execute(statement.order_by(ApiKey.id.desc()).limit(query["limit"] + 1)).all()
    kept = [describe(row[0], row[1]) for row in rows[: query["limit"]]]
    following = encode_cursor(kept[-1].id.hex) if len(rows) > query["limit"] else None
    return Page(kept, following, query["limit"])


def describe(key: ApiKey, secret: ApiKeySecret) -> Described:
    """A key with the secret that stands for it."""
    is_over = secret.expires_at is not None and secret.expires_at <= clock.now()
    status = "revoked" if key.revoked_at else "expired" if is_over else "active"
    return Described(
        id=key.id,
        name=key.name,
        mode=key.mode,
        scopes=key.scopes,
        allowed_ips=key.ip_allow or [],
        rate_limit_per_minute=key.rate_limit_per_minute,
        hint=secret.hint,
        last_four=secret.last_four,
        is_active=status == "active",
        status=status,
        last_used_at=key.last_used_at,
        expires_at=secret.expires_at,
        revoked_at=key.revoked_at,
        created_at=key.created_at,
    )


def same_key() -> sa.ColumnElement[bool]:
    """The condition that joins secrets to their key."""
    return sa.and_(ApiKey.organization_id == ApiKeySecret.organization_id, ApiKey.id == ApiKeySecret.key_id)


def _with_secret() -> sa.Select[ApiKey, ApiKeySecret]:
    newest = (
        sa.select(ApiKeySecret.id)
        .where(same_key())
        .order_by(ApiKeySecret.created_at.desc())
        .limit(1)
        .correlate(ApiKey)
        .scalar_subquery()
    )
    return sa.select(ApiKey, ApiKeySecret).join(ApiKeySecret, sa.and_(same_key(), ApiKeySecret.id == newest))


def _has_status(status: str) -> sa.ColumnElement[bool]:
    is_over = sa.and_(ApiKeySecret.expires_at.is_not(None), ApiKeySecret.expires_at <= clock.now())
    conditions: dict[str, sa.ColumnElement[bool]] = {
        "revoked": ApiKey.revoked_at.is_not(None),
        "expired": sa.and_(ApiKey.revoked_at.is_(None), is_over),
        "active": sa.and_(ApiKey.revoked_at.is_(None), sa.not_(is_over)),
    }
    return conditions[status]


def _position(cursor: str) -> UUID:
    try:
        return UUID(hex=decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
