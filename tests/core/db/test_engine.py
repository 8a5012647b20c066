"""Batches of statements on the autocommit pool."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError

from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.prepared import Statement
from tests.support import database_pool
from tests.support.billing import create_organization
from tests.support.messages import SEND, SMS, MessagingOrganization, rows

INSERT = "INSERT INTO organizations (id, name, slug) VALUES (%(id)s, 'acme', 'acme')"


BACKEND = ("SELECT pg_backend_pid()", {})
PLANS = (
    """SELECT generic_plans + custom_plans FROM pg_prepared_statements
    WHERE statement LIKE '%%AS SELECT pg_backend_pid()'""",
    {},
)


@pytest.fixture
def one_connection(context: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with database_pool.single_connection(context, monkeypatch):
        yield


def count_organizations() -> int:
    with tenancy.system_session("demo.seed") as session:
        return int(session.scalar(sa.text("SELECT count(*) FROM organizations")) or 0)


def test_batch_is_sent_again_when_its_connection_is_broken(context: Flask, superuser: Any) -> None:
    backend = int(engine.execute_batch([BACKEND])[0][0])
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
    assert int(engine.execute_batch([BACKEND])[0][0]) != backend


def test_failing_statement_rolls_its_batch_back(context: Flask) -> None:
    scope = tenancy.system_scope_statement("demo.seed")
    with pytest.raises(IntegrityError):
        engine.execute_batch([scope, (INSERT, {"id": ids.new_id()}), (INSERT, {"id": ids.new_id()})])
    assert count_organizations() == 0
    engine.execute_batch([scope, (INSERT, {"id": ids.new_id()})])
    assert count_organizations() == 1


def test_statement_is_parsed_once_on_a_connection(context: Flask, one_connection: None) -> None:
    for _ in range(3):
        engine.execute_batch([BACKEND])
    assert engine.execute_batch([PLANS]) == [(3,)]


def test_statement_is_prepared_again_on_a_connection_that_has_lost_it(context: Flask, one_connection: None) -> None:
    engine.execute_batch([BACKEND])
    connection = engine.use_autocommit_pool(db.engine).raw_connection()
    connection.cursor().execute("DEALLOCATE ALL")
    connection.close()
    assert len(engine.execute_batch([BACKEND])) == 1


def test_statement_is_prepared_again_when_a_migration_has_changed_its_result(
    context: Flask, one_connection: None, superuser: Any
) -> None:
    def migrate(statement: str) -> None:
        with superuser, superuser.cursor() as cursor:
            cursor.execute(statement)

    migrate("CREATE TABLE changed AS SELECT 1 AS number; GRANT SELECT ON changed TO saas_tenant")
    try:
        assert engine.execute_batch([("SELECT * FROM changed", {})]) == [(1,)]
        migrate("ALTER TABLE changed ADD COLUMN name text DEFAULT 'one'")
        assert engine.execute_batch([("SELECT * FROM changed", {})]) == [(1, "one")]
    finally:
        migrate("DROP TABLE changed")


def test_prepared_statement_sees_the_rows_of_its_transaction_only(context: Flask, one_connection: None) -> None:
    names: Statement = ("SELECT name FROM organizations ORDER BY name", {})
    acme, globex = (create_organization(name, clock.now()).id for name in ("Acme", "Globex"))
    scopes = {
        "tenant": (tenancy.tenant_scope_statement(acme), ["Acme"]),
        "system": (tenancy.system_scope_statement("demo.seed"), ["Acme", "Globex"]),
        "other tenant": (tenancy.tenant_scope_statement(globex), ["Globex"]),
    }
    for _ in range(7):  # after five, PostgreSQL may use one plan for every execution
        for scope, expected in scopes.values():
            assert [name for (name,) in engine.execute_batch([scope, names])] == expected
    assert engine.execute_batch([names]) == []


def test_error_names_the_constraint_and_shows_no_values(context: Flask) -> None:
    scope = tenancy.system_scope_statement("demo.seed")
    row = (INSERT.replace("'acme', 'acme'", "%(name)s, %(name)s"), {"id": ids.new_id(), "name": "a secret"})
    with pytest.raises(IntegrityError) as caught:
        engine.execute_batch([scope, row, row])
    assert engine.violated_constraint(caught.value) == "organizations_pkey"
    assert "a secret" not in str(caught.value)


def test_call_that_gets_no_connection_is_answered_with_503(
    app: Flask, monkeypatch: pytest.MonkeyPatch, client: FlaskClient
) -> None:
    acme = MessagingOrganization(client, "Acme", "alice@acme.example")
    with (
        app.app_context(),
        database_pool.single_connection(app, monkeypatch, wait_seconds=0.05),
        database_pool.held_connection(),
    ):
        response = client.post(SEND, headers=acme.live, json=SMS)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    acme.send()
    assert len(rows(app, acme.id, "SELECT 1 FROM messages")) == 1
