"""Backups of the database: pg_dump and pg_restore with the right roles, and a manifest that proves they are whole."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import psycopg2.extensions
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from alembic.util import CommandError as UnknownRevision
from flask_migrate import upgrade
from sqlalchemy.pool import NullPool

from saas_api.cli.dev import host
from saas_api.cli.dev.host import EngineError
from saas_api.cli.errors import CommandError
from saas_api.core import clock
from saas_api.core.db import cells, roles
from saas_api.core.settings import ROOT, setting
from saas_api.usage import rollups

DATABASE_FILE, MANIFEST_FILE = "database.dump", "manifest.json"
_SEES_EVERY_ROW, _SEES_ABSENT = "saas_system", "-c app.sees_absent=on"
_READ_IN_PIECES = 1_048_576
_TABLES = sa.text("""SELECT c.relname FROM pg_class c WHERE c.relnamespace = to_regnamespace(current_schema())
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1""")


@dataclass(frozen=True)
class Manifest:
    """What a backup contains.

    version, revision: of the product that made it
    migration: revision of the tables
    postgresql: major version of the server
    created_at: RFC 3339; the rows are those of this moment
    bytes, sha256: of the file of the database
    rows: number of rows by table
    """

    version: str
    revision: str
    migration: str
    postgresql: int
    created_at: str
    bytes: int
    sha256: str
    rows: Mapping[str, int]


def create_backup(directory: Path) -> Manifest:
    """Write a backup of the database into a new directory, which appears only when it is whole.

    Calls are served meanwhile.
    raises: CommandError
    """
    if directory.exists():
        raise CommandError(f"{directory} exists already; name a new directory.")
    draft = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(mode=0o700, parents=True)
        manifest = _write_draft(draft)
        draft.rename(directory)
    except OSError as error:
        raise CommandError(f"{draft} cannot be written: {error.strerror}.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def restore_backup(directory: Path) -> Manifest:
    """Fill an empty database from a backup, bring its tables up to this release, and rebuild the rollups.

    Nothing is left in the database when the backup cannot be restored whole.
    raises: CommandError
    """
    manifest = read_manifest(Manifest, directory / MANIFEST_FILE, directory / DATABASE_FILE, "flask backup")
    with _owner_connection() as connection:
        _require_restorable(connection, manifest)
    _run_tool(
        *("pg_restore", "--single-transaction", "--exit-on-error", "--no-owner"),
        *("--dbname", _connection_string(), str(directory / DATABASE_FILE)),
    )
    with _owner_connection() as connection:
        rows = _count_rows(connection)
    if rows != manifest.rows:
        tables = ", ".join(
            sorted(name for name in {*rows, *manifest.rows} if rows.get(name) != manifest.rows.get(name))
        )
        raise CommandError(f"The restored database has other numbers of rows than the backup: {tables}.")
    upgrade()
    rollups.rebuild_rollups()  # their watermark counts transactions of the cluster that the backup is of
    return manifest


def _write_draft(draft: Path) -> Manifest:
    file = draft / DATABASE_FILE
    with _owner_connection() as connection:
        snapshot = str(connection.scalar(sa.text("SELECT pg_export_snapshot()")))
        created_at = datetime.now(UTC)
        _run_tool(
            *("pg_dump", "--format", "custom", "--enable-row-security", "--role", _SEES_EVERY_ROW),
            *("--snapshot", snapshot, "--file", str(file), "--dbname", _connection_string()),
        )
        manifest = Manifest(
            version=setting("VERSION"),
            revision=setting("REVISION"),
            migration=get_migration(connection),
            postgresql=_server_major(connection),
            created_at=clock.format_rfc3339(created_at),
            bytes=file.stat().st_size,
            sha256=digest_file(file),
            rows=_count_rows(connection),
        )
    with (draft / MANIFEST_FILE).open("w", encoding="utf-8") as output:
        json.dump(asdict(manifest), output, indent=1)
        output.flush()
        os.fsync(output.fileno())
    return manifest


class _Checksummed(Protocol):
    @property
    def sha256(self) -> str: ...


_Manifest = TypeVar("_Manifest", bound=_Checksummed)


def read_manifest(create: Callable[..., _Manifest], path: Path, file: Path, command: str) -> _Manifest:
    """The manifest of a file that is as it was written.

    create: makes it of the properties in `path`
    command: what writes such manifests, for the message
    raises: CommandError
    """
    try:
        manifest = create(**json.loads(path.read_text(encoding="utf-8")))
        digest = digest_file(file)
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise CommandError(f"{path} is no manifest of {command}.") from None
    if digest != manifest.sha256:
        raise CommandError(f"{file} is damaged: its checksum is not that of {path.name}.")
    return manifest


def _require_restorable(connection: sa.Connection, manifest: Manifest) -> None:
    missing = roles.missing_right(connection)
    if missing:
        raise CommandError(f"DATABASE_OWNER_URL: {missing}; run the SQL that flask db roles prints.")
    name = connection.engine.url.database
    if connection.scalars(_TABLES).first() is not None:
        raise CommandError(f"The database {name} has tables already; restore into an empty one.")
    if _server_major(connection) < manifest.postgresql:
        raise CommandError(f"The backup is of PostgreSQL {manifest.postgresql}, and the server is older.")
    try:
        ScriptDirectory(str(ROOT / "migrations")).get_revision(manifest.migration)
    except UnknownRevision:
        raise CommandError(
            f"The backup has tables of revision {manifest.migration}, which this release does not know; restore it"
            f" with version {manifest.version} or later."
        ) from None


def owner_url() -> str:
    """URL of the login that owns the tables of the current cell.

    raises: CommandError when CELLS_OWNER does not name the cell
    """
    cell = cells.current()
    if cell is None:
        return str(setting("DATABASE_OWNER_URL"))
    if cell not in setting("CELLS_OWNER"):
        raise CommandError(f"CELLS_OWNER has no login for the cell {cell}.")
    return str(setting("CELLS_OWNER")[cell])


@contextmanager
def _owner_connection() -> Iterator[sa.Connection]:
    """A connection of the login that owns the tables, in one read-only snapshot in which it sees every row."""
    engine = sa.create_engine(
        owner_url(),
        poolclass=NullPool,
        isolation_level="REPEATABLE READ",
        connect_args={"connect_timeout": 3, "application_name": "saas-api backup", "options": _SEES_ABSENT},
    )
    with engine.connect() as connection:
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        yield connection


def _count_rows(connection: sa.Connection) -> dict[str, int]:
    tables = connection.scalars(_TABLES).all()
    connection.execute(sa.text(f"SET LOCAL ROLE {_SEES_EVERY_ROW}"))
    try:
        return {
            name: int(connection.scalar(sa.text(f"SELECT count(*) FROM {roles.quote(name)}")) or 0) for name in tables
        }
    finally:
        connection.execute(sa.text("SET LOCAL ROLE NONE"))


def get_migration(connection: sa.Connection) -> str:
    """Revision of the tables."""
    return str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))


def _server_major(connection: sa.Connection) -> int:
    return int(str(connection.scalar(sa.text("SHOW server_version_num")))) // 10_000


def digest_file(file: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_READ_IN_PIECES):
            digest.update(piece)
    return digest.hexdigest()


def _connection_string() -> str:
    """The URL of the owner for libpq, without the password, which everyone on the machine could read."""
    url = sa.make_url(owner_url())
    names = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database, **url.query}
    return str(psycopg2.extensions.make_dsn(**{name: value for name, value in names.items() if value is not None}))


def _run_tool(name: str, *arguments: str) -> None:
    """Run pg_dump or pg_restore.

    raises: CommandError with the last line of its output
    """
    password = sa.make_url(owner_url()).password
    environment = {**os.environ, "PGOPTIONS": _SEES_ABSENT, **({"PGPASSWORD": str(password)} if password else {})}
    command = [_find_tool(name), *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - found below
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise CommandError(f"{name} failed: {(lines or ['it said nothing'])[0]}")


def _find_tool(name: str) -> str:
    """The newest installed program of this name: it understands its own server version and older ones.

    raises: CommandError when there is none
    """
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += Path("/usr/lib/postgresql").glob("*/bin")
    with contextlib.suppress(EngineError):  # the package of the embedded engines may be left out
        folders.append(host.postgres_bin_directory())
    tools = {str(folder / name) for folder in folders if os.access(folder / name, os.X_OK)}
    if not tools:
        raise CommandError(f"There is no {name} here; install one (Debian: apt install postgresql-client).")
    return max(sorted(tools), key=_tool_major)


def _tool_major(program: str) -> int:
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - found above
    number = re.search(r"\) (\d+)", output)
    return int(number[1]) if number else 0
