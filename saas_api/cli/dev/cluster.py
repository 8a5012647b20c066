"""What an empty PostgreSQL cluster needs before the migrations: the login and its database."""

from typing import Any

from psycopg2 import sql

from saas_api.cli.dev.addresses import LOGIN

SUPERUSER = "postgres"
_ROLES = ("saas_tenant", "saas_system")


def make_login(connection: Any) -> None:
    """Make the application's login and the two roles it may take; it inherits neither and is no superuser."""
    with connection.cursor() as cursor:
        for role in (*_ROLES, LOGIN):
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
            if cursor.fetchone() is None:
                kind = "LOGIN" if role == LOGIN else "NOLOGIN"
                cursor.execute(sql.SQL("CREATE ROLE {} " + kind).format(sql.Identifier(role)))
        for role in _ROLES:
            statement = sql.SQL("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE")
            cursor.execute(statement.format(sql.Identifier(role), sql.Identifier(LOGIN)))


def make_database(connection: Any, name: str, template: str | None = None) -> None:
    """Make a database of the login's own unless it exists."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(LOGIN))
            if template:
                statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            cursor.execute(statement)
