"""PgBouncer in transaction mode, with few connections."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saas_api.cli.dev import host
from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.servers import LOGINS
from saas_api.core.db import roles
from tests.support.http_receiver import wait_until
from tests.support.installations import open_directory

PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"


@contextmanager
def running_pgbouncer(
    engines: Engines, connections: int = 2, wait_seconds: int = 120, **replicas: Path
) -> Iterator[Path]:
    """A PgBouncer before the database "saas", and its settings of the login until the end of the block.

    connections: how many it has to each server
    wait_seconds: how long a call may wait for one
    replicas: directory of the socket of a replica, by the name of the database that leads to it
    returns: directory of its socket, of port 6432
    """
    servers = {"saas": engines.run, **replicas}
    _execute(engines, *roles.pooler_statements(LOGINS))
    with open_directory() as directory:
        run = directory / "run"
        host.make_engine_directory(run, 0o755)
        (directory / "users.txt").write_text('"saas_app" ""\n')
        databases = "\n".join(f"{name} = host={path} dbname=saas" for name, path in servers.items())
        (directory / "pgbouncer.ini").write_text(f"""[databases]
{databases}
[pgbouncer]
pool_mode = transaction
default_pool_size = {connections}
server_login_retry = 1
query_wait_timeout = {wait_seconds}
listen_addr =
unix_socket_dir = {run}
auth_type = trust
auth_file = {directory / "users.txt"}
""")
        with subprocess.Popen(
            [PROGRAM, "-q", directory / "pgbouncer.ini"], **host.unprivileged_popen_args()
        ) as process:
            try:
                wait_until((run / ".s.PGSQL.6432").exists)
                yield run
            finally:
                process.terminate()
    _execute(engines, "ALTER ROLE saas_app IN DATABASE saas RESET ALL")


def _execute(engines: Engines, *statements: str) -> None:
    with contextlib.closing(engines.postgres.superuser("postgres")) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for statement in statements:
            cursor.execute(statement)


def pooled_url(run: Path, database: str = "saas") -> str:
    """The address of a database behind the PgBouncer in a directory."""
    return f"postgresql+psycopg2://saas_app@/{database}?host={run}&port=6432"
