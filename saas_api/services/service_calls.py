"""Calls of services: counts in memory, written every second by a thread, read for the console."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.periodic_thread import PeriodicThread

FLUSH_SECONDS = 1
SUCCESS = "VALID"
MAX_SECONDS = 3600.0


class _Call(NamedTuple):
    service_id: UUID
    bucket_at: datetime
    operation: str
    code: str


@dataclass
class _Tally:
    """Calls of one kind, with their time in microseconds."""

    calls: int = 0
    total_us: int = 0
    max_us: int = 0
    last_at: datetime | None = None

    def add(self, other: "_Tally") -> None:
        self.calls += other.calls
        self.total_us += other.total_us
        self.max_us = max(self.max_us, other.max_us)
        self.last_at = max(filter(None, (self.last_at, other.last_at)), default=None)


_pending: dict[_Call, _Tally] = {}
_pending_lock = threading.Lock()
_flush_lock = threading.Lock()


def count_call(service_id: UUID, operation: str, code: str, seconds: float) -> None:
    """Count a call of a service in memory; a thread writes it within FLUSH_SECONDS, a killed process loses it.

    operation: "verify", "events", "holds", "organizations" or "gate"
    code: SUCCESS, or why the call was refused, such as "RATE_LIMITED"
    seconds: that the call took
    """
    now, elapsed_us = clock.now(), round(min(seconds, MAX_SECONDS) * 1e6)
    call = _Call(service_id, now.replace(minute=0, second=0, microsecond=0), operation, code)
    _add({call: _Tally(1, elapsed_us, elapsed_us, now)})
    _flush_thread.ensure_started()


def _add(tallies: Mapping[_Call, _Tally]) -> None:
    with _pending_lock:
        for call, tally in tallies.items():
            _pending.setdefault(call, _Tally()).add(tally)


_UPSERT = sa.text("""
INSERT INTO service_calls AS c (service_id, bucket_at, operation, code, calls, total_us, max_us)
SELECT v.service_id, v.bucket_at, v.operation, v.code, v.calls, v.total_us, v.max_us
  FROM unnest(CAST(:service_id AS uuid[]), CAST(:bucket_at AS timestamptz[]), CAST(:operation AS text[]),
    CAST(:code AS text[]), CAST(:calls AS bigint[]), CAST(:total_us AS bigint[]), CAST(:max_us AS bigint[]))
    AS v(service_id, bucket_at, operation, code, calls, total_us, max_us)
  JOIN services s ON s.id = v.service_id ORDER BY 1, 2, 3, 4
ON CONFLICT (service_id, bucket_at, operation, code) DO UPDATE SET calls = c.calls + excluded.calls,
  total_us = c.total_us + excluded.total_us, max_us = greatest(c.max_us, excluded.max_us)""")
"""Rows in one order, so that two processes cannot deadlock."""
_LOCK_SEEN = sa.text("SELECT FROM services WHERE id = ANY (:ids) ORDER BY id FOR NO KEY UPDATE")
_SET_SEEN = sa.text("""
UPDATE services s SET last_seen_at = v.at
  FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS v(id, at)
 WHERE s.id = v.id AND coalesce(s.last_seen_at, '-infinity') < v.at""")


def flush_calls() -> None:
    """Write the pending counts in one transaction. Counts that cannot be written stay pending."""
    with _flush_lock:
        with _pending_lock:
            tallies = dict(_pending)
            _pending.clear()
        if not tallies:
            return
        try:
            _write(tallies)
        except Exception:
            _add(tallies)
            raise


def _write(tallies: Mapping[_Call, _Tally]) -> None:
    columns: dict[str, list[Any]] = {name: [getattr(call, name) for call in tallies] for name in _Call._fields}
    for name in ("calls", "total_us", "max_us"):
        columns[name] = [getattr(tally, name) for tally in tallies.values()]
    seen: dict[UUID, datetime] = {}
    for call, tally in tallies.items():
        if tally.last_at is not None:
            seen[call.service_id] = max(tally.last_at, seen.get(call.service_id, tally.last_at))
    times = {"ids": list(seen), "times": list(seen.values())}
    with tenancy.system_session("services.calls") as session:
        session.execute(_LOCK_SEEN, times)
        session.execute(_SET_SEEN, times)
        session.execute(_UPSERT, columns)


_flush_thread = PeriodicThread(FLUSH_SECONDS, flush_calls)


@dataclass(frozen=True)
class CallStatistics:
    """Calls of a service in a time.

    operation, code: of these calls; "" for all
    refusals: calls with another code than SUCCESS
    mean_ms, max_ms: time of a call
    """

    operation: str
    code: str
    calls: int
    refusals: int
    mean_ms: float
    max_ms: float


_TALLIES = """sum(calls)::bigint AS calls, coalesce(sum(calls) FILTER (WHERE code <> :success), 0)::bigint AS refusals,
  sum(total_us)::bigint AS total_us, max(max_us) AS max_us"""
_BY_CODE = sa.text(f"""SELECT operation, code, {_TALLIES} FROM service_calls
  WHERE service_id = :service_id AND bucket_at >= :since GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2""")
_BY_SERVICE = sa.text(f"""SELECT service_id, {_TALLIES} FROM service_calls WHERE bucket_at >= :since GROUP BY 1""")


def read_calls(session: SystemSession, service_id: UUID, period: timedelta) -> Sequence[CallStatistics]:
    """Calls of a service by operation and code, the most frequent first.

    period: before now; the hour in which it begins is counted whole
    """
    values = {"service_id": service_id, "since": _first_hour(period), "success": SUCCESS}
    return [_to_statistics(row.operation, row.code, row) for row in session.execute(_BY_CODE, values)]


def read_totals(session: SystemSession, period: timedelta) -> Mapping[UUID, CallStatistics]:
    """All calls of each service that was called; `period` as for `read_calls`."""
    values = {"since": _first_hour(period), "success": SUCCESS}
    return {row.service_id: _to_statistics("", "", row) for row in session.execute(_BY_SERVICE, values)}


def sum_calls(calls: Sequence[CallStatistics]) -> CallStatistics | None:
    """All of some calls; None without any."""
    total = sum(row.calls for row in calls)
    if not total:
        return None
    mean_ms = sum(row.mean_ms * row.calls for row in calls) / total
    return CallStatistics("", "", total, sum(row.refusals for row in calls), mean_ms, max(row.max_ms for row in calls))


def _first_hour(period: timedelta) -> datetime:
    return (clock.now() - period).replace(minute=0, second=0, microsecond=0)


def _to_statistics(operation: str, code: str, row: sa.Row[Any]) -> CallStatistics:
    mean_ms = row.total_us / row.calls / 1000
    return CallStatistics(operation, code, row.calls, row.refusals, mean_ms, row.max_us / 1000)
