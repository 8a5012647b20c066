"""`flask db roles`, which joins Flask-Migrate's commands."""

import click
import sqlalchemy as sa
from flask import Flask
from flask.cli import with_appcontext
from flask_migrate import Migrate
from flask_migrate.cli import db as migration_commands
from sqlalchemy.exc import SQLAlchemyError

from saas_api.cli import errors
from saas_api.cli.errors import Command, CommandError
from saas_api.core.db import cells, roles
from saas_api.core.db.engine import db
from saas_api.core.db.roles import MAX_POSTGRES, MIN_POSTGRES, DatabaseLogins
from saas_api.core.settings import setting


def init_app(app: Flask) -> None:
    """Add Flask-Migrate to an application; its command `db` is Flask's."""
    Migrate(app, db, directory="migrations")
    migration_commands.add_command(print_roles)


@click.command("roles", cls=Command)
@click.option(
    "--major",
    type=click.IntRange(MIN_POSTGRES, MAX_POSTGRES),
    help="Major version of the server; without it, the server is asked.",
)
@click.option(
    "--pgbouncer", "has_pooler", is_flag=True, help="Include the settings that DATABASE_POOLER=pgbouncer needs."
)
@click.option(
    "--cell", metavar="NAME", default=cells.HOME, help="Cell whose cluster to prepare; by default that of DATABASE_URL."
)
@with_appcontext
def print_roles(*, major: int | None, has_pooler: bool, cell: str) -> None:
    """Print the SQL that creates the database, its logins and its roles. It is safe to run again.

    Names come from DATABASE_OWNER_URL and DATABASE_URL. Run the SQL in psql as a superuser, or as an administrator
    with CREATEROLE and CREATEDB, then set a password for each login. With CELLS, run it on each cluster; only a
    superuser can create the role that moves organizations.

    Example: flask db roles --major 15 | psql -U postgres
    """
    owners = {cells.HOME: setting("DATABASE_OWNER_URL"), **setting("CELLS_OWNER")}
    urls = {cells.HOME: setting("DATABASE_URL"), **setting("CELLS")}
    if cell not in urls:
        raise CommandError(f"CELLS names no cell {cell}.")
    major = major or _server_major(urls[cell])
    if cells.are_several() and major < roles.MIN_POSTGRES_OF_CELLS:
        raise CommandError(f"Cells need PostgreSQL {roles.MIN_POSTGRES_OF_CELLS} or later, this is {major}.")
    names = DatabaseLogins.from_urls(owners[cell], urls[cell])
    click.echo(script(names, major, has_pooler=has_pooler, has_mover=cells.are_several()))


def script(names: DatabaseLogins, major: int, *, has_pooler: bool = False, has_mover: bool = False) -> str:
    """The SQL as a script for psql."""
    literal = names.database.replace("'", "''")
    missing = f"WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{literal}')"
    create = roles.create_database_statement(names).replace("'", "''")
    logins = dict.fromkeys((names.owner, names.runtime))
    lines = [f"-- PostgreSQL {major}; the owner of the tables is {names.owner}, the processes use {names.runtime}."]
    lines += [f"{statement};" for statement in roles.cluster_statements(names, major)]
    lines.append(f"{roles.become_owner_statement(names, major)};")
    lines += [f"SELECT '{create}' {missing} \\gexec", f"\\connect {roles.quote(names.database)}"]
    lines += [f"{statement};" for statement in roles.schema_statements(names)]
    lines += [f"{statement};" for statement in (roles.pooler_statements(names) if has_pooler else [])]
    lines += [f"{statement};" for statement in (roles.mover_statements(names) if has_mover else [])]
    lines += [f"-- In psql, \\password {roles.quote(login)} sets the password of {login}." for login in logins]
    return "\n".join(lines)


def _server_major(url: str) -> int:
    engine = sa.create_engine(url, connect_args={"connect_timeout": 3})
    try:
        with engine.connect() as connection:
            return int(str(connection.scalar(sa.text("SHOW server_version_num")))) // 10_000
    except SQLAlchemyError as error:
        reason = errors.database_reason(error)
        raise CommandError(f"The server's version cannot be asked ({reason}); give it with --major.") from None
    finally:
        engine.dispose()
