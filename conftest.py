"""Fixtures of every test: real engines, migrated once. Tests commit; their rows are deleted afterwards."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from psycopg2.errors import DeadlockDetected
from xdist.scheduler import LoadScopeScheduling

from config import load
from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.dev.engines import Engines
from saas_api.core import clock, crypto
from saas_api.core.db.engine import db
from saas_api.core.jobs import queue
from saas_api.core.limits import backends, circuit_breaker, direct_connections, limiter
from saas_api.metering import limits
from saas_api.services import routes, service_tokens, services
from saas_api.usage import meters
from tests.support import contract
from tests.support.accounts import alice, bob, carol, olga  # noqa: F401 - fixtures for every test

# Without bytecode files, every process that a test starts would compile for two seconds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

REAL_HASHING = {name: getattr(crypto, name) for name in ("_hasher", "DUMMY_PASSWORD_HASH")}
ONE_WORKER = (
    "tests/browser/",
    "tests/cells/",
    "tests/cli/test_up.py",
    "tests/core/db/test_replica.py",
    "tests/core/limits/test_cluster.py",
    "tests/core/web/test_server.py",
)
"""Beginnings of the ids of tests that share a browser, a clone, a cluster or a server, and so run in one worker."""
SEEDED_TABLES = {
    "alembic_version",
    "catalogue_generation",
    "entitlements",
    "meters",
    "plan_versions",
    "plans",
    "price_tiers",
    "prices",
    "tenancy_canary",
    "usage_watermark",
}

SEEDED_PLANS = "(free|starter|pro|scale)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, because a run ends with its last test."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


class Scheduling(LoadScopeScheduling):
    """Give each worker one test after the other, and tests that share an expensive resource to one worker.

    `--dist loadgroup` would do it, but its groups are lost under pytest 9.2 (pytest-xdist issue 1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((start for start in ONE_WORKER if nodeid.startswith(start)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Use this scheduler with every value of `--dist`."""
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """PostgreSQL and Redis of this run, in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="saas-api-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Engines(directory, is_durable=False) as running:
            yield running


@pytest.fixture(scope="session")
def config(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of every application of this run."""
    settings = load(
        env_file=None,
        APP_ENV="test",
        DATABASE_URL=engines.database_url,
        DATABASE_OWNER_URL=engines.owner_url,
        REDIS_URL=engines.redis_url,
        SECRET_KEY="s" * 32,
        JWT_SECRET="j" * 32,
        API_KEY_PEPPER="1:" + "p" * 32,
        DRAIN_SECONDS=1,  # otherwise drains wait for retries that are due seconds later
    )
    return {**settings, "INSTANCE": str(tmp_path_factory.mktemp("instance"))}


@pytest.fixture(scope="session")
def app(config: dict[str, Any]) -> Iterator[Flask]:
    """The whole application on a migrated database."""
    application = create_app(config)
    cli.init_app(application)
    with application.app_context():
        upgrade()
    contract.watch(application)
    yield application
    with application.app_context():
        db.engine.dispose()


@pytest.fixture(scope="session", autouse=True)
def cheap_hashing() -> Iterator[None]:
    """Hash passwords in 0.03 ms instead of 23 ms: nearly every test signs up a user."""
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crypto, "_hasher", hasher)
        patch.setattr(crypto, "DUMMY_PASSWORD_HASH", hasher.hash("unknown user's password"))
        yield


@pytest.fixture
def real_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords as the product does."""
    for name, value in REAL_HASHING.items():
        monkeypatch.setattr(crypto, name, value)


@pytest.fixture(scope="session")
def superuser(engines: Engines, app: Flask) -> Iterator[Any]:
    """A connection that bypasses every policy and trigger."""
    connection = engines.postgres.superuser("saas")
    yield connection
    connection.close()


def _deletion_script(superuser: Any) -> str:
    """SQL that deletes every row of a test past triggers and foreign keys, in one round trip."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("""SELECT relname FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition""")
        tables = {name for (name,) in cursor.fetchall()} - SEEDED_TABLES
    statements = ["SET LOCAL session_replication_role = replica", "SET LOCAL lock_timeout = '5s'"]
    statements += [f'DELETE FROM "{table}"' for table in sorted(tables)]
    statements += [
        f"DELETE FROM {table} WHERE plan_version_id !~ '^{SEEDED_PLANS}@1$'"
        for table in ("price_tiers", "prices", "entitlements")
    ]
    statements += [
        f"DELETE FROM plan_versions WHERE id !~ '^{SEEDED_PLANS}@1$'",
        f"DELETE FROM plans WHERE code !~ '^{SEEDED_PLANS}$'",
        "DELETE FROM meters WHERE code NOT IN ('sms', 'email')",
    ]
    return "; ".join(statements)


@pytest.fixture(scope="session")
def deletion() -> Callable[[Any], str]:
    """The function that returns the SQL which deletes the rows of a test, for the superuser of a cluster."""
    return _deletion_script


@pytest.fixture(scope="session")
def clear_tables(superuser: Any) -> Callable[[], None]:
    """Return a function that deletes every row of a test past triggers and foreign keys, in one round trip."""
    script = _deletion_script(superuser)

    def clear(attempts: int = 3) -> None:
        try:
            with superuser, superuser.cursor() as cursor:
                cursor.execute(script)
        except DeadlockDetected:  # with a thread that writes counts each second, which has it behind it then
            if attempts == 1:
                raise
            clear(attempts - 1)

    return clear


@pytest.fixture(scope="session")
def cache(config: dict[str, Any]) -> Iterator[redis.Redis]:
    """A connection to the run's Redis."""
    with redis.Redis.from_url(config["REDIS_URL"]) as client:
        yield client


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Delete rows and Redis keys after a test of the application, and reset wake-ups, breakers and the clock."""
    if "app" not in request.fixturenames:
        yield
        return
    clear_tables, cache = request.getfixturevalue("clear_tables"), request.getfixturevalue("cache")
    yield
    clock.freeze_time(None)
    queue._last_wake_at.clear()
    for breaker in circuit_breaker._breakers.values():
        breaker.failures = 0
    for cached in (meters._catalogue, service_tokens._active_tokens, services._scopes_by_service, routes._tables):
        cached.clear()
    limits._spends.clear()
    clear_tables()
    cache.flushdb()
    broken = request.getfixturevalue("app").extensions["contract"].take_problems()
    assert broken == [], "answers differ from the OpenAPI document"


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without credentials."""
    return app.test_client()


@pytest.fixture
def context(app: Flask) -> Iterator[Flask]:
    """The application's context, for tests that call services."""
    with app.app_context():
        yield app


@pytest.fixture
def patient_redis(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wait for Redis longer than 50 ms, which a busy machine exceeds; a call would be decided without it then."""
    monkeypatch.setattr(direct_connections, "TIMEOUT_SECONDS", 5)
    pool = direct_connections.low_latency_pool(app.config["REDIS_URL"])
    monkeypatch.setitem(app.extensions, "redis", redis.Redis(connection_pool=pool))
    monkeypatch.setattr(limiter.get_storage(), "backend", backends.connect(app.config["LIMITS_REDIS_URL"]))
    yield
    pool.disconnect()


@pytest.fixture
def work(app: Flask) -> Callable[[], None]:
    """A function that runs every queued job in this process until the queues are empty."""
    from tests.support.queue import run_all_jobs

    def run() -> None:
        with app.app_context():
            run_all_jobs()

    return run
