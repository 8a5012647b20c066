"""What the first page shows at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

SHOWN = 5
LIVE_MINUTES = 60

_STEPS = text("""
SELECT EXISTS (SELECT FROM api_keys k WHERE k.organization_id = :org) AS has_key,
  (SELECT min(m.accepted_at) FROM messages m WHERE m.organization_id = :org) AS first_message_at,
  EXISTS (SELECT FROM webhook_endpoints w WHERE w.organization_id = :org AND w.deleted_at IS NULL) AS has_endpoint,
  (SELECT count(*) FROM memberships t WHERE t.organization_id = :org) > 1
    OR EXISTS (SELECT FROM invitations i WHERE i.organization_id = :org) AS has_invited,
  NOT coalesce((SELECT b.spend_cap_is_default FROM billing_profiles b WHERE b.organization_id = :org), true) AS has_cap,
  (SELECT t.onboarding_dismissed_at FROM memberships t WHERE t.organization_id = :org AND t.user_id = :user)
    IS NOT NULL AS is_dismissed
""")
_KEYS = text("""
SELECT k.id, k.name, k.mode, s.hint || '…' || s.last_four AS masked, k.last_used_at,
  k.revoked_at IS NOT NULL AS is_revoked, count(*) OVER () AS total,
  count(*) FILTER (WHERE k.revoked_at IS NULL) OVER () AS active
  FROM api_keys k LEFT JOIN LATERAL (SELECT hint, last_four FROM api_key_secrets
     WHERE organization_id = k.organization_id AND key_id = k.id ORDER BY created_at DESC LIMIT 1) s ON true
 WHERE k.organization_id = :org AND k.mode = :mode
 ORDER BY k.revoked_at IS NOT NULL, k.last_used_at DESC NULLS LAST, k.id DESC LIMIT :limit
""")
_FAILURES = text("""
SELECT id, accepted_at, recipient, channel, error_code FROM (
    SELECT id, accepted_at, recipient, channel, error_code, status, mode FROM messages
     WHERE organization_id = :org ORDER BY accepted_at DESC, id DESC LIMIT 500) latest
 WHERE mode = :mode AND status = 'failed' ORDER BY accepted_at DESC, id DESC LIMIT :limit
""")
_UNPAID = text("""
SELECT id, number, due_minor, currency, due_at FROM invoices
 WHERE organization_id = :org AND state = 'open' ORDER BY due_at LIMIT :limit
""")
_LIVE = text("""
SELECT minute, count(m.id) FROM generate_series(date_trunc('minute', CAST(:since AS timestamptz)),
    date_trunc('minute', CAST(:now AS timestamptz)), interval '1 minute') minute
  LEFT JOIN messages m ON m.organization_id = :org AND m.mode = :mode AND m.accepted_at >= minute
    AND m.accepted_at < minute + interval '1 minute' AND m.accepted_at >= :since
 GROUP BY 1 ORDER BY 1
""")


@dataclass(frozen=True)
class Steps:
    """Which first steps an organization has taken."""

    has_key: bool
    first_message_at: datetime | None
    has_endpoint: bool
    has_invited: bool
    has_cap: bool
    is_dismissed: bool


@dataclass(frozen=True)
class Key:
    """A key and when it was used last.

    total, active: of all keys of the mode
    """

    id: UUID
    name: str
    mode: str
    masked: str | None
    last_used_at: datetime | None
    is_revoked: bool
    total: int
    active: int


@dataclass(frozen=True)
class Failure:
    """A message that was not delivered."""

    id: UUID
    accepted_at: datetime
    recipient: str
    channel: str
    error_code: str | None


@dataclass(frozen=True)
class Unpaid:
    """An invoice that waits for its payment; the amount in minor units."""

    id: UUID
    number: str
    due_minor: int
    currency: str
    due_at: datetime


def steps(session: Session, organization_id: UUID, user_id: UUID) -> Steps:
    """Which first steps were taken, and whether this member put the list away."""
    return Steps(*session.execute(_STEPS, {"org": organization_id, "user": user_id}).one())


def keys(session: Session, organization_id: UUID, mode: str) -> Sequence[Key]:
    """The keys used last, the revoked at the end."""
    values = {"org": organization_id, "mode": mode, "limit": SHOWN}
    return [Key(*row) for row in session.execute(_KEYS, values)]


def failures(session: Session, organization_id: UUID, mode: str) -> Sequence[Failure]:
    """The newest of the last five hundred messages that were not delivered."""
    values = {"org": organization_id, "mode": mode, "limit": SHOWN}
    return [Failure(*row) for row in session.execute(_FAILURES, values)]


def unpaid(session: Session, organization_id: UUID) -> Sequence[Unpaid]:
    """Invoices that wait for their payment, the most urgent first."""
    return [Unpaid(*row) for row in session.execute(_UNPAID, {"org": organization_id, "limit": SHOWN})]


def live(session: Session, organization_id: UUID, mode: str, now: datetime) -> Sequence[tuple[datetime, int]]:
    """Accepted messages of the last hour by the minute, minutes without any included."""
    values = {"org": organization_id, "mode": mode, "now": now, "since": now - timedelta(minutes=LIVE_MINUTES - 1)}
    return [(minute, int(count)) for minute, count in session.execute(_LIVE, values)]
