"""The stage of every test: real engines, migrated once; tests commit, and what they wrote is cleared afterwards."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2.sql
import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade

from config import load
from saas_api import cli, create_app
from saas_api.cli.dev.engines import Engines
from saas_api.core import clock, queue
from saas_api.core.db import db
from tests.people import alice, bob, carol, olga  # noqa: F401 - fixtures for every test

KEPT = {
    "alembic_version",
    "entitlements",
    "meters",
    "plan_versions",
    "plans",
    "price_tiers",
    "prices",
    "tenancy_canary",
    "usage_watermark",
}


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """PostgreSQL and Redis of this run alone, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="saas-api-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Engines(directory, is_durable=False) as running:
            yield running


@pytest.fixture(scope="session")
def config(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings every application of this run is made from."""
    settings = load(
        env_file=None,
        APP_ENV="test",
        DATABASE_URL=engines.database_url,
        REDIS_URL=engines.redis_url,
        SECRET_KEY="s" * 32,
        JWT_SECRET="j" * 32,
        API_KEY_PEPPER="1:" + "p" * 32,
    )
    return {**settings, "INSTANCE": str(tmp_path_factory.mktemp("instance"))}


@pytest.fixture(scope="session")
def app(config: dict[str, Any]) -> Iterator[Flask]:
    """The whole application on a migrated database."""
    made = create_app(config)
    cli.init_app(made)
    with made.app_context():
        upgrade()
    yield made
    with made.app_context():
        db.engine.dispose()


@pytest.fixture(scope="session")
def superuser(engines: Engines, app: Flask) -> Iterator[Any]:
    """A connection that passes every policy and trigger: for clearing only."""
    connection = engines.postgres.superuser("saas")
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def tables(superuser: Any) -> list[str]:
    """Every table whose rows belong to a test."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return sorted({name for (name,) in cursor.fetchall()} - KEPT)


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that used the application: no rows, no keys, no wake-up remembered, the present time."""
    if "app" not in request.fixturenames:
        yield
        return
    connection, tables = request.getfixturevalue("superuser"), request.getfixturevalue("tables")
    config = request.getfixturevalue("config")
    yield
    clock.travel_to(None)
    queue._woken.clear()
    clear(connection, tables)
    with redis.Redis.from_url(config["REDIS_URL"]) as client:
        client.flushdb()


def clear(connection: Any, tables: list[str]) -> None:
    """Delete every row past triggers and foreign keys, which would refuse."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '5s'")
        for table in tables:
            cursor.execute(psycopg2.sql.SQL("DELETE FROM {}").format(psycopg2.sql.Identifier(table)))
        for table in ("price_tiers", "prices", "entitlements"):
            cursor.execute(f"DELETE FROM {table} WHERE plan_version_id !~ '@1$'")
        cursor.execute("DELETE FROM plan_versions WHERE version > 1")


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A caller without credentials."""
    return app.test_client()


@pytest.fixture
def context(app: Flask) -> Iterator[Flask]:
    """The application's context, for tests that call services."""
    with app.app_context():
        yield app


@pytest.fixture
def work(app: Flask) -> Callable[[], None]:
    """Do what the worker would do now: every queued job, in this process, until none is left."""
    from saas_api.core.queue import work_off

    def run() -> None:
        with app.app_context():
            work_off()

    return run
