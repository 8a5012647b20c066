"""The product with two cells: home, and eu in a PostgreSQL cluster of its own."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade

from config import load
from saas_api import cli
from saas_api.app import create_app
from saas_api.billing import invariants
from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.servers import LOGINS
from saas_api.core import ids
from saas_api.core.db import cells, engine, presence, roles, tenancy
from saas_api.core.db.engine import db
from saas_api.core.jobs import schedule
from saas_api.core.periodic_thread import PeriodicThread
from saas_api.ops import cell_moves
from saas_api.usage import rollups
from tests.support import forks
from tests.support.accounts import User
from tests.support.organizations import Organization
from tests.support.payments import IsolatedClient, PayingOrganization, create_paying_organization
from tests.support.queue import run_all_jobs

_DROP_POLICIES = """DO $$ DECLARE t text; BEGIN
  FOR t IN SELECT tablename FROM pg_policies WHERE policyname = 'present' LOOP
    EXECUTE format('DROP POLICY present ON %I', t); END LOOP; END $$"""


@dataclass(frozen=True)
class Spread:
    """The application, both clusters, and what tests do with them."""

    app: Flask
    home: Engines
    eu: Engines
    config: Mapping[str, Any]

    def move(self, user: User, target: str) -> Mapping[str, int]:
        """Move the organization of a user."""
        with self.app.app_context():
            return cell_moves.move_organization(organization_id(user), target)

    def cell_of(self, user: User) -> str:
        with self.app.app_context():
            return cell_moves.find_state(organization_id(user)).cell

    def count_rows(self, cell: str, user: User) -> dict[str, int]:
        """Rows of the user's organization in a cluster, by table, as its superuser sees them."""
        engines = self.home if cell == "home" else self.eu
        with contextlib.closing(engines.postgres.superuser("saas")) as connection, connection.cursor() as cursor:
            cursor.execute(presence.TENANT_TABLES)
            tables = cursor.fetchall()
            counts = {}
            for table, column, _ in tables:
                cursor.execute(f"SELECT count(*) FROM {table} WHERE {column} = %s", [str(organization_id(user))])
                counts[table] = cursor.fetchone()[0]
        return {table: count for table, count in counts.items() if count}

    def work(self) -> None:
        """Run every job that is due in a cell."""
        with self.app.app_context():
            schedule.run_sweeps()
            run_all_jobs()

    def roll_up(self) -> None:
        """Bring the rollups of usage up to date in each cell."""
        with self.app.app_context():
            cells.run_in_each(rollups.roll_up)

    def find_violations(self) -> list[str]:
        """What the checks of the books find in each cell."""
        found = []
        with self.app.app_context():
            for cell in cells.names():
                with cells.use(cell):
                    results = invariants.check_invariants()
                    found += [f"{cell}: {violation.what}" for result in results for violation in result.violations]
        return found

    def move_until(self, fault: str, user: User, target: str) -> int:
        """Move the organization of a user in a process that is killed at a fault point; returns its exit code."""
        settings = {
            **forks.engines_of(self.config),
            "DATABASE_OWNER_URL": self.home.owner_url,
            "CELLS": f"eu={self.eu.database_url}",
            "CELLS_OWNER": f"eu={self.eu.owner_url}",
            "TIME_SCALE": 1000,
            "APP_FAULTS": True,
            "FAULT": f"{fault}:kill",
        }
        return forks.wait(forks.start(_move, settings, organization_id(user), target, environment={}), seconds=120)

    @contextlib.contextmanager
    def without_eu(self) -> Iterator[None]:
        """The cluster eu is down until the end of the block."""
        self.eu.postgres.stop()
        try:
            yield
        finally:
            self.eu.postgres.start()


def _move(settings: Mapping[str, Any], moved_id: UUID, target: str) -> None:
    application = create_app(load(env_file=None, **settings), with_routes=False)
    with application.app_context():
        cell_moves.move_organization(moved_id, target)


def call(client: FlaskClient, key: dict[str, str], path: str = "/api/v1/messages") -> tuple[int, Any]:
    """Call the API with a key; returns the status and the code of the error."""
    response = client.get(path, headers=key)
    assert response.json is not None
    return response.status_code, response.json.get("error", {}).get("code")


def organization_id(user: User) -> UUID:
    return ids.parse_id("org", user.organization_id)


def organization_of(user: User) -> Organization:
    return Organization(user.client, user)


def execute_as_superuser(engines: Engines, *statements: str) -> None:
    with (
        contextlib.closing(engines.postgres.superuser("saas")) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture(scope="module")
def eu() -> Iterator[Engines]:
    """The second cluster."""
    with tempfile.TemporaryDirectory(prefix="saas-eu-") as name:
        Path(name).chmod(0o755)
        with Engines(Path(name), is_durable=False, names=("postgres",)) as running:
            yield running


@pytest.fixture(scope="module")
def spread_app(app: Flask, config: dict[str, Any], engines: Engines, eu: Engines) -> Iterator[Flask]:
    for cluster in (engines, eu):
        execute_as_superuser(cluster, *roles.mover_statements(LOGINS))
    owners = {"CELLS": {"eu": eu.database_url}, "CELLS_OWNER": {"eu": eu.owner_url}}
    application = create_app({**config, **owners, "TIME_SCALE": 1000})
    cli.init_app(application)
    with application.app_context():
        upgrade()
    yield application
    with application.app_context():
        for cluster_engine in db.engines.values():
            cluster_engine.dispose()
    execute_as_superuser(engines, _DROP_POLICIES, f"DROP OWNED BY {roles.MOVER}", f"DROP ROLE {roles.MOVER}")


@pytest.fixture
def spread(
    spread_app: Flask,
    engines: Engines,
    eu: Engines,
    config: dict[str, Any],
    deletion: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Spread]:
    """Two cells. Each look-up asks the directory, because tests move organizations within milliseconds.

    Threads write nothing: rows that they add would be missing in what tests compare, and a thread of another
    application, which does not know the second cell, would take what waits to be written.
    """
    monkeypatch.setattr(PeriodicThread, "_call_logged", lambda _thread, _app: None)
    monkeypatch.setattr(cells, "CACHE_SECONDS", 0.0)
    engine._failed_at.clear()  # of the test before
    yield Spread(spread_app, engines, eu, config)
    with contextlib.closing(eu.postgres.superuser("saas")) as connection:
        script = deletion(connection)
    execute_as_superuser(eu, script)


def query(spread: Spread, cell: str | None, sql: str, **values: Any) -> list[Any]:
    """Rows that work across the organizations of a cell sees."""
    with spread.app.app_context(), cells.use(cell), tenancy.system_session("demo.seed") as session:
        return list(session.execute(sa.text(sql), values))


@pytest.fixture
def client(spread: Spread) -> FlaskClient:
    return spread.app.test_client()


@pytest.fixture
def acme(spread: Spread) -> Iterator[PayingOrganization]:
    """An organization at home with an open invoice of 99.00."""
    with spread.app.app_context():
        yield create_paying_organization(IsolatedClient(spread.app, spread.app.response_class))
