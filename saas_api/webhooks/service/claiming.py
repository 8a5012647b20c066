"""Claiming deliveries: an endpoint's due ones, as many as it may have under way, each for the length of a lease."""

import uuid
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import observe
from saas_api.core.ids import wire_id
from saas_api.core.lease import SOON_SECONDS, Due
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system, transaction
from saas_api.webhooks import rules
from saas_api.webhooks.service.endpoints import cancel_queued
from saas_api.webhooks.service.secrets import live_secrets

AT_MOST_ENDPOINTS = 200
# A loose index scan: one step of the index an endpoint, however many rows each has.
_DUE = sa.text("""
WITH RECURSIVE e AS (
  (SELECT organization_id, endpoint_id FROM webhook_deliveries WHERE status IN ('queued', 'sending')
    ORDER BY organization_id, endpoint_id LIMIT 1)
  UNION ALL
  SELECT n.organization_id, n.endpoint_id FROM e CROSS JOIN LATERAL (
    SELECT d.organization_id, d.endpoint_id FROM webhook_deliveries d WHERE d.status IN ('queued', 'sending')
       AND (d.organization_id, d.endpoint_id) > (e.organization_id, e.endpoint_id)
     ORDER BY d.organization_id, d.endpoint_id LIMIT 1) n)
SELECT e.organization_id, e.endpoint_id, extract(epoch FROM first.next_at - now())::float8 AS seconds
  FROM e CROSS JOIN LATERAL (SELECT d.next_at FROM webhook_deliveries d WHERE d.organization_id = e.organization_id
    AND d.endpoint_id = e.endpoint_id AND d.status IN ('queued', 'sending') ORDER BY d.next_at LIMIT 1) first
 WHERE first.next_at < now() + make_interval(secs => :soon)
 ORDER BY greatest(first.next_at, now()), random() LIMIT :limit
""")
_HOLD = sa.text("""
SELECT url, payload, in_flight_limit, status = 'enabled' AND deleted_at IS NULL AS is_open FROM webhook_endpoints
WHERE organization_id = :org AND id = :endpoint FOR NO KEY UPDATE
""")
# A statement of its own after the lock: its snapshot sees what others claimed before they let the endpoint go.
_CLAIM = sa.text("""
WITH live AS (SELECT count(*) AS n FROM webhook_deliveries WHERE organization_id = :org AND endpoint_id = :endpoint
  AND status = 'sending' AND next_at > now()),
due AS (SELECT id FROM webhook_deliveries WHERE organization_id = :org AND endpoint_id = :endpoint
  AND status IN ('queued', 'sending') AND next_at <= now() ORDER BY next_at
  LIMIT greatest(0, least(:wanted, :limit - (SELECT n FROM live))) FOR UPDATE SKIP LOCKED),
taken AS (UPDATE webhook_deliveries d SET status = 'sending', attempts = d.attempts + 1,
    interruptions = d.interruptions + (d.status = 'sending')::int, lease_token = :token,
    next_at = now() + make_interval(secs => :lease)
  FROM due WHERE d.organization_id = :org AND d.id = due.id
  RETURNING d.id, d.event_id, d.attempts, d.interruptions),
begun AS (INSERT INTO webhook_attempts (organization_id, delivery_id, n, started_at, outcome)
  SELECT :org, id, attempts, now(), 'started' FROM taken RETURNING delivery_id)
SELECT t.id, t.event_id, t.attempts, t.interruptions, e.payload FROM taken t
JOIN begun b ON b.delivery_id = t.id JOIN events e ON e.organization_id = :org AND e.id = t.event_id
""")
_INTERRUPTED = sa.text("""
UPDATE webhook_attempts a SET outcome = 'interrupted', ended_at = now()
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[])) AS v (id, n)
WHERE a.organization_id = :org AND a.delivery_id = v.id AND a.n < v.n AND a.outcome = 'started'
""")

Owner = tuple[UUID, UUID]
"""An organization and one of its endpoints."""


@dataclass(frozen=True)
class Claimed:
    """A delivery that is ours for the length of a lease.

    attempt: its number, from 1; tries: those before it that came to an end
    is_slow: the endpoint has failed lately, and gets one at a time
    """

    owner: Owner
    id: UUID
    token: UUID
    webhook_id: str
    url: str
    body: bytes
    secrets: tuple[str, ...]
    attempt: int
    interruptions: int
    is_slow: bool

    @property
    def tries(self) -> int:
        """How many attempts came to an end before this one."""
        return self.attempt - 1 - self.interruptions


def due() -> Due[Owner]:
    """Endpoints with deliveries that are due, drawn by lot: those that are slow stay due and must not fill the list."""
    with as_system("webhooks.due") as session:
        rows = session.execute(_DUE, {"soon": SOON_SECONDS, "limit": AT_MOST_ENDPOINTS}).all()
    later = [row.seconds for row in rows if row.seconds > 0]
    return Due([(row[0], row[1]) for row in rows if row.seconds <= 0], min(later, default=None))


def claim(owner: Owner, wanted: int, wanted_if_slow: int) -> list[Claimed]:
    """Take some of an endpoint's due deliveries; no more than its limit are under way anywhere at once.

    wanted, wanted_if_slow: at most so many; the second of an endpoint that has failed lately
    """
    organization_id, endpoint_id = owner
    token = uuid.uuid4()
    values = {"org": organization_id, "endpoint": endpoint_id, "token": token, "lease": setting("LEASE_SECONDS")}
    with transaction(organization_id) as session:
        endpoint = session.execute(_HOLD, values).one()
        if not endpoint.is_open:
            cancel_queued(session, organization_id, endpoint_id)
            return []
        is_slow = endpoint.in_flight_limit == 1
        limits = {"wanted": wanted_if_slow if is_slow else wanted, "limit": endpoint.in_flight_limit}
        rows = session.execute(_CLAIM, {**values, **limits}).all()
        if rows:
            _end_interrupted(session, organization_id, rows)
        secrets = tuple(live_secrets(session, organization_id, endpoint_id)) if rows else ()
    observe.fault("webhook.claimed")
    return [
        Claimed(
            owner,
            row.id,
            token,
            wire_id("evt", row.event_id),
            endpoint.url,
            (rules.thin_payload(row.payload) if endpoint.payload == "thin" else row.payload).encode(),
            secrets,
            row.attempts,
            row.interruptions,
            is_slow,
        )
        for row in rows
    ]


def _end_interrupted(session: Session, organization_id: UUID, rows: list[Any] | Any) -> None:
    values = {"org": organization_id, "ids": [row.id for row in rows], "numbers": [row.attempts for row in rows]}
    session.execute(_INTERRUPTED, values)
