"""The embedded engines: real servers, killed and started again."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg2
import pytest
import redis
import sqlalchemy as sa

from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.host import EngineError
from saas_api.settings import instance
from tests.support import forks
from tests.support.installations import is_alive, open_directory


def own(connection: Connection, directory: Path) -> None:
    """Start engines and stay."""
    engines = Engines(directory, is_durable=False)
    engines.start()
    connection.send((engines.postgres.pid, engines.redis.pid, os.getpid()))
    time.sleep(60)


@pytest.fixture
def directory() -> Iterator[Path]:
    with open_directory() as path:
        yield path


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        time.sleep(0.05)


def test_runtime_login_owns_nothing_and_has_no_privileges(engines: Engines) -> None:
    """R6: the engines of `make run` have an owner for migrations and a login for the processes."""
    engine = sa.create_engine(engines.database_url)
    with engine.connect() as connection:
        login = connection.execute(
            sa.text(
                """SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
                          pg_has_role('saas_tenant', 'SET') AS sets_tenant,
                          pg_has_role('saas_system', 'SET') AS sets_system,
                          pg_has_role('saas_tenant', 'USAGE') AS is_tenant,
                          pg_has_role('saas_system', 'USAGE') AS is_system
                     FROM pg_roles WHERE rolname = current_user"""
            )
        ).one()
        owned = connection.scalar(
            sa.text("SELECT count(*) FROM pg_shdepend WHERE deptype = 'o' AND refobjid = 'saas_app'::regrole")
        )
        owner = connection.scalar(sa.text("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'saas'"))
    engine.dispose()
    assert (owner, owned) == ("saas", 0)
    assert login._asdict() == {
        "rolsuper": False,
        "rolbypassrls": False,
        "rolcreaterole": False,
        "rolcreatedb": False,
        "sets_tenant": True,
        "sets_system": True,
        "is_tenant": False,
        "is_system": False,
    }


def test_urls_of_engines_are_computed_from_the_instance(engines: Engines) -> None:
    assert instance.engine_urls(engines.instance) == (engines.database_url, engines.redis_url)
    with redis.Redis.from_url(engines.redis_url) as client:
        assert client.ping()


def test_path_too_long_for_a_socket_is_replaced(directory: Path) -> None:
    database, cache = instance.engine_urls(directory / ("long" * 30))
    assert len(cache) < 103 + len("unix://")
    assert "saas_api-" in database


def test_instance_without_engines_has_no_files(tmp_path: Path) -> None:
    with Engines(tmp_path / "instance", names=()):
        assert not (tmp_path / "instance").exists()


def test_committed_rows_survive_kill_9_of_both_engines(directory: Path) -> None:
    (directory / "pg").mkdir()
    (directory / "pg" / "data.new").mkdir()  # what a killed initdb leaves behind
    with Engines(directory) as engines:
        with closing(engines.postgres.superuser("saas")) as connection, connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE stored AS SELECT 1 AS one")
        for engine in (engines.postgres, engines.redis):
            assert engine.process
            engine.process.kill()
            engine.process.wait()
            engine.start()
            assert engine.is_ready()
        with closing(engines.postgres.superuser("saas")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT one FROM stored")
            assert cursor.fetchall() == [(1,)]
        pids = [engine.pid for engine in (engines.postgres, engines.redis) if engine.pid]
    wait_until_gone(*pids)
    with pytest.raises(psycopg2.OperationalError):
        engines.postgres.superuser("saas")


def test_cluster_of_the_version_before_gets_the_runtime_login(directory: Path) -> None:
    """R6: data whose only login is the owner comes up with both."""
    with (
        Engines(directory, is_durable=False, names=("postgres",)) as engines,
        closing(engines.postgres.superuser("saas")) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("DROP ROLE saas_app; CREATE TABLE kept AS SELECT 1 AS one; ALTER TABLE kept OWNER TO saas")
    with Engines(directory, is_durable=False, names=("postgres",)) as engines:
        engine = sa.create_engine(engines.database_url)
        with engine.connect() as connection:
            connection.execute(sa.text("SET ROLE saas_system"))
            assert connection.scalar(sa.text("SELECT tableowner FROM pg_tables WHERE tablename = 'kept'")) == "saas"
        engine.dispose()


def test_engines_stop_with_their_owner_and_start_again(directory: Path) -> None:
    with forks.talking(own, directory, environment={}) as connection:
        *pids, owner = connection.recv()
        with pytest.raises(EngineError, match=f"in use by process {owner}"):
            Engines(directory).start()
    with Engines(directory, is_durable=False) as engines:
        wait_until_gone(*pids)
        assert engines.postgres.is_ready()
        assert engines.redis.is_ready()


def test_orphaned_engines_are_stopped_before_a_start(directory: Path) -> None:
    orphaned = Engines(directory, is_durable=False)
    orphaned.start()
    assert orphaned._lock is not None
    os.close(orphaned._lock)
    orphaned._lock = None
    with Engines(directory, is_durable=False) as engines:
        assert orphaned.postgres.pid is None
        assert orphaned.redis.pid is None
        assert engines.postgres.is_ready()


def test_pid_file_of_another_program_kills_nothing(directory: Path) -> None:
    with subprocess.Popen(["sleep", "30"]) as bystander:
        (directory / "redis").mkdir()
        (directory / "redis" / "redis.pid").write_text(f"{bystander.pid}\n")
        with Engines(directory, is_durable=False, names=("redis",)) as engines:
            assert engines.redis.is_ready()
        assert bystander.poll() is None
        bystander.terminate()


def test_data_of_another_postgresql_version_is_refused(directory: Path) -> None:
    data = directory / "pg" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("14\n")
    with pytest.raises(EngineError, match="holds data of PostgreSQL 14") as refused:
        Engines(directory).start()
    assert "\n" not in str(refused.value)
