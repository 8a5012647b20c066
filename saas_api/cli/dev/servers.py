"""The embedded PostgreSQL and Redis servers, and the logins and database of an empty cluster."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import psycopg2
import redis
from psycopg2 import sql

from saas_api.cli.dev import host
from saas_api.cli.dev.host import EngineError
from saas_api.core import processes
from saas_api.core.db import roles
from saas_api.core.db.roles import DatabaseLogins
from saas_api.settings.instance import DATABASE_LOGIN, DATABASE_NAME, DATABASE_OWNER

SUPERUSER = "postgres"
POSTGRES_MAJOR = "18"
START_SECONDS = 20
LOGINS = DatabaseLogins(DATABASE_OWNER, DATABASE_LOGIN, DATABASE_NAME)


def create_database(connection: Any, name: str, template: str | None = None) -> None:
    """Create a database that the owner login owns, unless it exists.

    template: name of a database to copy
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(DATABASE_OWNER)
            )
            if template:
                statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            cursor.execute(statement)


def _execute(connection: Any, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


class EmbeddedServer(ABC):
    """A server process of an instance."""

    name: str
    stop_signal: signal.Signals
    kill_signal: signal.Signals

    def __init__(self, directory: Path, run: Path, *, is_durable: bool) -> None:
        self.directory = directory
        self.run = run
        self.is_durable = is_durable
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """File of the server's log."""
        return self.directory / "log" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Process id while the server runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it answers.

        raises: EngineError with the server's last output
        """
        self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.pid is None or time.monotonic() > deadline:
                raise EngineError(f"{self.name} did not start: {self.last_output()}")
            time.sleep(0.05)

    def stop(self, seconds: float = 30) -> None:
        """Stop the server cleanly, and kill it after some seconds."""
        if self.process is None or self.pid is None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(self.kill_signal)
            self.process.wait(10)

    def last_output(self) -> str:
        """The last line of the log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1][-300:] if lines else "it said nothing"

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server accepts commands."""

    @abstractmethod
    def _spawn(self) -> None:
        """Start the process."""

    def _popen(self, command: list[str], configuration: bytes | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own binaries
                command,
                stdin=subprocess.PIPE if configuration is not None else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=host.server_environment(),
                start_new_session=True,
                preexec_fn=processes.parent_death_signal(self.stop_signal),  # noqa: PLW1509 - only prctl, from the main thread
                **host.unprivileged_popen_args(),
            )
        if configuration is not None and self.process.stdin:
            self.process.stdin.write(configuration)
            self.process.stdin.close()


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL on a Unix socket, without any network."""

    name = "postgres"
    stop_signal = signal.SIGINT
    kill_signal = signal.SIGQUIT

    @property
    def data(self) -> Path:
        """Directory of the cluster."""
        return self.directory / "pg" / "data"

    def is_ready(self) -> bool:
        """Whether the superuser can connect."""
        try:
            self.superuser("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def superuser(self, database: str) -> Any:
        """A connection of the cluster's superuser, for bootstrap and tests; the application never uses it."""
        return psycopg2.connect(host=str(self.run), user=SUPERUSER, dbname=database, connect_timeout=2)

    def start(self) -> None:
        """Start the server; the first start creates cluster, logins and database."""
        binaries = host.postgres_bin_directory()
        self._create_cluster(binaries)
        host.kill_stale_server(host.read_pid(self.data / "postmaster.pid"), "postgres", self.data, signal.SIGINT)
        super().start()
        self.create_logins()

    def create_logins(self) -> None:
        """Create logins, roles and database, or bring their rights up to date."""
        with contextlib.closing(self.superuser("postgres")) as connection:
            connection.autocommit = True
            _execute(connection, roles.cluster_statements(LOGINS, connection.info.server_version // 10_000))
            create_database(connection, DATABASE_NAME)
        with contextlib.closing(self.superuser(DATABASE_NAME)) as connection, connection:
            _execute(connection, roles.schema_statements(LOGINS))

    def _create_cluster(self, binaries: Path) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            major = version.read_text().strip()
            if major != POSTGRES_MAJOR:
                raise EngineError(
                    f"{self.data} holds data of PostgreSQL {major}, this release brings {POSTGRES_MAJOR}: "
                    f"dump it with pg_dump {major}, move the directory away, start, and restore with psql"
                )
            return
        draft = self.data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        unsynced = [] if self.is_durable else ["--no-sync"]
        command = [str(binaries / "initdb"), "-D", str(draft), "-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8"]
        result = subprocess.run(  # noqa: S603 - our own binaries
            [*command, "--auth-local=trust", "--auth-host=reject", "--no-instructions", *unsynced],
            capture_output=True,
            text=True,
            env=host.server_environment(),
            check=False,
            cwd="/",
            **host.unprivileged_popen_args(),
        )
        if result.returncode:
            raise EngineError(f"initdb failed: {(result.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        draft.rename(self.data)

    def _spawn(self) -> None:
        options = {"listen_addresses": "", "unix_socket_directories": str(self.run), "max_connections": "200"}
        if sys.platform == "linux":
            options["recovery_init_sync_method"] = "syncfs"  # file by file takes seconds after a crash
        if not self.is_durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._popen([str(host.postgres_bin_directory() / "postgres"), "-D", str(self.data), *flags])


class EmbeddedRedis(EmbeddedServer):
    """Redis on a Unix socket, which appends every write to a file."""

    name = "redis"
    stop_signal = signal.SIGTERM
    kill_signal = signal.SIGKILL

    def is_ready(self) -> bool:
        """Whether Redis has loaded its file and accepts commands."""
        try:
            with redis.Redis(unix_socket_path=str(self.run / "redis.sock"), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def start(self) -> None:
        """Start the server, after stopping one that outlived its owner: Redis does not lock its directory."""
        data = self.directory / "redis"
        host.kill_stale_server(host.read_pid(data / "redis.pid"), "redis-server", data, signal.SIGTERM)
        super().start()
        (data / "redis.pid").write_text(f"{self.pid}\n")

    def _spawn(self) -> None:
        lines = [
            "port 0",
            f'unixsocket "{self.run / "redis.sock"}"',
            "unixsocketperm 700",
            f'dir "{self.directory / "redis"}"',
            "maxmemory-policy noeviction",
            "databases 64",
            'save ""',
            f"appendonly {'yes' if self.is_durable else 'no'}",
            "appendfsync everysec",
        ]
        self._popen([host.redis_server_path(), "-"], "\n".join(lines).encode() + b"\n")
