"""Outbox tables: claiming due rows, recording their results, and the loop of a drain.

PostgreSQL is the queue. A claim moves `next_at` to the end of a lease and stores a token; every result is written under
that token only. A lease that ended makes its rows due again, and only PostgreSQL's clock decides when.
"""

import functools
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

import sqlalchemy as sa
from rq.timeouts import JobTimeoutException
from sqlalchemy.orm import Session

from saas_api.core.db import types
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.jobs import counters, queue
from saas_api.core.jobs.retries import MAX_ATTEMPTS, MAX_INTERRUPTIONS
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

Owner = TypeVar("Owner")

LOOKAHEAD_SECONDS = 20.0
MAX_OWNERS_PER_SCAN = 200
INTERRUPTIONS_TO_CLAIM_ALONE = 3
_IDLE_POLL_SECONDS = 0.1
_LOOKAHEAD_POLL_SECONDS = 0.25
_IS_OPEN = "status IN ('queued', 'sending')"


@dataclass(frozen=True, eq=False)
class Claimable:
    """An outbox table.

    It has the columns id, status, attempts, interruptions, next_at, lease_token, error_code and finished_at, an index
    of open rows by owner and next_at, and another like it of those to claim alone: no claim reads the backlog. A
    constraint gives a token to its sending rows and to no others.
    name: label of the counters interruptions_total and lease_lost_total
    owner: columns that name the owner of a row; NULL is an owner too
    claimed: SQL of further columns that `claim` returns; `r` is the row
    recorded: SQL of the columns that `record` returns; `r` is the row, `:owner_0` its value of the first owner column
    result_columns: names and SQL types of `RowResult.values`
    assignments: further columns that a result sets, with SQL over the row `r` and the result `v`
    is_counted_at_claim: a claim counts as an attempt, whatever comes of it; otherwise a result does
    """

    name: str
    table: str
    owner: tuple[str, ...]
    claimed: str
    recorded: str = "r.id"
    result_columns: Mapping[str, str] = field(default_factory=dict)
    assignments: Mapping[str, str] = field(default_factory=dict)
    max_attempts: int = MAX_ATTEMPTS
    max_interruptions: int = MAX_INTERRUPTIONS
    is_counted_at_claim: bool = False


@dataclass(frozen=True)
class Claim:
    """Rows of one owner, held under one token until the lease ends.

    rows: id, attempts, interruptions, was_interrupted and the columns in `Claimable.claimed`
    """

    claimable: Claimable
    owner: tuple[Any, ...]
    token: UUID
    rows: Sequence[Any]

    @property
    def interrupted_too_often(self) -> "list[RowResult]":
        """Failures of the rows that were interrupted too often to be tried again."""
        limit = self.claimable.max_interruptions
        return [RowResult(row.id, "failed", "poisoned") for row in self.rows if row.interruptions >= limit]


@dataclass(frozen=True)
class RowResult:
    """Result of a claimed row.

    status: a final one, or "queued" for a row that is due again after `delay`
    values: of the columns in `Claimable.result_columns`; NULL when absent
    """

    id: UUID
    status: str
    error_code: str | None = None
    delay: timedelta | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def retry(cls, row_id: UUID, delay: timedelta, error_code: str | None = None) -> "RowResult":
        """Result of a failed attempt that is followed by another; without an error code the last one stays."""
        return cls(row_id, "queued", error_code, delay)


@dataclass(frozen=True)
class DueOwners(Generic[Owner]):
    """Owners of rows that are due now.

    next_seconds: until the next row is due, when that is within LOOKAHEAD_SECONDS
    """

    owners: Sequence[Owner]
    next_seconds: float | None


def list_due(session: SystemSession, claimable: Claimable) -> DueOwners[Any]:
    """Owners with due rows, in random order: those that stay due must not fill every scan.

    returns: values of the owner column, or tuples when there are several
    """
    values = {"lookahead": LOOKAHEAD_SECONDS, "limit": MAX_OWNERS_PER_SCAN}
    rows = session.execute(_due_statement(claimable), values).all()
    owners = [tuple(row[:-1]) if len(claimable.owner) > 1 else row[0] for row in rows if row.seconds <= 0]
    return DueOwners(owners, min((row.seconds for row in rows if row.seconds > 0), default=None))


def claim(session: Session, claimable: Claimable, owner: Any, *, limit: int) -> Claim:
    """Claim up to `limit` due rows of an owner until the lease ends; the caller commits before it works on them.

    A row that was interrupted three times is claimed first and alone: what kills a worker must not wait behind a
    backlog, nor take other rows with it.
    owner: one value, or a tuple when `Claimable.owner` names several columns
    """
    owner_values = owner if isinstance(owner, tuple) else (owner,)
    token = uuid.uuid4()
    values = {
        **_owner_parameters(owner_values),
        "token": token,
        "lease": setting("LEASE_SECONDS"),
        "limit": limit,
    }
    rows = session.execute(_claim_statement(claimable, _is_null(owner_values)), values).all()
    counters.increment("interruptions_total", claimable.name, sum(row.was_interrupted for row in rows))
    return Claim(claimable, owner_values, token, rows)


def record(session: Session, claim: Claim, results: Sequence[RowResult]) -> Sequence[Any]:
    """Write results of claimed rows, under the token of the claim.

    returns: `Claimable.recorded` of the rows that were written; the others have lost their lease
    """
    return record_together(session, [(claim, result) for result in results])


def record_together(session: Session, results: Sequence[tuple[Claim, RowResult]]) -> Sequence[Any]:
    """Write results of several claims of one owner in one statement; returns as `record` does."""
    return _write_results(session, results, is_attempt=True)


def give_back(session: Session, claim: Claim, row_ids: Sequence[UUID]) -> Sequence[Any]:
    """Make claimed rows due now without counting an attempt, because none was made; returns as `record` does."""
    results = [(claim, RowResult.retry(row_id, timedelta(0))) for row_id in row_ids]
    return _write_results(session, results, is_attempt=False)


def drain_queue(
    job: str,
    due: Callable[[], DueOwners[Owner]],
    process: Callable[[Owner], object],
    *,
    at_most_seconds: float | None = None,
) -> None:
    """Process due work of each owner in turn; stop after two empty scans or when the time is up.

    process: works on a bounded part of an owner's rows, so that no owner waits for the backlog of another
    at_most_seconds: DRAIN_SECONDS when absent; the scheduler gives less
    """
    queue.allow_next_wake(job)
    deadline = time.monotonic() + (at_most_seconds or setting("DRAIN_SECONDS"))
    try:
        is_drained = _run_rounds(due, process, deadline)
    finally:
        counters.flush_counters()
    if not is_drained:
        queue.wake_workers(job, is_forced=True)


def _write_results(session: Session, results: Sequence[tuple[Claim, RowResult]], *, is_attempt: bool) -> Sequence[Any]:
    if not results:
        return []
    first, _ = results[0]
    claimable, written = first.claimable, [result for _, result in results]
    values = {
        **_owner_parameters(first.owner),
        "attempts": int(is_attempt) - int(claimable.is_counted_at_claim),
        "tokens": types.uuid_array([claim.token for claim, _ in results]),
        "ids": types.uuid_array([result.id for result in written]),
        "statuses": [result.status for result in written],
        "error_codes": [result.error_code for result in written],
        "delays": [result.delay for result in written],
        **{f"v_{name}": [result.values.get(name) for result in written] for name in claimable.result_columns},
    }
    rows = session.execute(_record_statement(claimable, _is_null(first.owner)), values).all()
    lost = len(results) - len(rows)
    if lost:
        counters.increment("lease_lost_total", claimable.name, lost)
        log.warning("leases_lost", count=lost)
    return rows


def _run_rounds(due: Callable[[], DueOwners[Owner]], process: Callable[[Owner], object], deadline: float) -> bool:
    """Scan and process until nothing is due; returns False when the time was up before."""
    empty_scans = 0
    failed: set[Owner] = set()
    while empty_scans < 2 and time.monotonic() < deadline:
        if queue.is_stopping():
            return True  # another worker continues
        scan = due()
        owners = [owner for owner in scan.owners if owner not in failed]
        for owner in random.sample(owners, len(owners)):
            if queue.is_stopping() or time.monotonic() >= deadline:
                break
            _process_safely(process, owner, failed)
        if owners:
            empty_scans = 0
        elif scan.next_seconds is not None and scan.next_seconds <= deadline - time.monotonic():
            time.sleep(_LOOKAHEAD_POLL_SECONDS)
        else:
            empty_scans += 1
            time.sleep(_IDLE_POLL_SECONDS if empty_scans < 2 else 0)
    return empty_scans >= 2


def _process_safely(process: Callable[[Owner], object], owner: Owner, failed: set[Owner]) -> None:
    try:
        process(owner)
    except JobTimeoutException:
        raise
    except Exception:  # a failure in one owner's work must not delay the others
        log.exception("turn_failed", owner=str(owner))
        failed.add(owner)


def _owner_parameters(owner: tuple[Any, ...]) -> dict[str, Any]:
    return {f"owner_{place}": value for place, value in enumerate(owner) if value is not None}


def _is_null(owner: tuple[Any, ...]) -> tuple[bool, ...]:
    return tuple(value is None for value in owner)


def _owner_condition(claimable: Claimable, is_null: tuple[bool, ...]) -> str:
    pairs = enumerate(zip(claimable.owner, is_null, strict=True))
    return " AND ".join(f"r.{name} {'IS NULL' if null else f'= :owner_{place}'}" for place, (name, null) in pairs)


@functools.cache
def _due_statement(claimable: Claimable) -> sa.TextClause:
    owner, table = ", ".join(claimable.owner), claimable.table
    of_row, of_owner = (", ".join(f"{alias}.{name}" for name in claimable.owner) for alias in ("r", "o"))
    seconds = "extract(epoch FROM {} - now())::float8 AS seconds"
    no_owner, nulls = (
        _owner_condition(claimable, (True,) * len(claimable.owner)),
        ", ".join("NULL" for _ in claimable.owner),
    )
    # A loose index scan: one step an owner, however many rows each has. It ends before the rows without an owner.
    due = f"""
WITH RECURSIVE o AS (
  (SELECT {owner} FROM {table} WHERE {_IS_OPEN} ORDER BY {owner} LIMIT 1)
  UNION ALL
  SELECT n.* FROM o CROSS JOIN LATERAL (
    SELECT {owner} FROM {table} r WHERE {_IS_OPEN} AND ({of_row}) > ({of_owner}) ORDER BY {owner} LIMIT 1) n)
SELECT o.*, {seconds.format("first.next_at")} FROM o CROSS JOIN LATERAL (
  SELECT next_at FROM {table} r WHERE ({of_row}) = ({of_owner}) AND {_IS_OPEN} ORDER BY next_at LIMIT 1) first
UNION ALL
(SELECT {nulls}, {seconds.format("next_at")} FROM {table} r WHERE {no_owner} AND {_IS_OPEN}
  ORDER BY {owner}, next_at LIMIT 1)"""
    order = "ORDER BY greatest(seconds, 0), random() LIMIT :limit"
    return sa.text(f"SELECT * FROM ({due}) due WHERE seconds < :lookahead {order}")


@functools.cache
def _claim_statement(claimable: Claimable, is_null: tuple[bool, ...]) -> sa.TextClause:
    table, owner = claimable.table, _owner_condition(claimable, is_null)
    due = f"SELECT id, status FROM {table} r WHERE {owner} AND {_IS_OPEN} AND next_at <= now()"
    alone = INTERRUPTIONS_TO_CLAIM_ALONE  # part of the text: the partial index serves no other number
    order = f"ORDER BY {', '.join(claimable.owner)}, next_at"  # of the index, which IS NULL alone would not use
    return sa.text(f"""
WITH alone AS ({due} AND interruptions >= {alone} {order} LIMIT least(1, :limit) FOR UPDATE SKIP LOCKED),
others AS ({due} AND interruptions < {alone} AND NOT EXISTS (SELECT FROM alone)
  {order} LIMIT :limit FOR UPDATE SKIP LOCKED),
due AS (SELECT * FROM alone UNION ALL SELECT * FROM others)
UPDATE {table} r SET status = 'sending', attempts = r.attempts + {int(claimable.is_counted_at_claim)},
  interruptions = r.interruptions + (r.status = 'sending')::int, lease_token = :token,
  next_at = now() + make_interval(secs => :lease)
FROM due WHERE {owner} AND r.id = due.id
RETURNING r.id, r.attempts, r.interruptions, due.status = 'sending' AS was_interrupted, {claimable.claimed}
""")


@functools.cache
def _record_statement(claimable: Claimable, is_null: tuple[bool, ...]) -> sa.TextClause:
    columns = claimable.result_columns
    arrays = "".join(f", CAST(:v_{name} AS {kind}[])" for name, kind in columns.items())
    # Only sending rows have a token. A condition on the status would let the planner read every open row of the owner.
    assignments = "".join(f", {name} = {value}" for name, value in claimable.assignments.items())
    return sa.text(f"""
UPDATE {claimable.table} r SET status = v.status, attempts = r.attempts + :attempts, lease_token = NULL,
  error_code = CASE WHEN v.status = 'queued' THEN coalesce(v.error_code, r.error_code) ELSE v.error_code END,
  next_at = CASE WHEN v.status = 'queued' THEN now() + v.delay END,
  finished_at = CASE WHEN v.status <> 'queued' THEN now() END{assignments}
FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[]), CAST(:statuses AS text[]), CAST(:error_codes AS text[]),
  CAST(:delays AS interval[]){arrays}) AS v ({", ".join(("id", "token", "status", "error_code", "delay", *columns))})
WHERE {_owner_condition(claimable, is_null)} AND r.id = v.id AND r.lease_token = v.token
RETURNING {claimable.recorded}
""")
