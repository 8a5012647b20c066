"""Tenant_session, system_session(purpose) -> SystemSession, row-level security and its boot check."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import g
from sqlalchemy.orm import Session

from saas_api.core import domain
from saas_api.core.db.engine import BIND_SCOPE_SQL, ScopedSession, TransactionScope, db

_BIND = BIND_SCOPE_SQL.replace("%s", "%(bound_role)s", 1).replace("%s", "%(bound_to)s", 1)


class UnsafeDatabase(Exception):
    """The database would let a forgotten filter read another tenant; the process must not start."""


def bind_request(organization_id: UUID, *, is_read_only: bool = False) -> None:
    """Bind this request to one organization; the gate does it once, before the first statement.

    is_read_only: PostgreSQL refuses every write
    """
    if g.get("scope") or db.session().in_transaction():
        raise RuntimeError("a tenant is bound once, before the first statement")
    g.scope = TransactionScope("saas_tenant", str(organization_id), is_read_only)


@contextmanager
def tenant_session(organization_id: UUID) -> Iterator[Session]:
    """One transaction of its own for one organization; commits at the end, rolls back on an exception."""
    scope = TransactionScope("saas_tenant", str(organization_id))
    with (
        ScopedSession(db, info={"scope": scope}, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def system_session(place: str) -> Iterator[Session]:
    """One transaction of its own across organizations.

    place: a system purpose that a domain has registered, used in one package
    """
    _check_purpose(place)
    with (
        ScopedSession(db, info={"scope": TransactionScope("saas_system")}, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


def tenant_scope_statement(organization_id: UUID) -> tuple[str, dict[str, Any]]:
    """The statement that binds a batch of `engine.execute_batch` to one organization."""
    return _BIND, {"bound_role": "saas_tenant", "bound_to": str(organization_id)}


def system_scope_statement(place: str) -> tuple[str, dict[str, Any]]:
    """The statement that lets a batch of `engine.execute_batch` work across organizations.

    place: a system purpose that a domain has registered, used in one package
    """
    _check_purpose(place)
    return _BIND, {"bound_role": "saas_system", "bound_to": ""}


def _check_purpose(place: str) -> None:
    if place not in domain.registry.system_purposes:
        raise RuntimeError(f"No domain registers the system purpose {place}.")


_ROLES = """
SELECT r.rolname, r.rolsuper, r.rolbypassrls, EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) AS is_member
  FROM pg_roles r WHERE r.rolname IN ('saas_tenant', 'saas_system')
"""
_TABLES_WITHOUT_RLS = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
   AND NOT (c.relforcerowsecurity AND row_security_active(c.oid))
   AND EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped)
"""


def verify_isolation() -> None:
    """Prove on a fresh connection that forgetting a tenant shows nothing.

    raises: UnsafeDatabase with every reason
    """
    with db.engine.connect() as connection:
        reasons = list(_isolation_problems(connection))
    if reasons:
        raise UnsafeDatabase("; ".join(reasons))


def _isolation_problems(connection: sa.Connection) -> Iterator[str]:
    user = connection.scalar(sa.text("SELECT current_user"))
    if user != "saas_tenant":
        yield f"connections speak as {user}, not as saas_tenant"
    for role in connection.execute(sa.text(_ROLES)):
        if role.rolsuper or role.rolbypassrls or role.is_member:
            yield f"role {role.rolname} is superuser, bypasses row-level security or is a member of another role"
    for table in connection.scalars(sa.text(_TABLES_WITHOUT_RLS)):
        yield f"table {table} is not protected by row-level security"
    count = "SELECT count(*) FROM tenancy_canary"
    if connection.scalar(sa.text(count)) != 0:
        yield "an unbound transaction reads tenant rows"
    connection.execute(sa.text("SELECT set_config('role', 'saas_system', true)"))
    if connection.scalar(sa.text(count)) != 1:
        yield "the system role does not read the canary row"
