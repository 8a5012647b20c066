"""Background work: queues, workers, the schedule and the nightly invariants."""

import contextlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis
import rq
import sqlalchemy as sa
from flask import Blueprint, Response
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry

from saas_api.accounts import audit
from saas_api.accounts.audit import OperatorContext
from saas_api.admin import context
from saas_api.billing.invariants import INVARIANTS, InvariantCheck
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ServiceUnavailable
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.queue import BACKGROUND, FAILURE_TTL_SECONDS
from saas_api.core.jobs.redis_jobs import RedisJob, RedisQueue
from saas_api.core.jobs.schedule import ScheduledJob
from saas_api.core.web import pages

bp = Blueprint("queues", __name__, url_prefix="/admin")

MAX_ROWS, MAX_COUNTED = 50, 100_000


_INVARIANT_DESCRIPTIONS = {
    "ownership.time": "All usage is in the period that bills it.",
    "ownership.closed": "No usage was recorded in a period after it closed.",
    "amounts.quantity": "Invoices match the usage in the ledger.",
    "amounts.rerated": "Recalculated invoice lines match their amounts.",
    "sums.lines": "Invoice lines add up to the subtotal.",
    "sums.payments": "Payments add up to the invoice's paid amount.",
    "sums.credit_notes": "Credit notes add up to the invoice's credited amount.",
    "sums.grants": "Wallet entries add up to the wallet balance.",
    "numbers.gapless": "Invoice numbers have no gaps.",
    "coverage.chain": "Billing periods have no gaps.",
    "coverage.now": "Every organization has a current period.",
    "coverage.invoiced": "Every closed period has an invoice.",
    "rollup.ledger": "Dashboard totals match the ledger. A violation rebuilds them.",
    "money.in_flight": "No payment stays pending for too long.",
    "holds.recorded": "The usage of every settled hold is in the ledger.",
}
RUN_SECONDS = 600
QUEUED_NOTICE = "Job queued. The result appears below when it finishes."


@dataclass(frozen=True)
class QueueStatus:
    """Numbers of wake-ups of a queue, and of its workers."""

    name: str
    waiting: int
    running: int
    failed: int
    workers: int


@dataclass(frozen=True)
class WorkerStatus:
    """A worker process as Redis knows it."""

    name: str
    queue: str
    state: str
    host: str
    pid: int | None
    heartbeat_at: datetime | None
    done: int
    failed: int


@dataclass(frozen=True)
class FailedJob:
    """A wake-up whose job raised an exception; RQ keeps it for an hour.

    error: last line of the traceback
    """

    id: str
    queue: str
    job: str
    error: str
    failed_at: datetime | None


@dataclass(frozen=True)
class QueueSnapshot:
    """Queues, workers and failed wake-ups at one moment.

    beats_at: heartbeats of schedulers, newest first
    """

    queues: Sequence[QueueStatus]
    workers: Sequence[WorkerStatus]
    failed: Sequence[FailedJob]
    beats_at: Sequence[datetime]


def get_snapshot() -> QueueSnapshot | None:
    """The state of Redis queues; None when Redis does not answer."""
    with closing(queue.worker_redis()) as connection:
        try:
            workers = [_worker(worker) for worker in rq.Worker.all(connection=connection)]
            return QueueSnapshot(
                [_queue(name, connection, workers) for name in queue.queue_names()],
                sorted(workers, key=lambda worker: (worker.queue, worker.name)),
                [job for name in queue.queue_names() for job in _failed(name, connection)],
                _scheduler_heartbeats(connection),
            )
        except redis.RedisError:
            return None


def _queue(name: str, connection: redis.Redis, workers: Sequence[WorkerStatus]) -> QueueStatus:
    return QueueStatus(
        name,
        RedisQueue(name, connection).count,
        StartedJobRegistry(name, connection=connection).get_job_count(cleanup=False),
        FailedJobRegistry(name, connection=connection).get_job_count(cleanup=False),
        sum(worker.queue == name for worker in workers),
    )


def _worker(worker: Any) -> WorkerStatus:
    beat = worker.last_heartbeat
    return WorkerStatus(
        worker.name,
        ", ".join(worker.queue_names()),
        str(worker.get_state()),
        worker.hostname or "",
        worker.pid,
        beat.replace(tzinfo=UTC) if beat and beat.tzinfo is None else beat,
        worker.successful_job_count,
        worker.failed_job_count,
    )


def _failed(name: str, connection: redis.Redis) -> list[FailedJob]:
    registry = FailedJobRegistry(name, connection=connection)
    ids = registry.get_job_ids(0, MAX_ROWS - 1, desc=True, cleanup=False)
    return [_failure(job, name) for job in RedisJob.fetch_many(ids, connection=connection) if job is not None]


def _failure(job: Job, name: str) -> FailedJob:
    result = job.latest_result()
    trace = (result.exc_string or "").strip().splitlines() if result else []
    return FailedJob(job.id, name, job_name(job), trace[-1][:500] if trace else "", job.ended_at)


def job_name(job: Job) -> str:
    """The job that a wake-up runs, such as "messages.drain"; RQ's description where it cannot be read."""
    try:
        return str(job.args[0]) if job.args else str(job.func_name)
    except Exception:  # noqa: BLE001 - another version may have written it
        return job.description or ""


def get_failed_job(_session: SystemSession, job_id: str) -> FailedJob:
    """A failed wake-up by its id.

    raises: NotFound, ServiceUnavailable when Redis does not answer
    """
    with closing(queue.worker_redis()) as connection:
        try:
            job = RedisJob.fetch(job_id, connection=connection)
            score = connection.zscore(FailedJobRegistry(job.origin, connection=connection).key, job_id)
        except NoSuchJobError as cause:
            raise NotFound from cause
        except redis.RedisError as cause:
            raise ServiceUnavailable from cause
        if score is None:
            raise NotFound
        return _failure(job, job.origin)


def get_scheduled_job(_session: SystemSession, job: str) -> ScheduledJob:
    """A job of the schedule by its name.

    raises: NotFound
    """
    entry = next((entry for entry in schedule.scheduled_jobs() if entry.job == job), None)
    if entry is None:
        raise NotFound
    return entry


def _scheduler_heartbeats(connection: redis.Redis) -> list[datetime]:
    heartbeats = []
    for key in connection.scan_iter("rq:scheduler_instance:*", count=1000):
        beat = connection.hget(key, "beat")
        if beat:
            heartbeats.append(datetime.fromtimestamp(float(beat), UTC))
    return sorted(heartbeats, reverse=True)


_LATEST_RUNS = sa.text("""
SELECT j.job, r.scheduled_for, r.state, r.started_at, r.finished_at, r.attempts, r.host, r.error, ok.ok_at
FROM unnest(CAST(:jobs AS text[])) j (job)
LEFT JOIN LATERAL (SELECT * FROM job_runs r WHERE r.job = j.job ORDER BY r.scheduled_for DESC LIMIT 1) r ON true
LEFT JOIN LATERAL (SELECT r.finished_at AS ok_at FROM job_runs r WHERE r.job = j.job AND r.state = 'done'
  ORDER BY r.scheduled_for DESC LIMIT 1) ok ON true
""")
_PENDING_OF_TABLE = """SELECT '{table}' AS name, count(*) AS pending,
  extract(epoch FROM now() - min(next_at) FILTER (WHERE next_at <= now()))::int AS late_seconds
  FROM (SELECT next_at FROM {table} WHERE status IN ('queued', 'sending') LIMIT :most) w"""
_OUTBOX_TABLES = ("messages", "webhook_deliveries", "mails", "provider_events")
_PENDING = sa.text(" UNION ALL ".join(_PENDING_OF_TABLE.format(table=table) for table in _OUTBOX_TABLES))
_LATEST_RESULTS = sa.text("""
SELECT c.name, last.at, last.violations, last.sample, coalesce(change.at, first.at) AS since
FROM unnest(CAST(:names AS text[])) c (name)
JOIN LATERAL (SELECT * FROM invariant_results r WHERE r.check_name = c.name ORDER BY r.at DESC LIMIT 1) last ON true
JOIN LATERAL (SELECT min(r.at) AS at FROM invariant_results r WHERE r.check_name = c.name) first ON true
LEFT JOIN LATERAL (SELECT r.at FROM invariant_results r WHERE r.check_name = c.name AND r.at > (
    SELECT max(o.at) FROM invariant_results o WHERE o.check_name = c.name
      AND (o.violations = 0) <> (last.violations = 0))
  ORDER BY r.at LIMIT 1) change ON true
""")


@dataclass(frozen=True)
class ScheduleRow:
    """A scheduled job and its newest run.

    run: None before the first
    is_late: whether two runs in a row are missing
    """

    entry: ScheduledJob
    run: Any
    next_at: datetime
    is_late: bool

    @property
    def seconds(self) -> float | None:
        """Duration of the newest run; None while it runs."""
        if self.run is None or self.run.finished_at is None:
            return None
        seconds: float = (self.run.finished_at - self.run.started_at).total_seconds()
        return max(seconds, 0.0)


@dataclass(frozen=True)
class InvariantStatus:
    """An invariant and the result of its last run.

    since: first run with the same outcome; None before the first run
    """

    check: InvariantCheck
    description: str
    at: datetime | None
    violations: int
    since: datetime | None
    sample: Sequence[dict[str, Any]]


def list_schedule(session: SystemSession, at: datetime) -> list[ScheduleRow]:
    """Every scheduled job with its newest run."""
    entries = schedule.scheduled_jobs()
    rows = {row.job: row for row in session.execute(_LATEST_RUNS, {"jobs": [entry.job for entry in entries]})}
    return [_to_schedule_row(entry, rows[entry.job], at) for entry in entries]


def count_backlog(session: SystemSession) -> Sequence[Any]:
    """Rows of (table name, number of pending rows up to MAX_COUNTED + 1, seconds that the oldest is overdue)."""
    return session.execute(_PENDING, {"most": MAX_COUNTED + 1}).all()


def list_invariants(session: SystemSession) -> list[InvariantStatus]:
    """Every invariant with the result of its last run."""
    rows = {row.name: row for row in session.execute(_LATEST_RESULTS, {"names": [check.name for check in INVARIANTS]})}
    return [_to_invariant_status(check, rows.get(check.name)) for check in INVARIANTS]


def _to_schedule_row(entry: ScheduledJob, row: Any, at: datetime) -> ScheduleRow:
    run = row if row.scheduled_for else None
    is_late = (
        run is not None and (entry.current_slot(at) - run.scheduled_for).total_seconds() >= 2 * entry.every_seconds
    )
    return ScheduleRow(entry, run, entry.next_slot(at), is_late)


def _to_invariant_status(check: InvariantCheck, row: Any) -> InvariantStatus:
    description = _INVARIANT_DESCRIPTIONS.get(check.name, "")
    if row is None:
        return InvariantStatus(check, description, None, 0, None, [])
    return InvariantStatus(check, description, row.at, row.violations, row.since, row.sample)


def enqueue_run(session: SystemSession, job: str, operator: OperatorContext) -> None:
    """Queues one run of a scheduled job, in addition to its schedule.

    raises: ServiceUnavailable when Redis does not answer
    """
    audit.record_event(session, None, operator.actor, "job.run_asked", ("job", job), {"reason": operator.reason})
    _enqueue(schedule.run_requested, job, clock.now().isoformat())


def enqueue_schedule(session: SystemSession, operator: OperatorContext) -> None:
    """Queues one run of the scheduler, which runs every job that is due.

    raises: ServiceUnavailable when Redis does not answer
    """
    audit.record_event(session, None, operator.actor, "job.tick_asked", ("job", "tick"), {"reason": operator.reason})
    _enqueue(schedule.run_due_jobs)


def requeue_failed(session: SystemSession, job_id: str, operator: OperatorContext) -> None:
    """Queues a failed wake-up again.

    raises: NotFound, Conflict when it is no longer failed, ServiceUnavailable when Redis does not answer
    """
    with closing(queue.worker_redis()) as connection:
        try:
            _requeue(session, connection, job_id, operator)
        except NoSuchJobError as cause:
            raise NotFound from cause
        except InvalidJobOperation as cause:
            raise Conflict("This job is no longer failed.") from cause
        except redis.RedisError as cause:
            raise ServiceUnavailable from cause


def requeue_all_failed(session: SystemSession, operator: OperatorContext) -> int:
    """Queues every failed wake-up again; those that Redis no longer has, and those after it stops answering, stay.

    returns: number of wake-ups
    raises: ServiceUnavailable when Redis does not answer at first
    """
    count = 0
    with closing(queue.worker_redis()) as connection:
        try:
            for name in queue.queue_names():
                registry = FailedJobRegistry(name, connection=connection)
                for job_id in registry.get_job_ids(cleanup=False):
                    with contextlib.suppress(NoSuchJobError, InvalidJobOperation):
                        _requeue(session, connection, job_id, operator)
                        count += 1
        except redis.RedisError as cause:
            if not count:
                raise ServiceUnavailable from cause
    return count


def _requeue(session: SystemSession, connection: redis.Redis, job_id: str, operator: OperatorContext) -> None:
    """Queue a failed wake-up again, and record it once that is done."""
    job = RedisJob.fetch(job_id, connection=connection)
    RedisQueue(job.origin, connection).failed_job_registry.requeue(job)
    audit.record_event(session, None, operator.actor, "job.retried", ("job", job_id), {"reason": operator.reason})


def _enqueue(function: Any, *arguments: Any) -> None:
    with closing(queue.worker_redis()) as connection:
        try:
            RedisQueue(BACKGROUND, connection).enqueue_call(
                function, args=arguments, timeout=RUN_SECONDS, result_ttl=0, failure_ttl=FAILURE_TTL_SECONDS
            )
        except redis.RedisError as cause:
            raise ServiceUnavailable from cause


bp.context_processor(lambda: {"cadence": _cadence, "seconds_ago": _seconds_ago})


@bp.get("/jobs")
@require_operator("support")
def index() -> Response:
    """Show queues, workers, the schedule and failed jobs."""
    now = clock.now()
    with context.read_session() as session:
        rows, backlog = list_schedule(session, now), count_backlog(session)
    return pages.render_page(
        "admin/queues/index.html", block="live", schedule=rows, backlog=backlog, snapshot=get_snapshot(), now=now
    )


@bp.get("/invariants")
@require_operator("support")
def invariants() -> Response:
    """Show the invariants with the violations of their last run."""
    with context.read_session() as session:
        checks = list_invariants(session)
    return pages.render_page("admin/invariants.html", checks=checks)


def _seconds_ago(instant: datetime) -> str:
    """A short duration for a page that refreshes itself."""
    seconds = max(0, int((clock.now() - instant).total_seconds()))
    return f"{seconds} s ago" if seconds < 600 else f"{seconds // 60:,} min ago"


def _cadence(entry: ScheduledJob) -> str:
    """The interval of a scheduled job as text."""
    for seconds, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        count, rest = divmod(entry.every_seconds, seconds)
        if count and not rest:
            return unit if count == 1 else f"{count} {unit}s"
    return f"{entry.every_seconds} seconds"
