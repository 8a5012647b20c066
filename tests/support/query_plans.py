"""The plans of the SQL statements of a block, as PostgreSQL runs them."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask import Flask
from sqlalchemy import event

from saas_api.core.db.engine import db


@dataclass(frozen=True)
class Scan:
    """One scan of a table.

    loops: how often it ran
    rows_read: rows that all its runs looked at, those that a filter removed included
    timeout: statement_timeout of its statement
    """

    table: str
    loops: int
    rows_read: int
    timeout: str


@contextmanager
def collect_scans(app: Flask, table: str) -> Iterator[list[Scan]]:
    """Collect the scans of a table by this thread: every statement that names it runs twice, once for its plan."""
    scans: list[Scan] = []
    thread_id = threading.get_ident()
    with app.app_context():
        engine = db.engine

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if threading.get_ident() != thread_id or table not in statement:
            return
        with cursor.connection.cursor() as own:
            own.execute("SHOW statement_timeout")
            [timeout] = own.fetchone()
            own.execute("SAVEPOINT before_plan")
            own.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters)
            [[plan]] = own.fetchone()
            own.execute("ROLLBACK TO SAVEPOINT before_plan")
        scans.extend(_scans(plan["Plan"], table, timeout))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield scans
    finally:
        event.remove(engine, "before_cursor_execute", explain)


def _scans(node: dict[str, Any], table: str, timeout: str) -> Iterator[Scan]:
    loops = int(node["Actual Loops"])
    is_of_table = re.fullmatch(rf"{table}(_y\d{{4}}m\d\d|_default)?", node.get("Relation Name", ""))
    if is_of_table and node["Node Type"].endswith("Scan") and loops > 0:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        yield Scan(node["Relation Name"], loops, round((node["Actual Rows"] + removed) * loops), timeout)
    for child in node.get("Plans", ()):
        yield from _scans(child, table, timeout)
