"""Runs the migrations as the login that owns the database, one process at a time."""

import sqlalchemy as sa
from alembic import context
from flask import current_app
from sqlalchemy.pool import NullPool

# Any number will do that nothing else locks: two processes that start together migrate one after the other.
MIGRATING = 7_215_903


def run() -> None:
    """Bring the database to the asked revision.

    Every other connection of the application begins as `saas_tenant`; this one must stay the owner.
    """
    metadata = current_app.extensions["migrate"].db.metadata
    engine = sa.create_engine(current_app.config["SQLALCHEMY_DATABASE_URI"], poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATING})
        connection.execute(sa.text("SET lock_timeout = '5s'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


run()
