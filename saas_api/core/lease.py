"""Leases: work is rows that are due, claimed for a while under a token, and finished only under the same token.

PostgreSQL's clock is the only clock here. An expired lease is simply due again.
"""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import orjson
import sqlalchemy as sa
from rq.timeouts import JobTimeoutException

from saas_api.core import queue
from saas_api.core.domain import Domain
from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.core.tenancy import as_system

log = get_logger(__name__)

DOMAIN = Domain(name="core.jobs", system_purposes=("queue.runs",))

SOON_SECONDS = 20.0
_LOOK_AGAIN_SECONDS = 0.1
_LOOK_WHILE_SOON_SECONDS = 0.25
_tally: Counter[tuple[str, str]] = Counter()


Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Due(Generic[Owner]):
    """Whose work is due now, and in how many seconds the next will be (None: not soon).

    organizations: by id; None among them is the platform itself
    """

    organizations: Sequence[Owner]
    next_seconds: float | None


def drain(
    job: str, due: Callable[[], Due[Owner]], turn: Callable[[Owner], object], *, at_most_seconds: float | None = None
) -> None:
    """Give every organization with due work one turn after another, until twice nothing is due or time is up.

    turn: works off a bounded part of one organization's rows, so that nobody waits for another's backlog
    at_most_seconds: less than a job's usual time, for the scheduler
    """
    queue.started(job)
    deadline = time.monotonic() + (at_most_seconds or setting("DRAIN_SECONDS"))
    try:
        is_done = _turns(due, turn, deadline)
    finally:
        write_tally()
    if not is_done:
        queue.wake(job, is_forced=True)


def _turns(due: Callable[[], Due[Owner]], turn: Callable[[Owner], object], deadline: float) -> bool:
    """Go round until nothing is left, which is returned, or there is no more time for it."""
    empty = 0
    failed: set[Owner] = set()
    while empty < 2 and time.monotonic() < deadline:
        if queue.is_stopping():
            return True  # others go on
        found = due()
        organizations = [one for one in found.organizations if one not in failed]
        for organization_id in random.sample(organizations, len(organizations)):
            if queue.is_stopping() or time.monotonic() >= deadline:
                break
            _turn_safely(turn, organization_id, failed)
        if organizations:
            empty = 0
        elif found.next_seconds is not None and found.next_seconds <= deadline - time.monotonic():
            time.sleep(_LOOK_WHILE_SOON_SECONDS)
        else:
            empty += 1
            time.sleep(_LOOK_AGAIN_SECONDS if empty < 2 else 0)
    return empty >= 2


def _turn_safely(turn: Callable[[Owner], object], owner: Owner, failed: set[Owner]) -> None:
    try:
        turn(owner)
    except JobTimeoutException:
        raise
    except Exception:  # one organization's trouble must not hold up another's work
        log.exception("turn_failed", organization_id=str(owner))
        failed.add(owner)


_TAKE_NEW = sa.text("""
INSERT INTO job_runs (job, scheduled_for, host, next_at, lease_token)
VALUES (:job, :slot, :host, now() + interval '2 min', :token) ON CONFLICT DO NOTHING RETURNING attempts
""")
_TAKE_OPEN = sa.text("""
UPDATE job_runs SET state = 'running', attempts = attempts + 1, host = :host, next_at = now() + interval '2 min',
       lease_token = :token, finished_at = NULL
 WHERE job = :job AND scheduled_for = :slot AND (state = 'failed' OR state = 'running' AND next_at <= now())
RETURNING attempts
""")
_END = sa.text("""
UPDATE job_runs SET state = :state, stats = CAST(:stats AS jsonb), error = :error, lease_token = NULL, next_at = NULL,
       finished_at = now()
 WHERE job = :job AND scheduled_for = :slot AND lease_token = :token
""")
_SUPERSEDE = sa.text("""
UPDATE job_runs SET state = 'failed', error = coalesce(error, 'superseded'), next_at = NULL, lease_token = NULL,
       finished_at = now()
 WHERE job = :job AND scheduled_for < :slot AND state = 'running' AND next_at <= now()
""")
_LAST = sa.text("""
SELECT DISTINCT ON (job) job, scheduled_for, state, started_at, finished_at, error FROM job_runs
 ORDER BY job, scheduled_for DESC
""")
_COUNT = sa.text("""
INSERT INTO delivery_counters AS c (name, labels, value)
SELECT * FROM unnest(CAST(:names AS text[]), CAST(:labels AS text[]), CAST(:values AS bigint[])) ORDER BY 1, 2
ON CONFLICT (name, labels) DO UPDATE SET value = c.value + excluded.value
""")
_NEWEST = sa.text("SELECT extract(epoch FROM now() - max(started_at))::float8 FROM job_runs")


@dataclass(frozen=True)
class Run:
    """The newest slot of a job that somebody took."""

    job: str
    scheduled_for: datetime
    state: str
    started_at: datetime
    finished_at: datetime | None
    error: str | None


def run_slot(job: str, slot: datetime, host: str) -> bool:
    """Run a job for one slot of its cadence, unless somebody did or does; a failed or killed run is taken up again.

    slot: the instant the cadence names, UTC
    returns: whether it ran here
    """
    token = uuid.uuid4()
    names = {"job": job, "slot": slot.astimezone(UTC), "host": host, "token": token}
    with as_system("queue.runs") as session:
        taken = session.execute(_TAKE_NEW, names).first() or session.execute(_TAKE_OPEN, names).first()
        session.execute(_SUPERSEDE, names)
    if taken is None:
        return False
    state, stats, error = "done", None, None
    try:
        stats = queue.perform(job)
    except Exception as cause:
        log.exception("job_failed", job=job)
        state, error = "failed", f"{type(cause).__name__}: {cause}"[:500]
    written = orjson.dumps(stats if isinstance(stats, dict) else {}).decode()
    with as_system("queue.runs") as session:
        session.execute(_END, {**names, "state": state, "stats": written, "error": error})
    return True


def tally(name: str, label: str, by: int = 1) -> None:
    """Count something that a drain did, such as ("webhook_attempts_total", "ok"); `write_tally` writes it down."""
    _tally[name, label] += by


def write_tally() -> None:
    """Add what was counted to the counters; statistics, whose failure holds up nothing."""
    counted = {names: value for names, value in _tally.items() if value}
    _tally.clear()
    if not counted:
        return
    values = {
        "names": [name for name, _ in counted],
        "labels": [label for _, label in counted],
        "values": list(counted.values()),
    }
    try:
        with as_system("queue.runs") as session:
            session.execute(_COUNT, values)
    except sa.exc.SQLAlchemyError:
        log.warning("counters_not_written", exc_info=True)


def last_runs() -> dict[str, Run]:
    """The newest run of every job."""
    with as_system("queue.runs") as session:
        return {row.job: Run(**row._mapping) for row in session.execute(_LAST)}  # noqa: SLF001 - SQLAlchemy's public name


def seconds_since_last_run() -> float | None:
    """How long ago any job was last started; None when never."""
    with as_system("queue.runs") as session:
        age: Any = session.scalar(_NEWEST)
        return None if age is None else float(age)
