"""Copies of whole rows from one database to another, for the few tables that several cells have."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from saas_api.core.db import cells
from saas_api.core.db.tenancy import SystemSession

REFRESH_SECONDS = 60

_COLUMNS = sa.text("""
SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum) AS names,
  array_agg(quote_ident(a.attname) ORDER BY a.attnum) FILTER (WHERE a.attnum = ANY (i.indkey)) AS keys
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0 AND NOT a.attisdropped
WHERE i.indrelid = CAST(:table AS regclass) AND i.indisprimary AND a.attgenerated = ''""")


def once_a_minute(copy: Callable[[str], None]) -> Callable[[], None]:
    """Make a sweep of a function that brings the copies of a cell up to date; at home it does nothing."""
    last_at: dict[str, float] = {}

    @functools.wraps(copy)
    def run() -> None:
        cell, now = cells.current(), time.monotonic()
        if cell is not None and now - last_at.get(cell, -REFRESH_SECONDS) >= REFRESH_SECONDS:
            copy(cell)
            last_at[cell] = now

    return run


def push(copy: Callable[[str], None]) -> None:
    """Call a function that copies to a cell for each cell but home; those that do not respond are left to the sweep."""

    def copy_to_current() -> None:
        cell = cells.current()
        if cell is not None:
            copy(cell)

    cells.run_in_each(copy_to_current)


def read_rows(
    session: SystemSession, table: str, condition: str, values: Mapping[str, Any], replaced: str = "{}"
) -> str:
    """Rows as a JSON array, in the order of their key.

    condition: SQL on the row `r`
    replaced: columns with other values than the row has, as a JSON object
    """
    keys = ", ".join(session.execute(_COLUMNS, {"table": table}).one().keys)
    rows: str = session.scalar(
        sa.text(f"""SELECT coalesce(jsonb_agg(to_jsonb(r) || CAST(:replaced AS jsonb) ORDER BY {keys}), '[]')::text
          FROM {table} r WHERE {condition}"""),
        {**values, "replaced": replaced},
    )
    return rows


def write_rows(session: SystemSession, table: str, rows: str, *, is_update: bool = True) -> None:
    """Insert rows; those whose key exists are updated where they differ.

    rows: as of `read_rows`
    is_update: False leaves rows that exist as they are
    """
    columns = session.execute(_COLUMNS, {"table": table}).one()
    names, keys = ", ".join(columns.names), ", ".join(columns.keys)
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns.names)
    update = f"DO UPDATE SET {changed} WHERE old IS DISTINCT FROM excluded" if is_update else "DO NOTHING"
    session.execute(
        sa.text(f"""INSERT INTO {table} AS old ({names})
          SELECT {names} FROM jsonb_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS jsonb))
          ON CONFLICT ({keys}) {update}"""),
        {"rows": rows},
    )
