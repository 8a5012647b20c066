"""Scopes of transactions and row-level security, on PostgreSQL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from saas_api.core import domain, ids
from saas_api.core.db import engine, tenancy
from saas_api.core.db.tenancy import UnsafeDatabase

NAMES = sa.text("SELECT name FROM organizations ORDER BY name")


def create_organization(name: str) -> UUID:
    organization_id = ids.new_id()
    with tenancy.system_session("demo.seed") as current:
        current.execute(
            sa.text("INSERT INTO organizations (id, name, slug) VALUES (:id, :name, :name)"),
            {"id": organization_id, "name": name},
        )
    return organization_id


def read_names(current: Session) -> list[str]:
    return list(current.scalars(NAMES))


def test_transaction_without_a_scope_neither_reads_nor_writes(context: Flask) -> None:
    acme = create_organization("acme")
    assert read_names(engine.session()) == []
    assert engine.session().scalar(sa.text("SELECT current_user")) == "saas_tenant"
    with pytest.raises(DBAPIError, match=r"row-level security|permission denied"):
        engine.session().execute(
            sa.text(
                "INSERT INTO messages (organization_id, channel, recipient, body, accepted_at, next_at)"
                " VALUES (:acme, 'sms', 'r', 'b', now(), now())"
            ),
            {"acme": acme},
        )
    engine.session().rollback()


def test_tenant_session_sees_one_organization_and_system_session_all(context: Flask) -> None:
    acme, _ = create_organization("acme"), create_organization("carol")
    with tenancy.tenant_session(acme) as current:
        assert read_names(current) == ["acme"]
    with tenancy.system_session("demo.seed") as current:
        assert read_names(current) == ["acme", "carol"]


def test_scope_ends_with_its_transaction(context: Flask) -> None:
    acme = create_organization("acme")
    with tenancy.tenant_session(acme) as current:
        assert read_names(current) == ["acme"]
    assert read_names(engine.session()) == []
    engine.session().rollback()


def test_scope_outlives_a_savepoint(context: Flask) -> None:
    with tenancy.tenant_session(create_organization("acme")) as current:
        with pytest.raises(DBAPIError), current.begin_nested():
            current.execute(sa.text("SELECT 1/0"))
        assert read_names(current) == ["acme"]


def test_exception_rolls_a_session_back(context: Flask) -> None:
    acme = create_organization("acme")

    def change() -> None:
        with tenancy.tenant_session(acme) as current:
            current.execute(sa.text("UPDATE organizations SET name = 'other'"))
            raise LookupError

    with pytest.raises(LookupError):
        change()
    with tenancy.tenant_session(acme) as current:
        assert read_names(current) == ["acme"]


def test_request_is_bound_once_for_all_its_transactions(app: Flask) -> None:
    with app.app_context():
        acme, carol = create_organization("acme"), create_organization("carol")
        tenancy.bind_request(acme)
        assert read_names(engine.session()) == ["acme"]
        engine.session().commit()
        assert read_names(engine.session()) == ["acme"]
        engine.session().rollback()
        with pytest.raises(RuntimeError):
            tenancy.bind_request(carol)


def test_request_cannot_be_bound_after_its_first_statement(context: Flask) -> None:
    acme = create_organization("acme")
    engine.session().execute(sa.text("SELECT 1"))
    with pytest.raises(RuntimeError):
        tenancy.bind_request(acme)
    engine.session().rollback()


USED_IN_TWO_FILES = {  # their names are in logs and keep their values
    "auth.account": {"accounts/sessions.py", "accounts/users.py"},
    "billing.close": {"billing/period_close.py", "billing/periods.py"},
    "queue.runs": {"core/jobs/counters.py", "core/jobs/schedule.py"},
    "webhooks.clean": {"webhooks/endpoints.py", "webhooks/events.py"},
}


def test_unregistered_system_purpose_is_rejected(context: Flask) -> None:
    with pytest.raises(RuntimeError), tenancy.system_session("anywhere"):
        pass


def test_scope_of_a_batch_ends_with_the_batch(context: Flask) -> None:
    acme, _ = create_organization("acme"), create_organization("carol")
    query: tuple[str, dict[str, Any]] = ("SELECT name FROM organizations", {})
    assert [name for (name,) in engine.execute_batch([tenancy.tenant_scope_statement(acme), query])] == ["acme"]
    assert engine.execute_batch([query]) == []


def test_isolated_database_passes_the_boot_check(context: Flask) -> None:
    tenancy.verify_isolation()


@pytest.mark.parametrize(
    ("breaking", "repairing", "reason"),
    [
        ("ALTER ROLE saas_tenant BYPASSRLS", "ALTER ROLE saas_tenant NOBYPASSRLS", "role saas_tenant"),
        ("ALTER ROLE saas_system SUPERUSER", "ALTER ROLE saas_system NOSUPERUSER", "role saas_system"),
        ("GRANT saas_system TO saas_tenant", "REVOKE saas_system FROM saas_tenant", "member of another role"),
        (
            "ALTER TABLE messages NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE messages FORCE ROW LEVEL SECURITY",
            "table messages",
        ),
        (
            "CREATE POLICY open ON tenancy_canary TO saas_tenant USING (true)",
            "DROP POLICY open ON tenancy_canary",
            "unbound transaction reads",
        ),
    ],
)
def test_database_without_isolation_fails_the_boot_check(
    context: Flask, superuser: Any, breaking: str, repairing: str, reason: str
) -> None:
    run = committed(superuser)
    run(breaking)
    try:
        with pytest.raises(UnsafeDatabase, match=reason):
            tenancy.verify_isolation()
    finally:
        run(repairing)


def committed(connection: Any) -> Callable[[str], None]:
    def run(statement: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    return run


def test_every_system_purpose_is_used_in_one_file(app: Flask) -> None:
    root = Path(tenancy.__file__).parents[2]
    files: dict[str, set[str]] = {purpose: set() for purpose in domain.registry.system_purposes}
    for path in root.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for purpose, users in files.items():
            if any(f'{function}("{purpose}"' in source for function in ("system_session", "system_scope_statement")):
                users.add(str(path.relative_to(root)))
    assert {purpose: users for purpose, users in files.items() if len(users) != 1} == USED_IN_TWO_FILES
