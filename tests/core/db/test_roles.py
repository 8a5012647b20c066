"""Two logins: the owner migrates, the runtime login owns nothing; on every PostgreSQL version that is installed."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy.exc import ProgrammingError

from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.commands import database
from saas_api.cli.dev import host
from saas_api.core import clock
from saas_api.core.db import roles, tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.roles import DatabaseLogins
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.jobs import schedule
from tests.support.accounts import make_key, sign_up
from tests.support.messages import send_message
from tests.support.payments import IsolatedClient, create_paying_organization
from tests.support.postgres_versions import INSTALLED, BarePostgres, running_postgres
from tests.support.queue import run_all_jobs

LOGINS = DatabaseLogins("shop_owner", "shop-app", "shop")


def url(server: BarePostgres, login: str, name: str = LOGINS.database) -> str:
    return f"postgresql+psycopg2://{login}@/{name}?host={server.run}"


def run_script(server: BarePostgres, script: str, login: str) -> None:
    psql = [host.postgres_bin_directory() / "psql", "-h", server.run, "-U", login, "-d", "postgres", "-q"]
    subprocess.run([*psql, "-v", "ON_ERROR_STOP=1"], input=script, text=True, check=True, capture_output=True)


def application(config: dict[str, Any], server: BarePostgres, owner: str, runtime: str) -> Flask:
    app = create_app(
        {
            **config,
            "APP_ENV": "production",
            "DATABASE_OWNER_URL": url(server, owner),
            "DATABASE_URL": url(server, runtime),
        }
    )
    cli.init_app(app)
    return app


@pytest.fixture(params=[None, *INSTALLED], ids=lambda path: path.parent.name if path else "embedded")
def server(request: pytest.FixtureRequest) -> Iterator[BarePostgres]:
    with running_postgres(request.param) as running:
        yield running


def work_for_a_month(app: Flask) -> None:
    """Two organizations sign up, subscribe, send a message and see nothing of each other; then every job runs."""
    client = app.test_client()
    alice, carol = sign_up(client), sign_up(client, "carol@other.example", "Other")
    key, other = make_key(client, alice), make_key(client, carol)
    sent = send_message(client, key)
    with app.app_context():
        invoiced = create_paying_organization(IsolatedClient(app, app.response_class), "Paying")
        assert invoiced.invoice().number == "INV-000001"
        schedule.run_sweeps()
        run_all_jobs()
    assert client.get(f"/api/v1/messages/{sent}", headers=key).json["data"]["status"] == "delivered"
    assert client.get(f"/api/v1/messages/{sent}", headers=other).status_code == 404
    assert client.get("/api/v1/messages", headers=other).json["data"]["messages"] == []
    with app.app_context():
        clock.freeze_time(datetime.now(UTC) + timedelta(days=40))
        schedule.run_due_jobs()
        assert {run.job: run.error for run in schedule.list_last_runs().values() if run.state != "done"} == {}
        assert {invoice.number for invoice in invoiced.invoices()} >= {"INV-000001", "INV-000002"}
        db.engine.dispose()


def test_script_of_the_server_version_is_all_that_a_migration_needs(
    config: dict[str, Any], server: BarePostgres
) -> None:
    """O3, R6, O13: on PostgreSQL 15 a normal owner migrates; production accepts the runtime login alone.

    On versions other than the embedded one the product works there then, with every job.

    A superuser and the owner of the tables could remove what protects the rows. Providers give an administrator who
    creates roles and databases, and is no superuser.
    """
    with_nothing = create_app({**config, "DATABASE_OWNER_URL": url(server, "postgres", "postgres")})
    cli.init_app(with_nothing)
    refused = with_nothing.test_cli_runner().invoke(args=["db", "upgrade"])
    assert refused.exit_code == 1

    connection = server.superuser("postgres")
    major = connection.info.server_version // 10_000
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE admin LOGIN CREATEROLE CREATEDB")
    connection.close()
    for login in ("admin", "postgres"):  # repeating it changes nothing
        run_script(server, database.script(LOGINS, major), login)
    app = application(config, server, LOGINS.owner, LOGINS.runtime)
    with app.app_context():
        upgrade()
        tenancy.verify_isolation()
        with db.engine.connect() as runtime:
            runtime.execute(sa.text("SET ROLE NONE"))
            with pytest.raises(ProgrammingError, match="must be owner"):
                runtime.execute(sa.text("ALTER TABLE audit_events DISABLE TRIGGER ALL"))
        db.engine.dispose()
    for login, reason in (("postgres", "is a superuser"), (LOGINS.owner, "owns the tables")):
        refused_app = application(config, server, LOGINS.owner, login)
        with refused_app.app_context():
            with pytest.raises(UnsafeDatabase, match=reason):
                tenancy.verify_isolation()
            db.engine.dispose()
    if major < roles.MAX_POSTGRES:  # on the embedded version all tests do
        work_for_a_month(create_app({**config, "DATABASE_URL": url(server, LOGINS.runtime)}))


@pytest.mark.parametrize(
    ("change", "restore", "reason"),
    [
        ("REVOKE CREATE ON SCHEMA public FROM saas", "GRANT CREATE ON SCHEMA public TO saas", "may not create tables"),
        (
            "REVOKE USAGE ON SCHEMA public FROM saas_system, PUBLIC",
            "GRANT USAGE ON SCHEMA public TO saas_system, PUBLIC",
            "may not use the schema",
        ),
    ],
)
def test_missing_right_is_one_line_that_names_the_command(
    app: Flask, superuser: Any, caplog: pytest.LogCaptureFixture, change: str, restore: str, reason: str
) -> None:
    """O3: `flask db upgrade` without a right says which, and how to get it, in one line."""
    # the owner of the database may create in its schema through pg_database_owner
    owner = "ALTER SCHEMA public OWNER TO {}"
    run = committed(superuser)
    run(owner.format("postgres"))
    run(change)
    try:
        result = app.test_cli_runner().invoke(args=["db", "upgrade"])
    finally:
        run(restore)
        run(owner.format("pg_database_owner"))
    assert result.exit_code == 1
    [line] = [record.message for record in caplog.records if "DATABASE_OWNER_URL" in record.message]
    assert reason in line
    assert line.endswith("run the SQL that flask db roles prints.")


def test_server_that_is_too_old_is_one_line(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(roles, "MIN_POSTGRES", 99)
    assert app.test_cli_runner().invoke(args=["db", "upgrade"]).exit_code == 1
    [line] = [record.message for record in caplog.records if "too old" in record.message]
    assert line.endswith("is too old: use 99 to 18.")


def test_runtime_login_may_not_migrate(
    app: Flask, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(app.config, "DATABASE_OWNER_URL", config["DATABASE_URL"])
    assert app.test_cli_runner().invoke(args=["db", "upgrade"]).exit_code == 1
    assert "the login saas_app may not create tables in the schema public" in caplog.text


def test_script_names_the_logins_of_the_settings(app: Flask) -> None:
    script = app.test_cli_runner().invoke(args=["db", "roles", "--major", "15"]).output
    assert "the owner of the tables is saas, the processes use saas_app" in script
    assert "WITH INHERIT" not in script
    assert "WITH INHERIT FALSE" in app.test_cli_runner().invoke(args=["db", "roles"]).output


def test_names_in_the_script_are_quoted() -> None:
    names = DatabaseLogins("o'wner", 'Run"time', "data base")
    script = database.script(names, roles.MAX_POSTGRES)
    assert "rolname = 'o''wner'" in script
    assert 'CREATE ROLE "Run""time" LOGIN' in script
    assert '\\connect "data base"' in script


def committed(connection: Any) -> Any:
    def run(statement: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    return run
