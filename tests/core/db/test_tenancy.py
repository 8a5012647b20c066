"""Who a transaction speaks for, on the real engine."""

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


def organization(name: str) -> UUID:
    made = ids.new_id()
    with tenancy.system_session("demo.seed") as current:
        current.execute(
            sa.text("INSERT INTO organizations (id, name, slug) VALUES (:id, :name, :name)"), {"id": made, "name": name}
        )
    return made


def names(current: Session) -> list[str]:
    return list(current.scalars(NAMES))


def test_a_transaction_nobody_bound_sees_nothing_and_writes_nothing(context: Flask) -> None:
    made = organization("acme")
    assert names(engine.session()) == []
    assert engine.session().scalar(sa.text("SELECT current_user")) == "saas_tenant"
    with pytest.raises(DBAPIError, match=r"row-level security|permission denied"):
        engine.session().execute(
            sa.text(
                "INSERT INTO messages (organization_id, channel, recipient, body, accepted_at, next_at)"
                " VALUES (:made, 'sms', 'r', 'b', now(), now())"
            ),
            {"made": made},
        )
    engine.session().rollback()


def test_a_tenant_sees_itself_and_the_system_sees_all(context: Flask) -> None:
    acme, _ = organization("acme"), organization("carol")
    with tenancy.tenant_session(acme) as current:
        assert names(current) == ["acme"]
    with tenancy.system_session("demo.seed") as current:
        assert names(current) == ["acme", "carol"]


def test_a_binding_ends_with_its_transaction(context: Flask) -> None:
    acme = organization("acme")
    with tenancy.tenant_session(acme) as current:
        assert names(current) == ["acme"]
    assert names(engine.session()) == []
    engine.session().rollback()


def test_a_binding_outlives_a_savepoint(context: Flask) -> None:
    with tenancy.tenant_session(organization("acme")) as current:
        with pytest.raises(DBAPIError), current.begin_nested():
            current.execute(sa.text("SELECT 1/0"))
        assert names(current) == ["acme"]


def test_an_exception_leaves_nothing(context: Flask) -> None:
    acme = organization("acme")

    def change() -> None:
        with tenancy.tenant_session(acme) as current:
            current.execute(sa.text("UPDATE organizations SET name = 'other'"))
            raise LookupError

    with pytest.raises(LookupError):
        change()
    with tenancy.tenant_session(acme) as current:
        assert names(current) == ["acme"]


def test_a_request_is_bound_by_one_statement_and_once(app: Flask) -> None:
    with app.app_context():
        acme, carol = organization("acme"), organization("carol")
        tenancy.bind_request(acme)
        assert names(engine.session()) == ["acme"]
        engine.session().commit()
        assert names(engine.session()) == ["acme"]
        engine.session().rollback()
        with pytest.raises(RuntimeError):
            tenancy.bind_request(carol)


def test_a_tenant_is_not_bound_after_the_first_statement(context: Flask) -> None:
    acme = organization("acme")
    engine.session().execute(sa.text("SELECT 1"))
    with pytest.raises(RuntimeError):
        tenancy.bind_request(acme)
    engine.session().rollback()


def test_the_system_works_at_named_places_only(context: Flask) -> None:
    with pytest.raises(RuntimeError), tenancy.system_session("anywhere"):
        pass


def test_a_single_round_trip_is_bound_and_bound_no_longer_than_itself(context: Flask) -> None:
    acme, _ = organization("acme"), organization("carol")
    question: tuple[str, dict[str, Any]] = ("SELECT name FROM organizations", {})
    assert [name for (name,) in engine.execute_batch([tenancy.tenant_scope_statement(acme), question])] == ["acme"]
    assert engine.execute_batch([question]) == []


def test_a_safe_database_passes_the_boot_check(context: Flask) -> None:
    tenancy.verify_isolation()


@pytest.mark.parametrize(
    ("spoil", "mend", "reason"),
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
def test_an_unsafe_database_is_refused(context: Flask, superuser: Any, spoil: str, mend: str, reason: str) -> None:
    run = committed(superuser)
    run(spoil)
    try:
        with pytest.raises(UnsafeDatabase, match=reason):
            tenancy.verify_isolation()
    finally:
        run(mend)


def committed(connection: Any) -> Callable[[str], None]:
    def run(statement: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    return run


def test_every_system_purpose_is_used_in_one_package(app: Flask) -> None:
    root = Path(tenancy.__file__).parents[2]
    packages: dict[str, set[str]] = {purpose: set() for purpose in domain.registry.system_purposes}
    for path in root.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for purpose, users in packages.items():
            if any(f'{function}("{purpose}")' in source for function in ("system_session", "system_scope_statement")):
                users.add(path.relative_to(root).parts[0])
    assert {purpose: users for purpose, users in packages.items() if len(users) != 1} == {}
