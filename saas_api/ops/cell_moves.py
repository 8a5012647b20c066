"""Moving an organization from one cell to another.

The directory marks the organization, and its requests are refused from then on. Its rows become hidden in both cells,
so nothing else reads or writes them. They are copied, compared and deleted where they were; then the directory names
the new cell, and they are visible there. Jobs of the old cell pause for as long as those that run take to end.

A killed move leaves the organization hidden and its requests refused; the same command goes on. Until the new cell has
committed, everything is in the old one. Afterwards the copy is made again, unless the old cell has deleted its rows: it
says so in the transaction that deletes them.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from psycopg2.errors import LockNotAvailable
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from saas_api.accounts import cell_copies, organizations
from saas_api.billing import catalogue_copies
from saas_api.core.db import cells, presence, roles, tenancy
from saas_api.core.faults import fault_point
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.usage import rollups

log = get_logger(__name__)

MAX_WAIT_SECONDS = 120
"""For transactions and jobs that run when a move begins."""
_LOCK_SECONDS = 1
"""What else wants a lock waits behind a move for no longer: the move lets go, and tries again as long as it may."""
_SPOOL_BYTES = 16 * 1024 * 1024
_DERIVED = ("usage_events_ahead",)
"""Written from the ledger in the new cell, whose transaction ids and watermark are its own, like most rollups."""
_KEPT_AT_HOME = ("memberships",)
"""Home has them of every organization, see `accounts.cell_copies`."""


class CannotMove(Exception):
    """The organization cannot be moved now; nothing has changed."""


class CopyDiffers(Exception):
    """The rows in the new cell are not those of the old one; nothing has changed."""


@dataclass(frozen=True)
class MoveState:
    """Where the directory says that an organization is.

    moving_to: None unless it is being moved
    """

    cell: str
    moving_to: str | None


@dataclass(frozen=True)
class _Table:
    """A table of which rows move.

    columns: those that are copied: neither generated nor of this database alone
    is_append_only: its rows stay where they were written; the new cell appends copies, such as to its own audit chain
    """

    name: str
    organization_column: str
    is_append_only: bool
    columns: Sequence[str]


_FIND_STATE = sa.text("SELECT cell, moving_to FROM organization_cells WHERE id = :id FOR UPDATE")
_LIST_MOVING = sa.text("SELECT id, cell, moving_to FROM organization_cells WHERE moving_to IS NOT NULL ORDER BY id")
_MARK = sa.text("""INSERT INTO organization_cells (id, cell, moving_to) VALUES (:id, :cell, :moving_to)
  ON CONFLICT (id) DO UPDATE SET cell = excluded.cell, moving_to = excluded.moving_to""")
_TRY_LOCK = sa.text("SELECT pg_try_advisory_lock(hashtextextended('cells.move:' || :id, 0))")
_HIDE = sa.text("INSERT INTO absent_organizations (id) VALUES (:id) ON CONFLICT (id) DO NOTHING")
_SHOW = sa.text("DELETE FROM absent_organizations WHERE id = :id")
_FIRST_MONTH = sa.text("""SELECT least(date_trunc('month', created_at)::date,
  (SELECT min(month) FROM billing_periods WHERE organization_id = :id)) FROM organizations WHERE id = :id""")
_ARCHIVES = sa.text("""SELECT table_name, month FROM archived_partitions
  WHERE month >= :since AND table_name <> 'audit_events'""")  # whose rows stay where they were written
_HAS_LEFT = sa.text("SELECT has_left FROM absent_organizations WHERE id = :id")
_LEAVE = sa.text("UPDATE absent_organizations SET has_left = true WHERE id = :id")
_FREE_EXTERNAL_ID = sa.text("UPDATE organizations SET external_id = NULL WHERE id = :id")
_ARE_OTHERS_RUNNING = sa.text("""SELECT EXISTS (SELECT FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND (backend_xid::text::bigint < :xid OR backend_xmin::text::bigint <= :xid))""")
_CURRENT_XID = sa.text("SELECT pg_current_xact_id()::xid::text::bigint")
_COLUMNS = sa.text("""SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = CAST(:table AS regclass) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND coalesce(pg_get_expr(d.adbin, d.adrelid), '') NOT LIKE '%pg_current_xact_id%'""")
_SEQUENCES = sa.text("""SELECT quote_ident(a.attname) AS column, pg_get_serial_sequence(:table, a.attname) AS sequence
FROM pg_attribute a WHERE a.attrelid = CAST(:table AS regclass) AND a.attidentity <> ''""")
_SHARED_KEYS = sa.text("""
SELECT c.conrelid::regclass::text AS name, c.confrelid::regclass::text AS shared, c.conname,
  (SELECT string_agg(format('r.%I = s.%I', a.attname, f.attname), ' AND ')
    FROM unnest(c.conkey, c.confkey) k (own, other) JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
    JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = k.other) AS condition,
  (SELECT string_agg(format('r.%I IS NOT NULL', a.attname), ' AND ') FROM unnest(c.conkey) k (own)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own) AS given
FROM pg_constraint c WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace AND c.conparentid = 0
  AND c.conrelid::regclass::text = ANY (:tables) AND NOT c.confrelid::regclass::text = ANY (:tables)""")
# Numbers of invoices and credit notes: those of another cell that arrive or leave again, and own ones that leave or
# come back. `:own_leave` tells what a number without a mark is.
_MARK_NUMBERS = sa.text("""
WITH moving AS (
  SELECT series, serial FROM invoices WHERE organization_id = :id AND serial IS NOT NULL
  UNION ALL SELECT series, serial FROM credit_notes WHERE organization_id = :id),
marked AS (DELETE FROM moved_numbers m USING moving n
  WHERE (m.series, m.serial) = (n.series, n.serial) AND m.has_left <> :own_leave RETURNING m.series, m.serial)
INSERT INTO moved_numbers SELECT series, serial, :own_leave FROM moving
 WHERE (series, serial) NOT IN (SELECT series, serial FROM marked)""")


def find_state(organization_id: UUID) -> MoveState:
    """Where an organization is.

    raises: NotFound
    """
    with tenancy.system_session("ops.moves") as session:
        organizations.get_organization(session, organization_id)
        row = session.execute(_FIND_STATE, {"id": organization_id}).first()
        return MoveState(*row) if row else MoveState(cells.HOME, None)


def list_moving() -> Sequence[tuple[UUID, MoveState]]:
    """Organizations that are being moved, or whose move was interrupted."""
    with tenancy.system_session("ops.moves") as session:
        return [(row.id, MoveState(row.cell, row.moving_to)) for row in session.execute(_LIST_MOVING)]


def move_organization(organization_id: UUID, target: str) -> Mapping[str, int]:
    """Move an organization to a cell, or go on with a move that was interrupted.

    target: name of the cell, `cells.HOME` for home
    returns: number of copied rows by table; empty when they were copied before
    raises: NotFound; CannotMove; CopyDiffers; OperationalError when a cell does not respond, and the move goes on later
    """
    with _connect(cells.HOME) as guard:
        if not guard.scalar(_TRY_LOCK, {"id": str(organization_id)}):
            raise CannotMove("another process is moving it")
        guard.commit()
        state = _mark(organization_id, target)
        return {} if state is None else _move(organization_id, state, target)


def _move(organization_id: UUID, state: MoveState, target: str) -> Mapping[str, int]:
    fault_point("cells.after_mark")
    counts: Mapping[str, int] = {}
    source = state.cell
    if source != target:
        time.sleep(cells.CACHE_SECONDS * 1.1 / setting("TIME_SCALE"))  # until every process has forgotten the cell
        counts = _carry(organization_id, source, target)
        _write_state(organization_id, target, target)
        fault_point("cells.after_flip")
    _settle(organization_id, target)
    log.info("organization_moved", organization=str(organization_id), source=source, target=target)
    return counts


def _mark(organization_id: UUID, target: str) -> MoveState | None:
    """Let the directory refuse the requests of an organization; returns its state before, None if it is there already.

    raises: NotFound, CannotMove
    """
    if target not in map(cells.display_name, cells.names()):
        raise CannotMove(f"CELLS names no cell {target}")
    state = find_state(organization_id)
    for name in {state.cell, target}:  # before anything is refused
        with _connect(name) as connection:
            _require_protection(name, connection)
    if state.moving_to not in (None, target):
        raise CannotMove(f"it is being moved to {state.moving_to}: go on with that first")
    if state == MoveState(target, None):
        return None
    _write_state(organization_id, state.cell, target)
    return state


def _require_protection(name: str, connection: sa.Connection) -> None:
    """Check that a cell hides absent organizations in every table; raises CannotMove."""
    tables = ", ".join(table.name for table in presence.find_unprotected(connection))
    if tables:
        raise CannotMove(f"{name} does not hide it in {tables}: run flask db upgrade where CELLS is set")


def _write_state(organization_id: UUID, cell: str, moving_to: str | None) -> None:
    with tenancy.system_session("ops.moves") as session:
        session.execute(_MARK, {"id": organization_id, "cell": cell, "moving_to": moving_to})


def _settle(organization_id: UUID, target: str) -> None:
    """Show the rows in the new cell, whose jobs go on with them, and let the directory accept requests.

    Rollups are made in the same transaction: jobs that found others would count usage twice or not at all.
    """
    with _connect(target) as connection, Session(connection) as session:
        rollups.adopt(session, organization_id)
        session.execute(_SHOW, {"id": organization_id})
        session.commit()
    fault_point("cells.after_show")
    _write_state(organization_id, target, None)
    fault_point("cells.after_move")


def _carry(organization_id: UUID, source: str, target: str) -> Mapping[str, int]:
    """Copy the rows to the new cell and delete them in the old one."""
    with _connect(source) as old, _connect(target) as new:
        if old.scalar(_HAS_LEFT, {"id": organization_id}):
            return {}  # killed before the directory learned of it
        old.rollback()
        try:
            _hide(organization_id, old, new)
            fault_point("cells.after_hide")
            _raise_sequences(organization_id, old, new)
            _copy_shared(organization_id, target, old)
            counts = _copy(organization_id, old, new)
            _delete(organization_id, old, is_home=source == cells.HOME)
            fault_point("cells.before_target_commit")
        except Exception:
            old.rollback()
            new.rollback()
            _give_up(organization_id, source, old)
            raise
        new.commit()
        fault_point("cells.after_target_commit")
        old.commit()
        fault_point("cells.after_source_commit")
        return counts


def _give_up(organization_id: UUID, source: str, old: sa.Connection) -> None:
    """Let the organization go on where it was; what a killed move may have left in the new cell stays hidden."""
    old.execute(_SHOW, {"id": organization_id})
    old.commit()
    _write_state(organization_id, source, None)


def _hide(organization_id: UUID, old: sa.Connection, new: sa.Connection) -> None:
    """Hide the rows in both cells, and wait for the transactions that may still write some.

    raises: CannotMove when jobs or transactions do not end
    """
    values = {"id": organization_id}
    new.execute(_HIDE, values)
    new.commit()
    _lock(old, f"SELECT pg_advisory_xact_lock({cells.JOBS_LOCK_KEY})", "jobs")
    old.execute(_HIDE, values)
    xid = old.scalar(_CURRENT_XID)
    old.commit()
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while old.scalar(_ARE_OTHERS_RUNNING, {"xid": xid}):
        old.rollback()
        if time.monotonic() > deadline:
            raise CannotMove(f"transactions have not ended within {MAX_WAIT_SECONDS} s")
        time.sleep(0.05)
    old.rollback()


def _lock(connection: sa.Connection, statement: str, holders: str) -> None:
    """Take a lock in a new transaction, when nobody has held it for a moment.

    holders: who may hold it, for the message
    raises: CannotMove when they do not end
    """
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    while True:
        try:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
            connection.exec_driver_sql(statement)
        except sa.exc.OperationalError as error:
            connection.rollback()
            if not isinstance(error.orig, LockNotAvailable):
                raise
            if time.monotonic() > deadline:
                raise CannotMove(f"{holders} have not ended within {MAX_WAIT_SECONDS} s") from error
            time.sleep(_LOCK_SECONDS)
        else:
            return


def _raise_sequences(organization_id: UUID, old: sa.Connection, new: sa.Connection) -> None:
    """Let the new cell give identities above those that arrive, before they do.

    The table is locked for that moment, because a writer could pass the new value in between and be set back to it.
    """
    one = {"id": organization_id}
    for table in _list_tables(old):
        sequences = () if table.is_append_only else old.execute(_SEQUENCES, {"table": table.name}).all()
        for column, sequence in sequences:
            rows = f"{table.name} WHERE {table.organization_column} = :id"
            values = {"highest": old.scalar(sa.text(f"SELECT max({column}) FROM {rows}"), one)}
            is_lower = "(last_value, is_called) < (:highest, true)"
            if new.scalar(sa.text(f"SELECT {is_lower} FROM {sequence}"), values):
                new.rollback()
                _lock(new, f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE", f"writers of {table.name}")
                new.execute(sa.text(f"SELECT setval('{sequence}', :highest) FROM {sequence} WHERE {is_lower}"), values)
                new.commit()
    old.rollback()
    new.rollback()


def _copy_shared(organization_id: UUID, target: str, old: sa.Connection) -> None:
    """Copy what rows refer to and home alone writes: users and the catalogue."""
    if target == cells.HOME:
        return
    tables = [table.name for table in _list_tables(old)]
    user_ids: set[UUID] = set()
    for key in old.execute(_SHARED_KEYS, {"tables": tables}):
        if key.shared == "users":
            table = f"{key.name} r JOIN users s ON {key.condition}"
            used = sa.text(f"SELECT s.id FROM {table} WHERE r.organization_id = :id")
            user_ids.update(old.scalars(used, {"id": organization_id}))
    old.rollback()
    cell_copies.copy_users(target, user_ids)
    catalogue_copies.copy_catalogue(target)


def _copy(organization_id: UUID, old: sa.Connection, new: sa.Connection) -> Mapping[str, int]:
    """Copy the rows in one transaction of each cell, which the caller ends.

    returns: number of rows by table
    raises: CopyDiffers; CannotMove when another process has moved them
    """
    old.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    if old.scalar(_HAS_LEFT, {"id": organization_id}):
        raise CannotMove("another process has moved it")
    _require_same_archives(organization_id, old, new)
    for connection in (old, new):
        connection.exec_driver_sql("SET LOCAL timezone = 'UTC'; SET LOCAL session_replication_role = 'replica'")
    _clear(organization_id, new)
    counts: dict[str, int] = {}
    for table in _list_tables(old):
        if table.is_append_only:
            _append_rows(organization_id, table, old, new)
        elif table.name not in _DERIVED:
            _copy_rows(organization_id, table, old, new)
            counts[table.name], digest = _digest(old, table, organization_id)
            if (counts[table.name], digest) != _digest(new, table, organization_id):
                raise CopyDiffers(f"table {table.name}")
    new.execute(_MARK_NUMBERS, {"id": organization_id, "own_leave": False})
    _require_shared_rows(organization_id, new)
    return counts


def _require_same_archives(organization_id: UUID, old: sa.Connection, new: sa.Connection) -> None:
    """Check that both cells have archived the same months since the organization began.

    raises: CannotMove
    """
    since = old.scalar(_FIRST_MONTH, {"id": organization_id})
    archived = [{tuple(row) for row in one.execute(_ARCHIVES, {"since": since})} for one in (old, new)]
    for table, month in archived[0] ^ archived[1]:
        raise CannotMove(f"{table} of {month:%Y-%m} is archived in one of the cells only")


def _clear(organization_id: UUID, new: sa.Connection) -> None:
    """Delete what an interrupted move has left in the new cell, and the copies that home has of every organization."""
    new.execute(_MARK_NUMBERS, {"id": organization_id, "own_leave": True})
    for table in _list_tables(new):
        if not table.is_append_only:
            _delete_rows(new, table, organization_id)


def _delete(organization_id: UUID, old: sa.Connection, *, is_home: bool) -> None:
    old.execute(_MARK_NUMBERS, {"id": organization_id, "own_leave": True})
    kept = ("organizations", *(_KEPT_AT_HOME if is_home else ()))
    for table in _list_tables(old):
        if table.name not in kept and not table.is_append_only:
            _delete_rows(old, table, organization_id)
    old.execute(_FREE_EXTERNAL_ID, {"id": organization_id})  # another organization may have it later
    old.execute(_LEAVE, {"id": organization_id})


def _delete_rows(connection: sa.Connection, table: _Table, organization_id: UUID) -> None:
    statement = f"DELETE FROM {table.name} WHERE {table.organization_column} = :id"
    connection.execute(sa.text(statement), {"id": organization_id})


def _digest(connection: sa.Connection, table: _Table, organization_id: UUID) -> tuple[int, int]:
    """Number of rows and a sum of their contents, in whatever order."""
    row = f"ROW({', '.join(table.columns)})::text"
    statement = sa.text(f"""SELECT count(*), coalesce(sum(hashtextextended({row}, 0)), 0)
      FROM {table.name} WHERE {table.organization_column} = :id""")
    count, total = connection.execute(statement, {"id": organization_id}).one()
    return int(count), int(total)


def _copy_rows(organization_id: UUID, table: _Table, old: sa.Connection, new: sa.Connection) -> None:
    columns = ", ".join(table.columns)
    chosen = f"SELECT {columns} FROM {table.name} WHERE {table.organization_column} = '{organization_id}'"
    _pipe(f"COPY ({chosen}) TO STDOUT", f"COPY {table.name} ({columns}) FROM STDIN", old, new)


def _append_rows(organization_id: UUID, table: _Table, old: sa.Connection, new: sa.Connection) -> None:
    """Append the rows that the new cell has not, in their order, with ids, months and triggers of its own."""
    columns = ", ".join(name for name in table.columns if name not in ("id", "month"))
    new.exec_driver_sql(f"CREATE TEMPORARY TABLE arrived ON COMMIT DROP AS SELECT * FROM {table.name} WITH NO DATA")
    chosen = f"SELECT id, {columns} FROM {table.name} WHERE organization_id = '{organization_id}'"
    _pipe(f"COPY ({chosen}) TO STDOUT", f"COPY arrived (id, {columns}) FROM STDIN", old, new)
    known = f"SELECT FROM {table.name} k WHERE k.organization_id = a.organization_id AND k.at = a.at"
    same = " AND ".join(f"k.{name} IS NOT DISTINCT FROM a.{name}" for name in columns.split(", "))
    new.exec_driver_sql("SET LOCAL session_replication_role = 'origin'")
    new.exec_driver_sql(
        f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM arrived a "
        f"WHERE NOT EXISTS ({known} AND {same}) ORDER BY id"
    )
    new.exec_driver_sql("SET LOCAL session_replication_role = 'replica'")


def _pipe(read: str, write: str, old: sa.Connection, new: sa.Connection) -> None:
    reader: Any = old.connection.driver_connection
    writer: Any = new.connection.driver_connection
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as rows, reader.cursor() as source, writer.cursor() as target:
        source.copy_expert(read, rows)
        rows.seek(0)
        target.copy_expert(write, rows)


def _require_shared_rows(organization_id: UUID, new: sa.Connection) -> None:
    """Check the foreign keys to tables that are not moved: no trigger has.

    raises: CopyDiffers
    """
    tables = [table.name for table in _list_tables(new)]
    for key in new.execute(_SHARED_KEYS, {"tables": tables}).all():
        missing = sa.text(f"""SELECT EXISTS (SELECT FROM {key.name} r WHERE r.organization_id = :id AND {key.given}
          AND NOT EXISTS (SELECT FROM {key.shared} s WHERE {key.condition}))""")
        if new.scalar(missing, {"id": organization_id}):
            raise CopyDiffers(f"{key.conname}: the new cell has not the rows of {key.shared}")


def _list_tables(connection: sa.Connection) -> Sequence[_Table]:
    found = connection.execute(sa.text(presence.TENANT_TABLES)).all()
    return [
        _Table(row.name, row.organization_column, row.is_append_only, connection.scalar(_COLUMNS, {"table": row.name}))
        for row in found
    ]


@contextlib.contextmanager
def _connect(name: str) -> Iterator[sa.Connection]:
    """A connection to a cell that sees every row and fires no trigger where it asks for that."""
    url = setting("DATABASE_OWNER_URL") if name == cells.HOME else setting("CELLS_OWNER")[name]
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"application_name": "saas-api cells"})
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET ROLE {roles.MOVER}")
        connection.commit()
        yield connection
