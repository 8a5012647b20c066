"""Database logins and roles: the SQL that creates them, and what a login lacks to migrate.

The owner holds the tables and runs migrations. The runtime login owns nothing: it sets one of `ROLES` in each
transaction and inherits neither, because an inherited policy of `saas_system` would open every table to a transaction
that was not bound to an organization.
"""

import re
from dataclasses import dataclass

import sqlalchemy as sa

ROLES = ("saas_tenant", "saas_system")
MOVER = "saas_mover"
"""Moves organizations between cells: it sees every row and fires no trigger. Only owners may become it."""
MIN_POSTGRES_OF_CELLS = 15
MIN_POSTGRES, MAX_POSTGRES = 14, 18
_FIRST_WITH_GRANT_OPTIONS = 16
_RIGHTS = sa.text("""
SELECT current_user AS login, coalesce(current_schema(), 'public') AS schema,
  (SELECT count(*) FROM pg_roles WHERE rolname = ANY(:roles)) AS roles,
  coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
  EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace(current_schema()) AND relkind IN ('r', 'p')
             AND NOT pg_has_role(relowner, 'USAGE')) AS lacks_ownership
""")
_SCHEMA_USAGE = sa.text("SELECT bool_and(has_schema_privilege(role, :schema, 'USAGE')) FROM unnest(:roles) AS role")


CONNECTION_SETTINGS = {"role": "saas_tenant", "timezone": "UTC", "statement_timeout": "10000", "lock_timeout": "3000"}
"""Of every connection of the product; without them a transaction that is bound to no scope would see rows."""


@dataclass(frozen=True)
class DatabaseLogins:
    """Names of the logins and of the database; the owner may be the runtime login outside production."""

    owner: str
    runtime: str
    database: str

    @classmethod
    def from_urls(cls, owner_url: str, runtime_url: str) -> "DatabaseLogins":
        """The names in DATABASE_OWNER_URL and DATABASE_URL."""
        owner, runtime = sa.make_url(owner_url), sa.make_url(runtime_url)
        login = runtime.username or "saas_app"
        return cls(owner.username or login, login, runtime.database or login)


def cluster_statements(names: DatabaseLogins, major: int) -> list[str]:
    """SQL for an administrator that creates both logins and both roles; repeating it changes nothing.

    major: version of the server, MIN_POSTGRES to MAX_POSTGRES
    """
    logins = list(dict.fromkeys((names.owner, names.runtime)))
    statements = [_create_role(role, "NOLOGIN") for role in ROLES]
    statements += [_create_role(login, "LOGIN NOINHERIT") for login in logins]
    granted = ", ".join(ROLES)
    for login in map(quote, logins):
        if major >= _FIRST_WITH_GRANT_OPTIONS:
            statements.append(f"GRANT {granted} TO {login} WITH INHERIT FALSE, SET TRUE")
        else:
            statements += [f"ALTER ROLE {login} NOINHERIT", f"GRANT {granted} TO {login}"]
    return statements


def schema_statements(names: DatabaseLogins) -> list[str]:
    """SQL for an administrator in the product's database: its owner alone creates tables."""
    return [
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {quote(names.owner)}",
        f"GRANT USAGE ON SCHEMA public TO {', '.join(ROLES)}",
    ]


def mover_statements(names: DatabaseLogins) -> list[str]:
    """SQL for a superuser in the product's database that lets its owner move organizations; MIN_POSTGRES_OF_CELLS."""
    return [
        _create_role(MOVER, "NOLOGIN BYPASSRLS"),
        f"GRANT {MOVER} TO {quote(names.owner)}",
        f"GRANT pg_read_all_stats TO {MOVER}",
        f"GRANT SET ON PARAMETER session_replication_role TO {MOVER}",
        f"GRANT USAGE ON SCHEMA public TO {MOVER}",
    ]


def pooler_statements(names: DatabaseLogins) -> list[str]:
    """SQL for an administrator that gives the runtime login the settings of its connections behind a pooler."""
    login, database = quote(names.runtime), quote(names.database)
    return [
        f"ALTER ROLE {login} IN DATABASE {database} SET {name} = '{value}'"
        for name, value in CONNECTION_SETTINGS.items()
    ]


def become_owner_statement(names: DatabaseLogins, major: int) -> str:
    """SQL that lets an administrator who is no superuser, as providers have them, give the database to its owner."""
    kind, literal = "SET" if major >= _FIRST_WITH_GRANT_OPTIONS else "MEMBER", names.owner.replace("'", "''")
    return (
        f"DO $$ BEGIN IF NOT pg_has_role('{literal}', '{kind}') THEN "
        f"GRANT {quote(names.owner)} TO CURRENT_USER; END IF; END $$"
    )


def create_database_statement(names: DatabaseLogins) -> str:
    """SQL for an administrator that creates the database."""
    return f"CREATE DATABASE {quote(names.database)} OWNER {quote(names.owner)}"


def missing_right(connection: sa.Connection) -> str | None:
    """What the login of a connection lacks to migrate, as one line; None when it lacks nothing."""
    rights = connection.execute(_RIGHTS, {"roles": list(ROLES)}).one()
    if rights.roles < len(ROLES):
        return f"the roles {' and '.join(ROLES)} do not both exist"
    if not rights.may_create:
        return f"the login {rights.login} may not create tables in the schema {rights.schema}"
    if rights.lacks_ownership:
        return f"the login {rights.login} does not own the tables"
    if not connection.scalar(_SCHEMA_USAGE, {"schema": rights.schema, "roles": list(ROLES)}):
        return f"the roles {' and '.join(ROLES)} may not use the schema {rights.schema}"
    return None


def is_role_missing(reason: str) -> bool:
    """Whether PostgreSQL refused a connection because a login, a role, a grant or the database is missing.

    reason: text of the error; there is no SQLSTATE before a connection is open
    """
    return re.search(r'(role|database) ".*" does not exist|permission denied to set role', reason) is not None


def missing_mover(connection: sa.Connection) -> str | None:
    """What the login of a connection lacks to move organizations, as one line; None when it lacks nothing."""
    statement = f"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '{MOVER}' AND pg_has_role(oid, 'MEMBER'))"
    return None if connection.scalar(sa.text(statement)) else f"the login may not become {MOVER}"


def quote(name: str) -> str:
    """A name as an SQL identifier, in quotes only when it needs them."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def _create_role(name: str, kind: str) -> str:
    literal = name.replace("'", "''")
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{literal}') THEN "
        f"CREATE ROLE {quote(name)} {kind}; END IF; END $$"
    )
