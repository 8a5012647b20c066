"""The database engine: models, sessions that are bound to a scope, and batches of statements."""

import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg2
import sqlalchemy as sa
from flask import current_app, g, has_app_context
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as FlaskSession
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import PoolProxiedConnection

from saas_api.core import tracing
from saas_api.core.db import prepared, replica, roles
from saas_api.core.db.prepared import Statement
from saas_api.core.db.replica import Replica
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)
Result = TypeVar("Result")

BIND_SCOPE_SQL = "SELECT set_config('role', %s, true), set_config('app.organization_id', %s, true)"
_READ_ONLY = "set_config('transaction_read_only', 'on', true)"
_SEES_ABSENT = "set_config('app.sees_absent', 'on', true)"
_PLAN_LOST = ("26000", "0A000")
"""SQLSTATE of a prepared statement that the connection does not have, or whose result a migration has changed."""
_NO_CONNECTION = ("53300", "57P01", "57P02", "57P03")
"""SQLSTATE of a server that has too many connections, shuts down or starts."""

_PARTITION = re.compile(r"_(y\d{4}m\d{2}|default)$")
"""What the name of a partition adds to that of its table, as `create_partition` of the database writes it."""


@dataclass(frozen=True)
class TransactionScope:
    """The database role of a transaction and, for `saas_tenant`, its organization.

    cell: where it runs, as of `cells.current`
    sees_absent: it also sees the rows that are left here of organizations in other cells
    """

    role: str
    organization_id: str = ""
    is_read_only: bool = False
    cell: str | None = None
    sees_absent: bool = False


class Model(DeclarativeBase):
    """Base of every model. Migrations create the schema."""


class ScopedSession(FlaskSession):
    """A session that binds each transaction to its scope before the first statement."""

    def get_bind(self, *arguments: Any, **options: Any) -> sa.Engine | sa.Connection:
        """The engine of the next statement: that of the scope's cell; the replica's within `read_from_replica`."""
        scope = _find_scope(self)
        if scope is not None and scope.cell is not None:
            return engine_of(scope.cell)
        bind = super().get_bind(*arguments, **options)
        return replica.engine_for(bind) if isinstance(bind, sa.Engine) else bind


db = SQLAlchemy(
    model_class=Model,
    session_options={"class_": ScopedSession, "expire_on_commit": False},
)


@event.listens_for(ScopedSession, "after_begin")
def _bind(session: Session, transaction: Any, connection: sa.Connection) -> None:
    if transaction.nested:
        return
    replica.begin(connection)
    scope = _find_scope(session)
    if scope:
        statement = f"{BIND_SCOPE_SQL}, {_READ_ONLY}" if scope.is_read_only else BIND_SCOPE_SQL
        if scope.sees_absent:
            statement = f"{statement}, {_SEES_ABSENT}"
        connection.exec_driver_sql(statement, (scope.role, scope.organization_id))


def _find_scope(session: Session) -> TransactionScope | None:
    return session.info.get("scope") or (g.get("scope") if has_app_context() else None)


@event.listens_for(ScopedSession, "after_commit")
def _run_after_commit(session: Session) -> None:
    for call in session.info.pop("after_commit", []):
        try:
            call()
        except Exception:
            log.warning("after_commit_failed", exc_info=True)


@event.listens_for(ScopedSession, "after_rollback")
def _discard_after_commit(session: Session) -> None:
    session.info.pop("after_commit", None)


def session() -> Session:
    """Return the session of this request."""
    return db.session()


def is_session_open() -> bool:
    """Whether this request has used its session."""
    return bool(db.session.registry.has())


def after_commit(session: Session, call: Callable[[], object]) -> None:
    """Run a call after the session commits. A rollback drops the call; its failure is logged and not raised."""
    session.info.setdefault("after_commit", []).append(call)


def engine_options(process: str = "", *, has_pooler: bool = False) -> dict[str, Any]:
    """Keyword arguments of the engine, with time-outs in the units of libpq and PostgreSQL.

    A connection starts as `saas_tenant` without an organization, so a transaction without a scope sees no rows.
    The pool holds two connections for each thread, because a request can open a system session of its own.
    process: such as "web 1.0.2", for the application_name of its connections
    has_pooler: connections have these settings from `roles.pooler_statements`, because a pooler passes on none
    """
    settings = " ".join(f"-c {name}={value}" for name, value in roles.CONNECTION_SETTINGS.items())
    return {
        "pool_size": 8,
        "max_overflow": 8,
        "pool_recycle": 1800,
        "pool_pre_ping": True,
        "hide_parameters": True,
        "connect_args": {
            "connect_timeout": 2,
            "tcp_user_timeout": 5000,
            **({} if has_pooler else {"options": settings}),
            "application_name": f"saas-api {process}".strip(),
        },
    }


def read_from_replica(call: Callable[[], Result]) -> Result:
    """Call a function whose transactions read from the replica where there is one, and repeat it where that fails.

    Its transactions see everything that was committed before the call.
    call: a read that can be repeated
    """
    found = find_replica()
    return call() if found is None else found.read(call)


def find_replica() -> Replica | None:
    """The replica of DATABASE_REPLICA_URL; None without one."""
    url = setting("DATABASE_REPLICA_URL")
    return _replica_of(db.engine, url) if url else None


@functools.cache
def _replica_of(primary: sa.Engine, url: str) -> Replica:
    options = {**current_app.config["SQLALCHEMY_ENGINE_OPTIONS"], "pool_pre_ping": False}
    return Replica(primary, use_autocommit_pool(primary), sa.create_engine(url, **options))


def execute_batch(statements: Sequence[Statement]) -> Sequence[Any]:
    """Send several statements as one round trip, which PostgreSQL runs as one transaction.

    The batch runs at least once: it is sent again when the connection breaks, also after a commit whose answer was
    lost. So the statements must be idempotent, such as an INSERT under an id of the caller.
    statements: constants of the code, which each connection prepares once
    returns: the rows of the last statement, as tuples
    raises: IntegrityError and the other errors of sqlalchemy.exc; nothing was written then
    """
    try:
        return send_batch(statements)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return send_batch(statements)


def send_batch(statements: Sequence[Statement]) -> Sequence[Any]:
    """Send a batch once, without the layers of SQLAlchemy above its pool, which cost more than the sending.

    raises: as `execute_batch`; where the error has `connection_invalidated`, the batch may have been committed
    """
    batch = (prepared.join_batch if setting("DATABASE_POOLER") != "none" else prepared.prepare_batch)(statements)
    pool = use_autocommit_pool(current_engine())
    connection: PoolProxiedConnection | None = None
    try:
        connection = pool.raw_connection()
        driver_connection: Any = connection.driver_connection
        batch.prepare(driver_connection, connection.info.setdefault("prepared_names", set()))
        with tracing.span("postgresql batch", "client"), driver_connection.cursor() as cursor:
            cursor.execute(batch.sql, batch.values)
            return cursor.fetchall() if cursor.description else []
    except psycopg2.Error as error:
        raise _translate_error(error, pool, connection, batch.sql) from error
    finally:
        if connection is not None:
            connection.close()


def _translate_error(
    error: psycopg2.Error, pool: sa.Engine, connection: PoolProxiedConnection | None, sql: str
) -> DBAPIError:
    """The error that SQLAlchemy raises for one of psycopg2. Discards connections that cannot be used any longer."""
    dbapi_connection = connection.dbapi_connection if connection else None
    is_unusable = error.pgcode in _PLAN_LOST or pool.dialect.is_disconnect(error, dbapi_connection, None)
    if is_unusable and connection:
        # As SQLAlchemy does: what happened to one connection has mostly happened to all that are as old. If the pool
        # were disposed of, threads that wait for one of its connections would wait in vain.
        pool.pool._invalidate(connection, error)  # noqa: SLF001 - there is no public name for it
    options: dict[str, Any] = {"connection_invalidated": is_unusable, "dialect": pool.dialect, "hide_parameters": True}
    translated: DBAPIError = DBAPIError.instance(sql, None, error, psycopg2.Error, **options)
    return _mark_cell(translated, pool, is_connected=connection is not None)


def engine_of(cell: str | None) -> sa.Engine:
    """The engine of a cell; None for the home cell.

    raises: KeyError for a cell that CELLS does not name
    """
    return db.engines[cell]


def current_engine() -> sa.Engine:
    """The engine of the current cell, see `cells.current`."""
    return db.engines[g.get("cell")]


def failed_cell(error: Exception) -> str | None:
    """The cell whose database raised an error; None for the home cell."""
    return getattr(error, "cell", None)


def is_unavailable(error: Exception) -> bool:
    """Whether a database accepted or kept no connection. Other errors concern the statement, such as its time-out."""
    if not isinstance(error, DBAPIError):
        return False
    sqlstate = getattr(error.orig, "pgcode", None)
    refused = sqlstate is None or sqlstate[:2] == "08" or sqlstate in _NO_CONNECTION
    return error.connection_invalidated or (isinstance(error, OperationalError) and refused)


@event.listens_for(sa.Engine, "handle_error")
def _name_cell(context: ExceptionContext) -> None:
    if context.engine is not None and isinstance(context.sqlalchemy_exception, DBAPIError):
        _mark_cell(context.sqlalchemy_exception, context.engine, is_connected=context.connection is not None)


def _mark_cell(error: DBAPIError, engine: sa.Engine, *, is_connected: bool) -> DBAPIError:
    if has_app_context() and current_app.config.get("CELLS"):
        cell = next((name for name, other in db.engines.items() if other.url == engine.url), None)
        error.cell = cell  # type: ignore[attr-defined]  # SQLAlchemy's errors have no place for it
        if cell is not None and not is_connected:
            _failed_at[cell] = time.monotonic()
    return error


_failed_at: dict[str, float] = {}


def seconds_since_failure(cell: str | None) -> float:
    """Seconds since a connection to a cell other than home could not be opened; infinite when none failed."""
    return time.monotonic() - _failed_at[cell] if cell in _failed_at else math.inf


@functools.cache
def use_autocommit_pool(engine: sa.Engine) -> sa.Engine:
    """Return an engine whose connections stay in autocommit, which saves the round trip that resets a shared one.

    Connections are not checked before use either: `execute_batch` retries instead.
    """
    options = {**current_app.config["SQLALCHEMY_ENGINE_OPTIONS"], "pool_pre_ping": False, "pool_use_lifo": True}
    return sa.create_engine(engine.url, isolation_level="AUTOCOMMIT", **options)


def dispose_connections(*, close: bool = True) -> None:
    """Discard all pooled connections.

    close: False in a forked process, where the connections belong to the parent
    """
    for engine in db.engines.values():
        engine.dispose(close=close)
        use_autocommit_pool(engine).dispose(close=close)
    if found := find_replica():
        found.engine.dispose(close=close)


def violated_constraint(error: DBAPIError) -> str | None:
    """Return the name of the violated constraint, or `table.column` for a violated NOT NULL.

    A constraint of a partition has the name that it has in the partitioned table.
    """
    diagnostics = getattr(error.orig, "diag", None)
    if diagnostics is None:
        return None
    table = diagnostics.table_name or ""
    own_table = _PARTITION.sub("", table)
    if diagnostics.constraint_name:
        return str(diagnostics.constraint_name).replace(table, own_table, 1)
    return f"{own_table}.{diagnostics.column_name}" if diagnostics.column_name else None
