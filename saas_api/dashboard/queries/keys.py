"""Reads of the pages about API keys: who made them, what they sent, their live secrets, what was done to them."""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import service as billing
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.usage import ENDPOINTS, Tally
from saas_api.core import clock
from saas_api.usage.queries import breakdown, requests, timeseries
from saas_api.usage.rules import Days

ACTS = 20
_PLATFORM, _GONE = "The platform", "A former member"


@dataclass
class Use:
    """What one key sent in a range.

    by_endpoint: by method and route
    """

    total: Tally
    by_day: Mapping[date, Tally]
    by_endpoint: dict[tuple[str, str], Tally] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveSecret:
    """A secret that opens something."""

    masked: str
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class Act:
    """Something that was done to a key."""

    at: datetime
    action: str
    by: str
    ip: str | None
    request_id: str | None
    data: Mapping[str, Any]


def makers(session: Session, organization_id: UUID, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Who made each of some keys, by the name they go by."""
    rows = session.execute(
        text("""SELECT k.id, k.created_by, coalesce(nullif(u.full_name, ''), u.email) AS name
          FROM api_keys k LEFT JOIN users u ON u.id = k.created_by
          WHERE k.organization_id = :organization_id AND k.id = ANY (:ids)"""),
        {"organization_id": organization_id, "ids": list(ids)},
    )
    return {row.id: row.name or (_GONE if row.created_by else _PLATFORM) for row in rows}


def request_counts(session: Session, organization_id: UUID, days: Days, modes: Iterable[str]) -> dict[UUID, int]:
    """Calls of a range by key, accepted and refused; keys without calls are missing.

    modes: of the keys that are asked for
    """
    counts: Counter[UUID] = Counter()
    for mode in modes:
        if mode == "live":
            accepted = breakdown.accepted(session, organization_id, days, [])
        else:
            accepted = breakdown.accepted_tests(session, organization_id, days)
        for row in accepted:
            if row.api_key_id is not None:
                counts[row.api_key_id] += row.requests
    refused = session.execute(
        text("""SELECT api_key_id, sum(requests)::bigint FROM request_counts
          WHERE organization_id = :organization_id AND bucket_at >= :starts_at AND bucket_at < :ends_at GROUP BY 1"""),
        {"organization_id": organization_id, "starts_at": days.starts_at, "ends_at": days.ends_at},
    )
    counts.update(dict(refused.all()))
    return dict(counts)


def use_of(session: Session, organization_id: UUID, key_id: UUID, mode: str, days: Days) -> Use:
    """What a key sent, by day and by endpoint; the figures of the usage report, of one key.

    mode: of the key
    """
    use = Use(Tally(), {day: Tally() for day in days})
    endpoints: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
    read = breakdown.accepted_tests if mode == "test" else functools.partial(breakdown.accepted, cuts=[])
    for row in read(session, organization_id, days):
        if row.api_key_id == key_id:
            endpoint = endpoints[ENDPOINTS.get(row.source, ("", row.source))]
            for tally in (use.total, use.by_day[row.day], endpoint):
                tally.success_count += row.requests
    for refused in requests.refused(session, organization_id, days, mode):
        if refused.api_key_id == key_id:
            endpoint = endpoints[refused.method, refused.route]
            for tally in (use.total, use.by_day[refused.day], endpoint):
                if refused.outcome == "failed":
                    tally.failed_count += refused.requests
                else:
                    tally.limited_count += refused.requests
    use.by_endpoint = dict(sorted(endpoints.items(), key=lambda entry: -entry[1].requests))
    return use


def requests_of_a_day(session: Session, organization_id: UUID, key_id: UUID, mode: str, now: datetime) -> int:
    """Calls under a key in the last 24 hours; counts are by the hour, so the hour that began before them is whole."""
    since = (now - timedelta(hours=24)).replace(minute=0, second=0, microsecond=0)
    span = timeseries.Span([since], now + timedelta(hours=1), [], None, mode)
    accepted = sum(
        row.requests for row in timeseries.counted(session, organization_id, span) if row.api_key_id == key_id
    )
    refused = session.scalar(
        text("""SELECT coalesce(sum(requests), 0)::bigint FROM request_counts
          WHERE organization_id = :organization_id AND api_key_id = :key_id AND bucket_at >= :since"""),
        {"organization_id": organization_id, "key_id": key_id, "since": since},
    )
    return accepted + int(refused or 0)


def plan_limit(session: Session, organization_id: UUID) -> int:
    """Requests a minute that all keys of an organization share."""
    row = session.execute(
        text("""SELECT e.value, l.rate_limit_per_minute FROM subscription_segments g
          JOIN entitlements e ON e.plan_version_id = g.plan_version_id AND e.feature = :feature
          LEFT JOIN organization_limits l ON l.organization_id = g.organization_id
            AND (l.expires_at IS NULL OR l.expires_at > :at)
          WHERE g.organization_id = :organization_id AND g.starts_at <= :at
            AND (g.ends_at IS NULL OR g.ends_at > :at)"""),
        {"organization_id": organization_id, "at": clock.now(), "feature": catalogue.RATE_LIMIT},
    ).first()
    if row is None:
        return billing.terms(session, organization_id).rate_limit_per_minute
    return row.rate_limit_per_minute or catalogue.rate_limit(row.value)


def live_secrets(session: Session, organization_id: UUID, key_id: UUID, now: datetime) -> list[LiveSecret]:
    """The secrets that open something, the newest first; two while a key is rolled."""
    rows = session.execute(
        text("""SELECT hint || '...' || last_four, created_at, expires_at FROM api_key_secrets
          WHERE organization_id = :organization_id AND key_id = :key_id AND revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > :now) ORDER BY created_at DESC"""),
        {"organization_id": organization_id, "key_id": key_id, "now": now},
    )
    return [LiveSecret(*row) for row in rows]


def acts_on(session: Session, organization_id: UUID, key_id: UUID) -> list[Act]:
    """The last acts on a key from the log, the newest first."""
    rows = session.execute(
        text("""SELECT a.at, a.action, a.actor_type, coalesce(nullif(u.full_name, ''), u.email) AS name,
              host(a.ip) AS ip, a.request_id, a.data
          FROM audit_events a LEFT JOIN users u ON a.actor_type = 'user' AND u.id::text = a.actor_id
          WHERE a.organization_id = :organization_id AND a.target_type = 'api_key' AND a.target_id = :key_id
          ORDER BY a.id DESC LIMIT :limit"""),
        {"organization_id": organization_id, "key_id": str(key_id), "limit": ACTS},
    )
    return [
        Act(row.at, row.action, row.name or _named(row.actor_type), row.ip, row.request_id, row.data) for row in rows
    ]


def _named(actor_type: str) -> str:
    return {"user": _GONE, "api_key": "An API key", "operator": "An operator"}.get(actor_type, _PLATFORM)
