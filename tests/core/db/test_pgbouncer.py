"""DATABASE_POOLER=pgbouncer: the product behind PgBouncer in transaction mode, with fewer connections than threads."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.dev import host
from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.servers import LOGINS
from saas_api.core.db import roles, tenancy
from tests.support.accounts import make_key, sign_up
from tests.support.http_receiver import wait_until
from tests.support.installations import open_directory
from tests.support.messages import send_message
from tests.support.queue import run_all_jobs

PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
CONNECTIONS = 2
pytestmark = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="optional for developers; .ci/run installs it")


@pytest.fixture
def pooled(config: dict[str, Any], app: Flask, engines: Engines) -> Iterator[Flask]:
    """The product behind a PgBouncer that has two connections to the database."""
    with open_directory() as directory, contextlib.closing(engines.postgres.superuser("postgres")) as superuser:
        superuser.autocommit = True
        with superuser.cursor() as cursor:
            for statement in roles.pooler_statements(LOGINS):
                cursor.execute(statement)
        host.make_engine_directory(directory / "run", 0o755)
        (directory / "users.txt").write_text('"saas_app" ""\n')
        (directory / "pgbouncer.ini").write_text(f"""[databases]
saas = host={engines.run} pool_size={CONNECTIONS}
[pgbouncer]
pool_mode = transaction
listen_addr =
unix_socket_dir = {directory / "run"}
auth_type = trust
auth_file = {directory / "users.txt"}
""")
        with subprocess.Popen(
            [PROGRAM, "-q", directory / "pgbouncer.ini"], **host.unprivileged_popen_args()
        ) as process:
            url = f"postgresql+psycopg2://saas_app@/saas?host={directory / 'run'}&port=6432"
            wait_until((directory / "run" / ".s.PGSQL.6432").exists)
            application = create_app({**config, "DATABASE_URL": url, "DATABASE_POOLER": "pgbouncer"})
            cli.init_app(application)
            try:
                yield application
            finally:
                process.terminate()
        with superuser.cursor() as cursor:
            cursor.execute("ALTER ROLE saas_app IN DATABASE saas RESET ALL")


def test_calls_of_two_organizations_at_once_share_two_connections(pooled: Flask) -> None:
    """O10: PgBouncer refused the options of a connection."""
    with pooled.app_context():
        tenancy.verify_isolation()
    client = pooled.test_client()
    owners = [sign_up(client, f"owner@{name}.example", name) for name in ("acme", "globex")]
    keys = [make_key(client, owner) for owner in owners]

    def send(number: int) -> tuple[int, str]:
        return number % 2, send_message(pooled.test_client(), keys[number % 2])

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(send, range(24)))
    with pooled.app_context():
        run_all_jobs()
    for index, key in enumerate(keys):
        listed = client.get("/api/v1/messages?limit=100", headers=key).json["data"]["messages"]  # type: ignore[index]
        assert {row["message_id"] for row in listed} == {message for owner, message in sent if owner == index}
        assert {row["status"] for row in listed} == {"delivered"}
        usage = client.get("/api/v1/usage", headers=owners[index].headers).json["data"]  # type: ignore[index]
        assert usage["summary"]["total_requests"] == 12


def test_connection_without_the_settings_of_the_role_is_refused_at_the_start(pooled: Flask, engines: Engines) -> None:
    with contextlib.closing(engines.postgres.superuser("postgres")) as superuser:
        superuser.autocommit = True
        with superuser.cursor() as cursor:
            cursor.execute("ALTER ROLE saas_app IN DATABASE saas RESET role")
    with pooled.app_context(), pytest.raises(tenancy.UnsafeDatabase, match="not saas_tenant"):
        tenancy.verify_isolation()
