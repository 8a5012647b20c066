"""Runs the migrations as the login that owns each database, one process at a time."""

from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from flask import current_app
from sqlalchemy.pool import NullPool

from saas_api.core.db import presence, roles

# Any number that nothing else locks: two processes that start together migrate one after the other.
MIGRATION_LOCK_KEY = 7_215_903
NO_AUTOGENERATE = (
    "Migrations are written in SQL, because models do not declare partitions, policies, triggers and indexes. "
    'Create an empty one with flask db revision -m "what it does"; flask db check compares models and database.'
)


def is_declared_by_model(
    _object: Any, _name: str | None, _type: str, is_reflected: bool, model_object: Any | None
) -> bool:
    """Whether `flask db check` compares an object; what only the database has is the migrations' own."""
    return not is_reflected or model_object is not None


def run() -> None:
    """Bring every database to the requested revision, or compare it with the models, as the login of its owner.

    raises: CommandError when the server is too old or the login lacks a right, or for autogenerate
    """
    if getattr(context.config.cmd_opts, "autogenerate", False):
        raise CommandError(NO_AUTOGENERATE)
    cells = current_app.config.get("CELLS_OWNER", {})
    for setting, url in {"DATABASE_OWNER_URL": current_app.config["DATABASE_OWNER_URL"], **cells}.items():
        migrate_database(setting, url, has_cells=bool(cells))


def migrate_database(setting: str, url: str, *, has_cells: bool) -> None:
    """Bring one database to the requested revision.

    setting: that has its address, for messages; the name of a cell for one of CELLS
    has_cells: organizations may leave it
    """
    metadata = current_app.extensions["migrate"].db.metadata
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"application_name": "saas-api db"})
    with engine.connect() as connection:
        major = (connection.dialect.server_version_info or (0,))[0]
        if major < roles.MIN_POSTGRES:
            raise CommandError(f"PostgreSQL {major} is too old: use {roles.MIN_POSTGRES} to {roles.MAX_POSTGRES}.")
        missing = roles.missing_right(connection) or (has_cells and roles.missing_mover(connection))
        if missing:
            raise CommandError(f"{setting}: {missing}; run the SQL that flask db roles prints.")
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK_KEY})
        connection.execute(sa.text("SET lock_timeout = '5s'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=metadata,
            transaction_per_migration=True,
            include_object=is_declared_by_model,
        )
        with context.begin_transaction():
            context.run_migrations()
        if has_cells:
            presence.protect_tables(connection)


run()
