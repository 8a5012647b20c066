"""The revision that the database records."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from flask import Flask

from saas_api.core.db.engine import db


@contextmanager
def stamped_revision(app: Flask, revision: str) -> Iterator[None]:
    """Record another revision of the database during the block."""
    newest = _stamp(app, revision)
    try:
        yield
    finally:
        _stamp(app, newest)


def _stamp(app: Flask, revision: str) -> str:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL ROLE NONE"))
        before = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    return str(before)
