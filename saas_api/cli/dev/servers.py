"""Embedded PostgreSQL and Redis: started from the binaries of their wheels, crash-safe, stopped cleanly.

As root they run as `nobody`, which PostgreSQL insists on.
"""

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

from saas_api.cli.dev import host
from saas_api.cli.dev.addresses import LOGIN
from saas_api.cli.dev.binaries import postgres_binaries, redis_binary
from saas_api.cli.dev.cluster import SUPERUSER, make_database, make_login
from saas_api.cli.dev.host import EngineError

POSTGRES_MAJOR = "18"
START_SECONDS = 20


class Engine(ABC):
    """One server process and how it is started, asked and stopped."""

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
        """Where the server writes what it has to say."""
        return self.directory / "log" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it answers.

        raises: EngineError with the server's last words
        """
        self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.pid is None or time.monotonic() > deadline:
                raise EngineError(f"{self.name} did not start: {self.last_words()}")
            time.sleep(0.05)

    def stop(self, seconds: float = 30) -> None:
        """Stop the server cleanly, by force after a while."""
        if self.process is None or self.pid is None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(self.kill_signal)
            self.process.wait(10)

    def last_words(self) -> str:
        """The last line of the log that says something."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1][-300:] if lines else "it said nothing"

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server takes commands."""

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
                env=host.environment(),
                start_new_session=True,
                preexec_fn=host.dies_with_us(self.stop_signal),  # noqa: PLW1509 - only prctl, from the main thread
                **host.servant(),
            )
        if configuration is not None and self.process.stdin:
            self.process.stdin.write(configuration)
            self.process.stdin.close()


class Postgres(Engine):
    """PostgreSQL on a socket of its own, without any network."""

    name = "postgres"
    stop_signal = signal.SIGINT
    kill_signal = signal.SIGQUIT

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.directory / "pg" / "data"

    def answers(self) -> bool:
        """Whether the superuser can connect."""
        try:
            self.superuser("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def superuser(self, database: str) -> Any:
        """A connection of the cluster's superuser: bootstrap and tests only, never the application."""
        return psycopg2.connect(host=str(self.run), user=SUPERUSER, dbname=database, connect_timeout=2)

    def start(self) -> None:
        """Make the cluster at the first start, start it, and make sure of login and database."""
        binaries = postgres_binaries()
        self._make_cluster(binaries)
        host.end_stranger(host.first_number(self.data / "postmaster.pid"), "postgres", self.data, signal.SIGINT)
        super().start()
        with contextlib.closing(self.superuser("postgres")) as connection:
            connection.autocommit = True
            make_login(connection)
            make_database(connection, LOGIN)

    def _make_cluster(self, binaries: Path) -> None:
        version = self.data / "PG_VERSION"
        if version.exists():
            found = version.read_text().strip()
            if found != POSTGRES_MAJOR:
                raise EngineError(
                    f"{self.data} holds data of PostgreSQL {found}, this release brings {POSTGRES_MAJOR}: "
                    f"dump it with pg_dump {found}, move the directory away, start, and restore with psql"
                )
            return
        draft = self.data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        unsynced = [] if self.is_durable else ["--no-sync"]
        command = [str(binaries / "initdb"), "-D", str(draft), "-U", SUPERUSER, "-E", "UTF8", "--locale=C.UTF-8"]
        made = subprocess.run(  # noqa: S603 - our own binaries
            [*command, "--auth-local=trust", "--auth-host=reject", "--no-instructions", *unsynced],
            capture_output=True,
            text=True,
            env=host.environment(),
            check=False,
            cwd="/",
            **host.servant(),
        )
        if made.returncode:
            raise EngineError(f"initdb failed: {(made.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        draft.rename(self.data)

    def _spawn(self) -> None:
        options = {"listen_addresses": "", "unix_socket_directories": str(self.run), "max_connections": "200"}
        if sys.platform == "linux":
            options["recovery_init_sync_method"] = "syncfs"  # file by file takes seconds after a crash
        if not self.is_durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._popen([str(postgres_binaries() / "postgres"), "-D", str(self.data), *flags])


class Redis(Engine):
    """Redis on a socket of its own, appending every write to a file."""

    name = "redis"
    stop_signal = signal.SIGTERM
    kill_signal = signal.SIGKILL

    def answers(self) -> bool:
        """Whether it has loaded its file and takes commands."""
        try:
            with redis.Redis(unix_socket_path=str(self.run / "redis.sock"), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def start(self) -> None:
        """Start it, after ending one that outlived its owner: Redis itself takes no lock on its directory."""
        data = self.directory / "redis"
        host.end_stranger(host.first_number(data / "redis.pid"), "redis-server", data, signal.SIGTERM)
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
        self._popen([redis_binary(), "-"], "\n".join(lines).encode() + b"\n")
