"""How many queries a page takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from sqlalchemy import event

from saas_api.core.db.engine import db


@contextmanager
def counted(app: Flask) -> Iterator[list[str]]:
    """The queries of a block, without those of what is written behind requests."""
    seen: list[str] = []
    own = threading.get_ident()
    with app.app_context():
        engine = db.engine

    def see(*arguments: Any) -> None:
        if threading.get_ident() == own:
            seen.append(arguments[2])

    event.listen(engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", see)
