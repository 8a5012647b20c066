"""The revision that the database records."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from flask import Flask


@contextmanager
def stamped_revision(app: Flask, revision: str) -> Iterator[None]:
    """Record another revision of the database during the block."""
    newest = _stamp(app, revision)
    try:
        yield
    finally:
        _stamp(app, newest)


def _stamp(app: Flask, revision: str) -> str:
    engine = sa.create_engine(app.config["DATABASE_OWNER_URL"], poolclass=sa.NullPool)
    with engine.begin() as connection:
        before = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    return str(before)
