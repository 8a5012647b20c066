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

_DIGEST = "hashtextextended(({row})::text, 0)"
_IS_OTHERWISE = f"""({{key}}, {_DIGEST}) NOT IN (
  SELECT * FROM unnest(CAST(:keys AS text[]), CAST(:digests AS bigint[])))"""


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


def copy_changes(
    source: SystemSession,
    target: SystemSession,
    table: str,
    condition: str = "true",
    *,
    deletes: bool = False,
    **values: Any,
) -> None:
    """Bring the rows of a table up to date in the target; those that are equal already are not carried.

    condition: as of `read_changes`
    deletes: rows that the source has no longer, or otherwise, are deleted first; without it the former stay
    """
    changes = read_changes(source, target, table, condition, **values)
    if deletes:
        kept = _read_digests(source, table, condition, values)
        gone = f"({condition}) AND {_IS_OTHERWISE.format(key=_key_of(target, table), row='to_jsonb(r)')}"
        target.execute(sa.text(f"DELETE FROM {table} r WHERE {gone}"), {**values, **kept})
    write_rows(target, table, changes)


def read_changes(
    source: SystemSession, target: SystemSession, table: str, condition: str, *, replaced: str = "{}", **values: Any
) -> str:
    """Rows of the source that the target lacks or has otherwise, as a JSON array in the order of their key.

    condition: SQL on the row `r`, with values of these names; it chooses the rows that are compared in both databases
    replaced: columns that have other values in the target, as a JSON object
    """
    known = _read_digests(target, table, condition, values)
    key = _key_of(source, table)
    is_otherwise = _IS_OTHERWISE.format(key=key, row="w.content")
    rows: str = source.scalar(
        sa.text(f"""SELECT coalesce(jsonb_agg(w.content ORDER BY {key}), '[]')::text
          FROM {table} r, LATERAL (SELECT to_jsonb(r) || CAST(:replaced AS jsonb) AS content) w
          WHERE ({condition}) AND {is_otherwise}"""),
        {**values, **known, "replaced": replaced},
    )
    return rows


def _read_digests(session: SystemSession, table: str, condition: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keys as texts, and a digest of each row."""
    columns = f"array_agg({_key_of(session, table)}) AS keys, array_agg({_DIGEST.format(row='to_jsonb(r)')}) AS digests"
    return session.execute(sa.text(f"SELECT {columns} FROM {table} r WHERE {condition}"), values).one()._asdict()


def _key_of(session: SystemSession, table: str) -> str:
    """SQL of the primary key of the row `r` as a text."""
    keys = session.execute(_COLUMNS, {"table": table}).one().keys
    return f"ROW({', '.join(f'r.{key}' for key in keys)})::text"


def write_rows(session: SystemSession, table: str, rows: str, *, is_update: bool = True) -> None:
    """Insert rows; those whose key exists are updated where they differ.

    rows: as of `read_changes`
    is_update: False leaves rows that exist as they are
    """
    if rows == "[]":
        return
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
