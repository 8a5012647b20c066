"""Reads from a streaming replica of PostgreSQL, which see everything that was committed before; otherwise the primary.

The primary says how far its log is, and the replica is read once it has replayed as much. Whatever fails there is read
again from the primary. A replica that failed rests, so that others do not wait for it too.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext

from saas_api.core import metrics
from saas_api.core.db.roles import CONNECTION_SETTINGS
from saas_api.core.observability import get_logger

log = get_logger(__name__)
Result = TypeVar("Result")

WAIT_SECONDS = 0.1
"""How long a transaction waits until the replica has replayed what was committed before it."""
REST_SECONDS = 5.0
"""How long a replica that failed is not asked; then one request tries it."""
_POLL_SECONDS = 0.005
_STATEMENT_TIMEOUT, _RECOVERY_CONFLICT, _READ_ONLY = "57014", "40001", "25006"  # SQLSTATE

# Without synchronous_commit others see a commit before it is flushed.
_PRIMARY_POSITION = """
SELECT (CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn()
  ELSE pg_current_wal_flush_lsn() END)::text
"""
_CLUSTER = "SELECT system_identifier FROM pg_control_system()"
_STATE = f"""
SELECT pg_is_in_recovery(), ({_CLUSTER}), current_user::text,
  CASE WHEN pg_last_wal_replay_lsn() >= %s::pg_lsn THEN 0
    ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END
"""
_BEGIN = """
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() >= %s::pg_lsn, set_config('transaction_read_only', 'on', true)
"""
_HAS_REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"


@dataclass(frozen=True)
class Failure:
    """Why a read was repeated at the primary.

    is_away: the next reads would fail too
    """

    kind: str
    detail: str = ""
    is_away: bool = True


_PROMOTED = Failure("promoted", "it is no replica, or was promoted")


@dataclass(frozen=True)
class ReplicaState:
    """What a replica says of itself.

    problem: why nothing is read from it, however far it is; None when nothing speaks against it
    lag_seconds: age of its newest transaction; 0 when it has all, None when it has replayed none
    """

    problem: Failure | None
    lag_seconds: float | None


class _ReplicaUnusable(Exception):
    """The replica must not be read now."""


class _Read:
    """A call that reads from a replica, in any number of transactions.

    is_trial: the replica had failed before
    """

    def __init__(self, replica: "Replica", *, is_trial: bool) -> None:
        self.replica = replica
        self.is_trial = is_trial
        self.position: str | None = None
        self.failure: Failure | None = None


_current: ContextVar[_Read | None] = ContextVar("replica_read", default=None)


def engine_for(primary: sa.Engine) -> sa.Engine:
    """The engine of the next transaction: the replica's within `Replica.read`, otherwise the primary's."""
    read = _current.get()
    return read.replica.engine if read is not None and read.replica.primary is primary else primary


def begin(connection: sa.Connection) -> None:
    """Make a transaction that has begun at a replica read-only, once the replica has replayed enough.

    Does nothing at a primary.
    """
    read = _current.get()
    if read is not None and connection.engine is read.replica.engine:
        read.replica.begin(connection, read)


class Replica:
    """The replica of a primary, as this process knows it.

    primary_pool: engine of the primary whose connections are in autocommit
    away_because: failure of the last read; None when it was served
    """

    def __init__(self, primary: sa.Engine, primary_pool: sa.Engine, engine: sa.Engine) -> None:
        self.primary = primary
        self.engine = engine
        self.away_because: Failure | None = None
        self._primary_pool = primary_pool
        self._rests_until = 0.0
        self._lock = threading.Lock()
        event.listen(engine, "handle_error", self._note_error)

    def read(self, call: Callable[[], Result]) -> Result:
        """Call a function whose transactions read from the replica, and once more with the primary where that fails.

        call: a read that can be repeated; what it writes is refused by the replica, and written when it is repeated
        """
        if _current.get() is not None:
            return call()  # a part of another read
        read = self._start()
        if read is None:
            return self._read_from_primary(call)
        token = _current.set(read)
        try:
            result = call()
        except Exception:
            if read.failure is None:
                self._succeed(read)
                raise
        else:
            if read.failure is None:
                self._succeed(read)
                return result
        finally:
            _current.reset(token)
        self._fail(read.failure)
        return self._read_from_primary(call)

    def begin(self, connection: sa.Connection, read: _Read) -> None:
        """See `begin`. A snapshot that is older than its check would miss commits, so each statement has its own."""
        if "isolation_level" in connection.get_execution_options():
            raise self._refuse(read, Failure("snapshot", is_away=False))
        position = read.position = read.position or self._ask_primary(_PRIMARY_POSITION)
        if not connection.info.get("is_known"):
            problem = self._examine(connection, position).problem
            if problem is not None:
                raise self._refuse(read, problem)
            connection.info["is_known"] = True
        is_in_recovery, has_replayed, _ = _one(connection, _BEGIN, position)
        if not is_in_recovery:
            raise self._refuse(read, _PROMOTED)
        ends_at = time.monotonic() + WAIT_SECONDS
        while not has_replayed:
            if time.monotonic() > ends_at:
                raise self._refuse(read, Failure("behind"))
            time.sleep(_POLL_SECONDS)
            (has_replayed,) = _one(connection, _HAS_REPLAYED, position)

    def measure(self) -> ReplicaState:
        """What the replica says of itself now.

        raises: the errors of sqlalchemy.exc, of either server
        """
        position = self._ask_primary(_PRIMARY_POSITION)
        with self.engine.connect() as connection:
            return self._examine(connection, position)

    def _examine(self, connection: sa.Connection, position: str) -> ReplicaState:
        is_in_recovery, cluster, role, lag_seconds = _one(connection, _STATE, position)
        is_same_cluster = cluster == self._ask_primary(_CLUSTER)
        return ReplicaState(find_problem(role, is_in_recovery, is_same_cluster), lag_seconds)

    def _ask_primary(self, sql: str) -> Any:
        with self._primary_pool.connect() as connection:
            return connection.exec_driver_sql(sql).scalar_one()

    def _start(self) -> _Read | None:
        if self.away_because is None:
            return _Read(self, is_trial=False)
        with self._lock:
            if time.monotonic() < self._rests_until:
                return None
            self._rests_until = time.monotonic() + REST_SECONDS  # one request tries it, the others need not wait
        return _Read(self, is_trial=True)

    def _read_from_primary(self, call: Callable[[], Result]) -> Result:
        metrics.REPLICA_READS.labels("primary").inc()
        return call()

    def _succeed(self, read: _Read) -> None:
        if read.position is None:
            return  # it had no transaction
        metrics.REPLICA_READS.labels("replica").inc()
        if read.is_trial:
            self.away_because = None
            log.info("replica_back")

    def _fail(self, failure: Failure) -> None:
        metrics.REPLICA_FAILURES.labels(failure.kind).inc()
        if not failure.is_away:
            return
        with self._lock:
            is_news = self.away_because is None or self.away_because.kind != failure.kind
            self.away_because, self._rests_until = failure, time.monotonic() + REST_SECONDS
        self.engine.dispose()  # its address may lead to another server now
        if is_news:
            log.warning("replica_away", reason=failure.kind, detail=failure.detail)

    def _refuse(self, read: _Read, failure: Failure) -> Exception:
        read.failure = failure
        return _ReplicaUnusable(failure.kind)

    def _note_error(self, context: ExceptionContext) -> None:
        """Remember an error of the replica, also one that a view handles."""
        read = _current.get()
        if read is not None and read.replica is self:
            read.failure = read.failure or _failure_of(context)


def find_problem(role: str, is_in_recovery: bool, is_same_cluster: bool) -> Failure | None:
    """Why a server is not read, whose connections begin in a role."""
    if not is_in_recovery:
        return _PROMOTED
    if not is_same_cluster:
        return Failure("other cluster", "it is a replica of another PostgreSQL")
    if role != CONNECTION_SETTINGS["role"]:
        return Failure("other role", f"connections have the role {role}, not {CONNECTION_SETTINGS['role']}")
    return None


def _failure_of(context: ExceptionContext) -> Failure | None:
    """The failure that an error means; None for a statement that took too long, which it would at the primary too."""
    error = context.original_exception
    code = getattr(error, "pgcode", None)
    if code == _STATEMENT_TIMEOUT:
        return None
    if code in (_RECOVERY_CONFLICT, _READ_ONLY):
        return Failure("conflict" if code == _RECOVERY_CONFLICT else "write", is_away=False)
    detail = (str(error).strip().splitlines() or [""])[0]
    is_away = context.connection is None or context.is_disconnect
    return Failure("unreachable" if is_away else "error", detail, is_away=is_away)


def _one(connection: sa.Connection, sql: str, *values: str) -> Sequence[Any]:
    return connection.exec_driver_sql(sql, values).one()
