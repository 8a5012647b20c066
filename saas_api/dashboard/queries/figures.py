"""Reads of the dashboard: keys of an organization, used or not; figures of usage come from billing's report."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True)
class Key:
    """An API key as the dashboard shows it.

    masked: prefix and last four characters of its newest secret
    """

    id: UUID
    name: str
    masked: str
    mode: str
    is_active: bool
    created_at: datetime


def keys(session: Session, organization_id: UUID, at: datetime) -> list[Key]:
    """All keys, newest first, the revoked included."""
    rows = session.execute(
        text("""SELECT k.id, k.name, coalesce(s.hint || '...' || s.last_four, ''), k.mode,
            k.revoked_at IS NULL AND coalesce(s.is_live, false), k.created_at
          FROM api_keys k LEFT JOIN LATERAL (SELECT hint, last_four,
              revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :at) AS is_live FROM api_key_secrets
            WHERE organization_id = k.organization_id AND key_id = k.id ORDER BY 3 DESC, created_at DESC LIMIT 1) s
            ON true
          WHERE k.organization_id = :organization_id ORDER BY k.created_at DESC, k.id DESC"""),
        {"organization_id": organization_id, "at": at},
    )
    return [Key(*row) for row in rows]


def plan(session: Session, organization_id: UUID, at: datetime) -> str:
    """Code of the plan in force."""
    return str(
        session.scalar(
            text("""SELECT v.plan_code FROM subscription_segments s JOIN plan_versions v ON v.id = s.plan_version_id
              WHERE s.organization_id = :organization_id AND s.starts_at <= :at
                AND (s.ends_at IS NULL OR s.ends_at > :at)"""),
            {"organization_id": organization_id, "at": at},
        )
    )
