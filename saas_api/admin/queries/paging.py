"""Lists across tenants, newest first, by position instead of page number; or all of them, for a file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from saas_api.core.errors import Invalid
from saas_api.core.fields import Page, decode_cursor, encode_cursor

MOST_ROWS = 50_000
Column = sa.ColumnElement[Any] | InstrumentedAttribute[Any]


def page_of(
    session: Session, wanted: sa.Select[*tuple[Any, ...]], query: dict[str, Any], columns: Sequence[Column]
) -> Page:
    """One page of a list, or with `format=csv` the whole of it.

    query: `limit`, `cursor` and `format`
    columns: by which the list runs, downwards; together they tell rows apart; each row ends with their values
    raises: Invalid for a cursor of another list, and for more rows than a file takes
    """
    own = [column.label(f"order_{place}") for place, column in enumerate(columns)]
    statement = wanted.add_columns(*own).order_by(*(column.desc() for column in columns))
    if query["format"] == "csv":
        return Page(_all(session, statement), None, MOST_ROWS)
    if query["cursor"]:
        statement = statement.where(sa.tuple_(*columns) < sa.tuple_(*_position(query["cursor"], columns)))
    rows = session.execute(statement.limit(query["limit"] + 1)).all()
    following = None
    if len(rows) > query["limit"]:
        following = encode_cursor(*(_text(value) for value in rows[query["limit"] - 1][-len(columns) :]))
    return Page(rows[: query["limit"]], following, query["limit"])


def _all(session: Session, statement: sa.Select[*tuple[Any, ...]]) -> Sequence[Any]:
    rows = session.execute(statement.limit(MOST_ROWS + 1)).all()
    if len(rows) > MOST_ROWS:
        raise Invalid.at("format", f"More than {MOST_ROWS:,} rows; narrow the filters first.")
    return rows


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _position(cursor: str, columns: Sequence[Column]) -> list[Any]:
    values = decode_cursor(cursor)
    try:
        return [sa.literal(_read(text, column), column.type) for text, column in zip(values, columns, strict=True)]
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause


def _read(text: str, column: Column) -> Any:
    if isinstance(column.type, sa.DateTime):
        return datetime.fromisoformat(text)
    if isinstance(column.type, sa.Integer):
        return int(text)
    return UUID(text) if isinstance(column.type, sa.Uuid) else text
