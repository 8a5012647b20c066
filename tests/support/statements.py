"""Counts the SQL statements of a block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from sqlalchemy import event

from saas_api.core.db.engine import db

MAX_PAGE_STATEMENTS = 16
"""How many statements a page may take; every page needs nine for its session, its layout and its spend cap."""


@contextmanager
def count_statements(app: Flask) -> Iterator[list[str]]:
    """Collect the statements that this thread executes; background threads of the application do not count."""
    statements: list[str] = []
    thread_id = threading.get_ident()
    with app.app_context():
        engine = db.engine

    def collect(*arguments: Any) -> None:
        if threading.get_ident() == thread_id:
            statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", collect)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", collect)
