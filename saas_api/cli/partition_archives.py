"""Archives of partitions: a month of a table as a Parquet file with a manifest, verified before its rows are dropped.

The rows, the note that they are archived and the partition change in one transaction, after the files are whole on the
disk. A run that is killed before leaves the partition as it was; the next one writes the files again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from psycopg2.errors import LockNotAvailable
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from saas_api.accounts import audit_chain
from saas_api.billing import usage_archives
from saas_api.cli import backups
from saas_api.cli.errors import CommandError
from saas_api.cli.parquet import ParquetFiles
from saas_api.core import clock
from saas_api.core.db import roles, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.faults import fault_point
from saas_api.messages import past_messages

CHECKS: dict[str, Callable[[SystemSession, date, datetime], list[str]]] = {
    "usage_events": usage_archives.find_obstacles,
    "audit_events": audit_chain.find_obstacles,
    "past_messages": past_messages.find_obstacles,
}
"""By table, what says why a month cannot be archived; a table without may be archived when its month is over."""
RECORDS: dict[str, Callable[[sa.Connection], None]] = {"audit_events": audit_chain.record_archive}
"""By table, what is written in the transaction that drops a partition."""
_SORTED_BY = {
    "usage_events": "organization_id, recorded_xid, id",
    "request_counts": "organization_id, bucket_at, api_key_id",
    "audit_events": "id",
    "past_messages": "organization_id, accepted_at, id",
}
_SEES_EVERY_ROW = "saas_system"
_CLUSTER = "SELECT system_identifier FROM pg_control_system()"
_LOCK_SECONDS, _PAUSE_SECONDS, _LOCK_TRIES = 1, 2, 60
_COLUMNS = sa.text("""
SELECT column_name, udt_name, numeric_precision, numeric_scale FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = :table ORDER BY ordinal_position""")


@dataclass(frozen=True)
class ArchiveManifest:
    """What an archived partition was.

    month: its first day
    migration: revision of the tables
    columns: their types in PostgreSQL by name, in order
    bytes, sha256: of the Parquet file
    created_at: RFC 3339
    cluster: system identifier of the PostgreSQL cluster that the rows are of
    """

    table: str
    month: str
    migration: str
    columns: dict[str, str]
    rows: int
    bytes: int
    sha256: str
    created_at: str
    cluster: int


@dataclass(frozen=True)
class _Files:
    """Paths of an archive: the Parquet file, its manifest, and what is written before they are whole."""

    parquet: Path
    manifest: Path

    @classmethod
    def of(cls, directory: Path, table: str, month: date) -> "_Files":
        name = f"{table}-{month:%Y-%m}"
        return cls(directory / f"{name}.parquet", directory / f"{name}.json")

    @property
    def draft(self) -> Path:
        return self.parquet.with_suffix(".parquet.partial")

    @property
    def rows(self) -> Path:
        return self.parquet.with_suffix(".csv.partial")


class TableInUse(CommandError):
    """A lock was not free."""


def find_obstacles(session: SystemSession, table: str, month: date) -> list[str]:
    """Why a month of a table cannot be archived, a sentence each."""
    if month >= clock.now().date().replace(day=1):
        return ["The month is not over."]
    tenancy.allow_long_statements(session)
    return CHECKS[table](session, month, clock.now()) if table in CHECKS else []


def archive_partition(table: str, partition: str, month: date, directory: Path) -> ArchiveManifest:
    """Write a partition to files, read them back, and drop it. Calls are served meanwhile.

    month: its first day, of which `find_obstacles` says nothing
    raises: CommandError
    """
    arrow = ParquetFiles()
    files = _Files.of(directory, table, month)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _owner_transaction() as connection:
            _require_own_files(connection, files)
            manifest = _write_files(connection, arrow, files, table, partition, month)
        fault_point("partitions.written")
        _drop_when_free(manifest, partition)
    except OSError as error:
        raise CommandError(f"{error.filename or directory} cannot be written: {error.strerror}.") from None
    finally:
        for draft in (files.draft, files.rows):
            draft.unlink(missing_ok=True)
    return manifest


def restore_partition(file: Path) -> ArchiveManifest:
    """Put an archived partition back from its Parquet file and the manifest beside it.

    raises: CommandError
    """
    arrow = ParquetFiles()
    manifest = backups.read_manifest(ArchiveManifest, file.with_suffix(".json"), file, "flask partitions archive")
    rows = file.with_suffix(".csv.partial")
    try:
        arrow.write_csv(file, rows)
        with _owner_transaction() as connection:
            _load(connection, manifest, rows)
    except OSError as error:
        raise CommandError(f"{error.filename or file} cannot be written: {error.strerror}.") from None
    finally:
        rows.unlink(missing_ok=True)
    return manifest


def _require_own_files(connection: sa.Connection, files: _Files) -> None:
    """Refuse to replace the archive of another cluster, whose rows may be nowhere else.

    raises: CommandError
    """
    if not files.manifest.exists():  # it is written last, so a Parquet file without it is of a command that was killed
        return
    cluster = json.loads(files.manifest.read_text(encoding="utf-8")).get("cluster")
    if cluster != connection.exec_driver_sql(_CLUSTER).scalar_one():
        raise CommandError(f"{files.parquet} is of another database; name another directory.")


def _write_files(
    connection: sa.Connection, arrow: ParquetFiles, files: _Files, table: str, partition: str, month: date
) -> ArchiveManifest:
    columns = {row.column_name: row for row in connection.execute(_COLUMNS, {"table": table})}
    expressions = ", ".join(_csv_expression(row) for row in columns.values())
    order = f" ORDER BY {_SORTED_BY[table]}" if table in _SORTED_BY else ""
    _as_system(connection)
    with files.rows.open("wb") as stream:
        query = f"COPY (SELECT {expressions} FROM {roles.quote(partition)}{order}) TO STDOUT (FORMAT csv)"
        _cursor(connection).copy_expert(query, stream)
    rows = arrow.write_parquet(files.rows, files.draft, [*columns.values()])
    _sync(files.draft)
    arrow.verify(files.rows, files.draft, [*columns.values()])
    manifest = ArchiveManifest(
        table=table,
        month=month.isoformat(),
        migration=backups.get_migration(connection),
        columns={name: row.udt_name for name, row in columns.items()},
        rows=rows,
        bytes=files.draft.stat().st_size,
        sha256=backups.digest_file(files.draft),
        created_at=clock.format_rfc3339(datetime.now(UTC)),
        cluster=connection.exec_driver_sql(_CLUSTER).scalar_one(),
    )
    draft = files.manifest.with_suffix(".json.partial")
    draft.write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
    _sync(draft)
    files.draft.rename(files.parquet)
    draft.rename(files.manifest)
    _sync(files.parquet.parent)
    return manifest


def _drop_when_free(manifest: ArchiveManifest, partition: str) -> None:
    """Drop a partition. While a long statement reads its table it pauses and tries again: calls wait behind it.

    raises: CommandError; TableInUse when the table was never free
    """
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            with _owner_transaction() as connection:
                _drop(connection, manifest, partition)
        except TableInUse:
            if not tries_left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _drop(connection: sa.Connection, manifest: ArchiveManifest, partition: str) -> None:
    """Drop a partition and note that it is archived, in the transaction of the connection.

    raises: CommandError when rows have come since it was written
    """
    table, name = roles.quote(manifest.table), roles.quote(partition)
    connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE MODE")  # no row comes to this month while they are counted
    _as_system(connection)
    if connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() != manifest.rows:
        raise CommandError(f"Rows have come to {partition} since it was written; nothing is dropped. Repeat it.")
    connection.exec_driver_sql("SET LOCAL ROLE NONE")
    connection.exec_driver_sql(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql(f"ALTER TABLE {table} DETACH PARTITION {name}")
    connection.execute(
        sa.text("INSERT INTO archived_partitions (table_name, month, row_count, sha256) VALUES (:t, :m, :r, :s)"),
        {"t": manifest.table, "m": manifest.month, "r": manifest.rows, "s": manifest.sha256},
    )
    connection.exec_driver_sql(f"DROP TABLE {name}")
    if manifest.table in RECORDS:
        _as_system(connection)
        RECORDS[manifest.table](connection)
    fault_point("partitions.before_commit")


def _load(connection: sa.Connection, manifest: ArchiveManifest, rows: Path) -> None:
    values = {"table": manifest.table, "month": manifest.month, "sha256": manifest.sha256}
    archived = connection.execute(
        sa.text("""DELETE FROM archived_partitions WHERE table_name = :table AND month = CAST(:month AS date)
          AND sha256 = :sha256"""),
        values,
    )
    if not archived.rowcount:
        raise CommandError(f"{manifest.table} of {manifest.month} is not archived, or in another file.")
    present = {row.column_name: row.udt_name for row in connection.execute(_COLUMNS, {"table": manifest.table})}
    if not manifest.columns.items() <= present.items():
        raise CommandError(f"{manifest.table} has other columns than at revision {manifest.migration}.")
    connection.execute(sa.text("SELECT create_partition(:table, CAST(:month AS date))"), values)
    name = f"{manifest.table}_y{manifest.month[:4]}m{manifest.month[5:7]}"
    # Its rows were checked when they were first written; the events that its reversals refer to may be archived.
    connection.exec_driver_sql(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY, DISABLE TRIGGER USER")
    with rows.open("rb") as stream:
        cursor = _cursor(connection)
        cursor.copy_expert(f"COPY {name} ({', '.join(manifest.columns)}) FROM STDIN (FORMAT csv)", stream)
    if cursor.rowcount != manifest.rows:
        raise CommandError(f"The file has {cursor.rowcount} rows and its manifest {manifest.rows}.")
    connection.exec_driver_sql(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY, ENABLE TRIGGER USER")


@contextmanager
def _owner_transaction() -> Iterator[sa.Connection]:
    """A transaction of the login that owns the tables.

    raises: TableInUse when it waits for a lock; CommandError when PostgreSQL cannot be reached or refuses
    """
    engine = sa.create_engine(
        backups.owner_url(),
        poolclass=NullPool,
        connect_args={"connect_timeout": 3, "application_name": "saas-api partitions"},
    )
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
            connection.exec_driver_sql("SET LOCAL timezone = 'UTC'")
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise TableInUse("The table is in use and nothing is changed. Repeat the command later.") from None
        raise CommandError(f"PostgreSQL refused: {str(error.orig).splitlines()[0]}.") from None


def _as_system(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL ROLE {_SEES_EVERY_ROW}")


def _cursor(connection: sa.Connection) -> Any:
    return connection.connection.cursor()


def _csv_expression(column: Any) -> str:
    """A column as a text that Arrow reads."""
    if column.udt_name == "timestamptz":
        return f"""to_char({column.column_name} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    return str(column.column_name)


def _sync(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
