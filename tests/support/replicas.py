"""A streaming replica of the test's PostgreSQL."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg2 import errors

from saas_api.cli.dev import host
from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.servers import LOGINS, SUPERUSER, EmbeddedPostgres
from tests.support.http_receiver import wait_until
from tests.support.installations import open_directory


class Standby(EmbeddedPostgres):
    """A server that replays what another one writes."""

    stop_signal = signal.SIGQUIT

    def __init__(self, directory: Path, primary: EmbeddedPostgres) -> None:
        super().__init__(directory, directory / "run", is_durable=False)
        self.primary = primary

    @property
    def url(self) -> str:
        """DATABASE_REPLICA_URL of this server."""
        return f"postgresql+psycopg2://{LOGINS.runtime}@/{LOGINS.database}?host={self.run}"

    def create_logins(self) -> None:
        """Create nothing: the primary's logins are here too."""

    def execute(self, statement: str) -> Any:
        """Run a statement as superuser and return its first row; again where replay canceled it."""
        with contextlib.closing(self.superuser(LOGINS.database)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while True:
                with contextlib.suppress(errors.SerializationFailure):
                    cursor.execute(statement)
                    return cursor.fetchone()

    def catch_up(self) -> None:
        """Wait until this server has replayed everything that the primary has committed."""
        with contextlib.closing(self.primary.superuser(LOGINS.database)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            (position,) = cursor.fetchone()
        wait_until(lambda: self.execute(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == (True,))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Replay nothing until the end of the block."""
        self.execute("SELECT pg_wal_replay_pause()")
        wait_until(lambda: self.execute("SELECT pg_get_wal_replay_pause_state()") == ("paused",))
        try:
            yield
        finally:
            self.execute("SELECT pg_wal_replay_resume()")

    def _create_cluster(self, binaries: Path) -> None:
        if self.data.exists():
            return
        source = ["-h", str(self.primary.run), "-U", SUPERUSER]
        command = [
            str(binaries / "pg_basebackup"),
            *source,
            "-D",
            str(self.data),
            "-c",
            "fast",
            "--write-recovery-conf",
            "-N",
        ]
        subprocess.run(command, check=True, env=host.server_environment(), cwd="/", **host.unprivileged_popen_args())
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write("max_standby_streaming_delay = 0\n")  # what stops replay is canceled at once


@contextmanager
def running_standby(engines: Engines) -> Iterator[Standby]:
    """A replica of the test's PostgreSQL, which is deleted at the end."""
    with open_directory() as directory:
        for name in ("pg", "run", "log"):
            host.make_engine_directory(directory / name, 0o700)
        standby = Standby(directory, engines.postgres)
        standby.start()
        try:
            yield standby
        finally:
            standby.stop()
