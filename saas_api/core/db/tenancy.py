"""Sessions of one organization and of the system, and the boot check of row-level security."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NewType
from uuid import UUID

import sqlalchemy as sa
from flask import g
from sqlalchemy.orm import Session

from saas_api.core import domain
from saas_api.core.db import cells, engine
from saas_api.core.db.engine import BIND_SCOPE_SQL, ScopedSession, TransactionScope, db
from saas_api.core.db.prepared import Statement
from saas_api.core.settings import setting

SystemSession = NewType("SystemSession", Session)
"""A session that sees every organization. mypy refuses a session of one organization or of a request in its place."""

_BIND_SCOPE = BIND_SCOPE_SQL.replace("%s", "%(bound_role)s", 1).replace("%s", "%(bound_to)s", 1)


class UnsafeDatabase(Exception):
    """Row-level security does not isolate organizations, so the process must not start."""


def bind_request(organization_id: UUID, *, is_read_only: bool = False) -> None:
    """Bind the transactions of this request to one organization; the gate calls it before the first statement.

    is_read_only: PostgreSQL rejects every write
    """
    if "scope" in g or (engine.is_session_open() and engine.session().in_transaction()):
        raise RuntimeError("A request is bound once, before its first statement.")
    cell = cells.cell_of(organization_id)
    g.scope = TransactionScope("saas_tenant", str(organization_id), is_read_only, cell)


@contextmanager
def tenant_session(organization_id: UUID) -> Iterator[Session]:
    """Open a transaction that sees one organization. It commits at the end and rolls back on an exception."""
    scope = TransactionScope("saas_tenant", str(organization_id), cell=cells.cell_of(organization_id))
    with (
        ScopedSession(db, info={"scope": scope}, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def snapshot_session(organization_id: UUID) -> Iterator[Session]:
    """Open a tenant session whose statements all see the state at the first one, for sums of several tables."""
    with tenant_session(organization_id) as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        yield session


@contextmanager
def system_session(purpose: str, *, sees_absent: bool = False) -> Iterator[SystemSession]:
    """Open a transaction that sees every organization of the current cell, or of home for a home purpose.

    purpose: a system purpose that a domain has registered, used in one package
    sees_absent: it also sees the rows that are here of organizations in other cells, or that are being moved, as home
        purposes do
    """
    _check_purpose(purpose)
    is_home = purpose in domain.registry.home_purposes
    cell = None if is_home else cells.current()
    sees_absent = (is_home or sees_absent) and cells.are_several()
    scope = TransactionScope("saas_system", cell=cell, sees_absent=sees_absent)
    with (
        ScopedSession(db, info={"scope": scope}, expire_on_commit=False) as session,
        session.begin(),
    ):
        yield SystemSession(session)


@contextmanager
def discarded_changes(session: Session) -> Iterator[None]:
    """Undo at the end of the block what was written in it, for a preview that has to write what it looks at."""
    savepoint = session.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def allow_long_statements(session: Session) -> None:
    """Let each statement of this transaction run for ten minutes, where the limit of `engine_options` stops others.

    For work that grows with the usage of an organization and has to end, such as its invoice; not for pages and lists.
    """
    session.execute(sa.text("SET LOCAL statement_timeout = '10min'"))


def tenant_scope_statement(organization_id: UUID) -> Statement:
    """Return the statement that binds a batch of `engine.execute_batch` to one organization."""
    return _BIND_SCOPE, {"bound_role": "saas_tenant", "bound_to": str(organization_id)}


def system_scope_statement(purpose: str) -> Statement:
    """Return the statement that lets a batch of `engine.execute_batch` see every organization.

    purpose: a system purpose that a domain has registered, used in one package
    """
    _check_purpose(purpose)
    return _BIND_SCOPE, {"bound_role": "saas_system", "bound_to": ""}


def _check_purpose(purpose: str) -> None:
    if purpose not in domain.registry.system_purposes:
        raise RuntimeError(f"No domain registers the system purpose {purpose}.")


_ROLES = """
SELECT r.rolname, r.rolsuper, r.rolbypassrls, EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) AS is_member
  FROM pg_roles r WHERE r.rolname IN ('saas_tenant', 'saas_system')
"""
_LOGIN = """
SELECT session_user AS name, rolsuper, rolbypassrls, rolcreaterole,
  EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = to_regnamespace(current_schema()) AND c.relkind IN ('r', 'p')
             AND pg_has_role(session_user, c.relowner, 'MEMBER')) AS owns_tables,
  pg_has_role(session_user, (SELECT nspowner FROM pg_namespace WHERE nspname = current_schema()), 'MEMBER')
    OR pg_has_role(session_user, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'MEMBER')
    AS owns_schema
  FROM pg_roles WHERE rolname = session_user
"""
_TABLES_WITHOUT_RLS = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
   AND NOT (c.relforcerowsecurity AND row_security_active(c.oid))
   AND EXISTS (SELECT FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped)
"""


def verify_isolation(server: sa.Engine | None = None) -> None:
    """Check on a new connection to each cell that a transaction without a scope sees no rows of an organization.

    In production also that the login can neither change nor bypass what protects the rows. A cell that does not respond
    is left out; requests find it again.
    server: the replica; the cells by default
    raises: UnsafeDatabase with every reason
    """
    if server is not None:
        _verify_server(server)
    else:
        cells.run_in_each(lambda: _verify_server(engine.current_engine()))


def _verify_server(server: sa.Engine) -> None:
    with server.connect() as connection:
        reasons = list(_login_problems(connection)) if setting("APP_ENV") == "production" else []
        reasons += _isolation_problems(connection)
    if reasons:
        raise UnsafeDatabase("; ".join(reasons))


def _login_problems(connection: sa.Connection) -> Iterator[str]:
    login = connection.execute(sa.text(_LOGIN)).one()
    if login.rolsuper:
        yield f"the login {login.name} is a superuser"
    elif login.rolbypassrls or login.rolcreaterole:
        yield f"the login {login.name} bypasses row-level security or may create roles"
    elif login.owns_tables or login.owns_schema:
        yield f"the login {login.name} owns the tables or their schema, or may become the login that does"


def _isolation_problems(connection: sa.Connection) -> Iterator[str]:
    user = connection.scalar(sa.text("SELECT current_user"))
    if user != "saas_tenant":
        yield f"connections have the role {user}, not saas_tenant"
        return  # which may not read what follows
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
