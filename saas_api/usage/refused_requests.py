"""Refused calls: counts in memory, written every second by a thread, read for reports."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.periodic_thread import PeriodicThread
from saas_api.usage import ranges
from saas_api.usage.ranges import DateRange


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
    """Refused calls of the keys of one mode in hours that begin within the range."""
    rows = session.execute(
        text("""SELECT (bucket_at AT TIME ZONE :zone)::date, method, route, api_key_id, outcome, sum(requests)::bigint
          FROM request_counts WHERE organization_id = :organization_id AND mode = :mode
            AND bucket_at >= :starts_at AND bucket_at < :ends_at GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""),
        {
            "organization_id": organization_id,
            "mode": mode,
            "zone": days.zone.key,
            "starts_at": days.starts_at,
            "ends_at": days.ends_at,
        },
    )
    return [RefusedCalls(*row) for row in rows]


@dataclass(frozen=True)
class _RefusedCall:
    organization_id: UUID
    quarter_at: datetime
    api_key_id: UUID
    route: str
    method: str
    mode: str
    outcome: str


_pending: Counter[_RefusedCall] = Counter()
_pending_lock = threading.Lock()
_flush_lock = threading.Lock()


def count_refused(principal: Principal, route: str, method: str, outcome: str) -> None:
    """Count one refused call of an API key in memory; calls of users are not counted.

    route: the rule, such as "/api/v1/messages/send", never the path with its ids
    outcome: "failed" or "rate_limited"
    """
    if principal.kind != "key":
        return
    refusal = _RefusedCall(
        principal.organization_id,
        ranges.floor_to_quarter_hour(clock.now()),
        principal.id,
        route,
        method,
        principal.mode,
        outcome,
    )
    with _pending_lock:
        _pending[refusal] += 1
    _flush_thread.ensure_started()


_UPSERT = (
    text("""
INSERT INTO request_counts AS c (organization_id, bucket_at, api_key_id, route, method, mode, outcome, requests)
SELECT o.id, date_trunc('hour', v.quarter_at, o.timezone), v.api_key_id, v.route, v.method, v.mode, v.outcome, sum(v.n)
  FROM unnest(CAST(:organization_id AS uuid[]), CAST(:quarter_at AS timestamptz[]), CAST(:api_key_id AS uuid[]),
    CAST(:route AS text[]), CAST(:method AS text[]), CAST(:mode AS text[]), CAST(:outcome AS text[]),
    CAST(:n AS bigint[]))
    AS v(organization_id, quarter_at, api_key_id, route, method, mode, outcome, n)
  JOIN organizations o ON o.id = v.organization_id GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (organization_id, bucket_at, api_key_id, route, method, mode, outcome)
  DO UPDATE SET requests = c.requests + excluded.requests""")
)  # rows in one order, so that two processes cannot deadlock


def flush_refused() -> None:
    """Write the pending counts in one statement. Counts that cannot be written stay pending."""
    with _flush_lock:
        with _pending_lock:
            counts = _pending.copy()
            _pending.clear()
        if not counts:
            return

        def write_in_cell(owners: set[UUID]) -> None:
            written = Counter({refusal: n for refusal, n in counts.items() if refusal.organization_id in owners})
            _write(written)
            counts.subtract(written)

        try:
            cells.run_for_owners({refusal.organization_id for refusal in counts}, write_in_cell)
        except Exception:
            with _pending_lock:
                _pending.update(+counts)
            raise


def _write(counts: Counter[_RefusedCall]) -> None:
    columns: dict[str, list[Any]] = {
        column.name: [getattr(refusal, column.name) for refusal in counts] for column in fields(_RefusedCall)
    }
    with tenancy.system_session("usage.counts") as session:
        session.execute(_UPSERT, {**columns, "n": list(counts.values())})


_flush_thread = PeriodicThread(1, flush_refused)
