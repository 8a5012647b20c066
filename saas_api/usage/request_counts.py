"""Counts of calls under API keys with their status and latency: by minute for a day, then by local hour."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.usage.ranges import DateRange

LATENCY_BUCKETS = 17
"""Calls of less than 1 ms, 2 ms, 4 ms and so on; the last bucket has all of 32 seconds and longer."""
MINUTES_KEPT = timedelta(hours=25)
_HOUR = timedelta(hours=1)


def latency_bucket(microseconds: int) -> int:
    """Number of the bucket of a latency, from 0."""
    return min((microseconds // 1000).bit_length(), LATENCY_BUCKETS - 1)


@dataclass(frozen=True)
class RefusedCalls:
    """Refused calls of one day, route and key.

    outcome: "failed" or "rate_limited"
    """

    day: date
    method: str
    route: str
    api_key_id: UUID
    outcome: str
    requests: int


def refused_calls(session: Session, organization_id: UUID, days: DateRange, mode: str) -> Sequence[RefusedCalls]:
    """Calls that were answered with a status from 400 to 499, of the keys of one mode within the range."""
    rows = session.execute(
        text("""SELECT (bucket_at AT TIME ZONE :zone)::date, method, route, api_key_id,
            CASE status WHEN 429 THEN 'rate_limited' ELSE 'failed' END, sum(requests)::bigint
          FROM request_counts WHERE organization_id = :organization_id AND mode = :mode
            AND bucket_at >= :starts_at AND bucket_at < :ends_at AND status BETWEEN 400 AND 499
          GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""),
        {
            "organization_id": organization_id,
            "mode": mode,
            "zone": days.zone.key,
            "starts_at": days.starts_at,
            "ends_at": days.ends_at,
        },
    )
    return [RefusedCalls(*row) for row in rows]


def count_refused(
    session: Session, organization_id: UUID, starts_at: datetime, ends_at: datetime
) -> Mapping[UUID, int]:
    """Calls that were answered with a status from 400 to 499, by key, of both modes."""
    rows = session.execute(
        text("""SELECT api_key_id, sum(requests)::bigint FROM request_counts
          WHERE organization_id = :organization_id AND bucket_at >= :starts_at AND bucket_at < :ends_at
            AND status BETWEEN 400 AND 499 GROUP BY 1"""),
        {"organization_id": organization_id, "starts_at": starts_at, "ends_at": ends_at},
    )
    return dict(rows.all())


@dataclass(frozen=True)
class RequestStatistics:
    """Calls of a time with their errors and latency.

    errors: answered with a status of 400 or above
    latency: calls by bucket of `latency_bucket`; without those whose latency is not known
    """

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = (0,) * LATENCY_BUCKETS

    @property
    def error_share(self) -> Decimal | None:
        """The fraction of the calls that failed; None without calls."""
        return Decimal(self.errors) / self.requests if self.requests else None

    def percentile_ms(self, percent: int) -> Decimal | None:
        """The latency in milliseconds that a percentage of the calls does not exceed; None where none is known.

        It lies within its bucket as if the calls of the bucket were spread evenly.
        """
        rank = Decimal(sum(self.latency) * percent) / 100
        below = 0
        for bucket, count in enumerate(self.latency):
            if count and below + count >= rank:
                first, end = (1 << bucket) // 2, 1 << bucket
                return first + (end - first) * (rank - below) / count
            below += count
        return None


def sum_statistics(points: Iterable[RequestStatistics]) -> RequestStatistics:
    """The statistics of several times together."""
    requests, errors, latency = 0, 0, [0] * LATENCY_BUCKETS
    for point in points:
        requests, errors = requests + point.requests, errors + point.errors
        latency = [sum(pair) for pair in zip(latency, point.latency, strict=True)]
    return RequestStatistics(requests, errors, tuple(latency))


_STATISTICS = text(f"""
SELECT width_bucket(bucket_at, CAST(:starts AS timestamptz[])) - 1, sum(requests)::bigint,
  coalesce(sum(requests) FILTER (WHERE status >= 400), 0)::bigint,
  {", ".join(f"coalesce(sum(latency[{n}]), 0)" for n in range(1, LATENCY_BUCKETS + 1))}
FROM request_counts WHERE organization_id = :organization_id AND mode = :mode
  AND bucket_at >= :starts_at AND bucket_at < :ends_at
  AND (CAST(:api_key_id AS uuid) IS NULL OR api_key_id = :api_key_id) GROUP BY 1""")


def call_statistics(
    session: Session,
    organization_id: UUID,
    mode: str,
    starts: Sequence[datetime],
    ends_at: datetime,
    *,
    api_key_id: UUID | None = None,
) -> list[RequestStatistics]:
    """Statistics of the calls under keys of one mode, from each of several rising instants to the next.

    api_key_id: of one key only
    """
    points = [RequestStatistics()] * len(starts)
    values = {"organization_id": organization_id, "mode": mode, "starts": list(starts), "api_key_id": api_key_id}
    values |= {"starts_at": starts[0], "ends_at": ends_at}
    for point, requests, errors, *latency in session.execute(_STATISTICS, values):
        points[point] = RequestStatistics(requests, errors, tuple(latency))
    return points


def list_endpoints(session: Session, organization_id: UUID, since: datetime) -> Sequence[tuple[str, str]]:
    """Methods and routes of the calls since an instant, by route; the method of a service without routes is empty."""
    rows = session.execute(
        text("""SELECT DISTINCT method, route FROM request_counts
          WHERE organization_id = :organization_id AND bucket_at >= :since ORDER BY route, method"""),
        {"organization_id": organization_id, "since": since},
    )
    return [(row.method, row.route) for row in rows]


class CountedCall(NamedTuple):
    """What calls are counted by.

    minute: since the epoch
    route: the rule, such as "/api/v1/messages/send", never the path with its ids
    """

    organization_id: UUID
    minute: int
    api_key_id: UUID
    route: str
    method: str
    mode: str
    status: int


_UPSERT = text("""
INSERT INTO request_counts AS c
  (organization_id, bucket_at, api_key_id, route, method, mode, status, is_hour, requests, latency)
SELECT v.organization_id, v.bucket_at, v.api_key_id, v.route, v.method, v.mode, v.status, false, v.requests,
  CAST(v.latency AS integer[])
FROM unnest(CAST(:organization_id AS uuid[]), CAST(:bucket_at AS timestamptz[]), CAST(:api_key_id AS uuid[]),
    CAST(:route AS text[]), CAST(:method AS text[]), CAST(:mode AS text[]), CAST(:status AS smallint[]),
    CAST(:requests AS bigint[]), CAST(:latency AS text[]))
  AS v(organization_id, bucket_at, api_key_id, route, method, mode, status, requests, latency)
JOIN organizations o ON o.id = v.organization_id ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (organization_id, bucket_at, api_key_id, route, method, mode, status, is_hour)
  DO UPDATE SET requests = c.requests + excluded.requests,
    latency = ARRAY(SELECT coalesce(a, 0) + coalesce(b, 0)
      FROM unnest(c.latency, excluded.latency) WITH ORDINALITY AS both_of(a, b, n) ORDER BY n)""")
# rows in one order, so that two processes cannot deadlock


def write_counts(session: SystemSession, counts: Mapping[CountedCall, Sequence[int]]) -> None:
    """Add counts to their minutes, in one statement.

    counts: how many calls, then how many of them in each bucket of latency
    """
    columns: dict[str, list[Any]] = {name: [] for name in (*CountedCall._fields, "bucket_at", "requests", "latency")}
    for call, (requests, *latency) in counts.items():
        for name, value in zip(CountedCall._fields, call, strict=True):
            columns[name].append(value)
        columns["bucket_at"].append(datetime.fromtimestamp(call.minute * 60, UTC))
        columns["requests"].append(requests)
        columns["latency"].append(f"{{{','.join(map(str, _without_last_zeros(latency)))}}}")
    del columns["minute"]
    session.execute(_UPSERT, columns)


def _without_last_zeros(values: list[int]) -> Iterable[int]:
    length = max((n for n, value in enumerate(values, 1) if value), default=0)
    return values[:length]


_FIRST_MINUTE = text("SELECT min(bucket_at) FROM request_counts WHERE NOT is_hour AND bucket_at < :before")
_SUM_MINUTES = text(f"""
WITH minutes AS (DELETE FROM request_counts
  WHERE NOT is_hour AND bucket_at >= :first AND bucket_at < :before RETURNING *)
INSERT INTO request_counts AS c
  (organization_id, bucket_at, api_key_id, route, method, mode, status, is_hour, requests, latency)
SELECT m.organization_id, date_trunc('hour', m.bucket_at, o.timezone), m.api_key_id, m.route, m.method, m.mode,
  m.status, true, sum(m.requests),
  ARRAY[{", ".join(f"coalesce(sum(m.latency[{n}]), 0)" for n in range(1, LATENCY_BUCKETS + 1))}]
FROM minutes m JOIN organizations o ON o.id = m.organization_id
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (organization_id, bucket_at, api_key_id, route, method, mode, status, is_hour)
  DO UPDATE SET requests = c.requests + excluded.requests,
    latency = ARRAY(SELECT coalesce(a, 0) + coalesce(b, 0)
      FROM unnest(c.latency, excluded.latency) WITH ORDINALITY AS both_of(a, b, n) ORDER BY n)""")


def sum_minutes() -> int:
    """Sum the minutes of more than MINUTES_KEPT ago into local hours, an hour in each transaction.

    returns: number of hours, of UTC, that had minutes
    """
    before = (clock.now() - MINUTES_KEPT).replace(minute=0, second=0, microsecond=0)
    hours = 0
    while True:
        with tenancy.system_session("usage.counts") as session:
            first = session.scalar(_FIRST_MINUTE, {"before": before})
            if first is None:
                return hours
            tenancy.allow_long_statements(session)
            session.execute(_SUM_MINUTES, {"first": first, "before": min(before, first + _HOUR)})
        hours += 1
