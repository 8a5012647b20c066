"""Keyset pagination of every list: `paginate` for SELECT statements, `Keyset` for SQL text.

A cursor is opaque to clients. It holds the sort keys of the last row of a page and is valid for lists with the same
sort keys only.
"""

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql import operators

from saas_api.core.errors import ValidationFailed

Statement = TypeVar("Statement", bound=sa.Select[Any])
SortKey = sa.ColumnElement[Any] | InstrumentedAttribute[Any]
"""A NOT NULL column, ascending, or its `.desc()`."""
_FROM_TEXT: Mapping[type, Callable[[str], Any]] = {datetime: datetime.fromisoformat, UUID: UUID, str: str}


@dataclass(frozen=True)
class PageRequest:
    """Which page of a list a caller asks for.

    limit: rows of a page; the schemas of queries allow 1 to 100
    cursor: `next_cursor` of the page before; None for the first page
    """

    limit: int = 25
    cursor: str | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, Any]) -> tuple["PageRequest", dict[str, Any]]:
        """Split a loaded query into its page request and its filters, which serve as keyword arguments of a read."""
        filters = {name: value for name, value in query.items() if name not in ("limit", "cursor")}
        return cls(query.get("limit", cls.limit), query["cursor"]), filters


@dataclass(frozen=True)
class Page:
    """One page of a list."""

    items: Sequence[Any]
    next_cursor: str | None
    limit: int

    @property
    def pagination(self) -> dict[str, Any]:
        """The `pagination` object of an API response."""
        return {
            "limit": self.limit,
            "has_more": self.next_cursor is not None,
            "next_cursor": self.next_cursor,
        }


MAX_COUNTED = 1000
"""Counts of rows for people are exact up to here."""


def count_rows(session: Session, statement: sa.Select[Any], most: int = MAX_COUNTED + 1) -> int:
    """Number of rows of a statement, up to `most`, so that it reads no more of them."""
    return session.scalar(sa.select(sa.func.count()).select_from(statement.limit(most).subquery())) or 0


class Keyset:
    """Sort keys of a list, which page through it and encode its cursors.

    Reads in SQL text take the values of `decode` for their comparison and build their page with `page`.
    """

    def __init__(self, *keys: SortKey) -> None:
        """Take the sort keys of a list, all in one direction; the last one is unique among its rows."""
        self.is_descending = _is_descending(keys[0])
        if any(_is_descending(key) != self.is_descending for key in keys):
            raise ValueError("The sort keys of a list have one direction.")
        self.columns = [_column(key) for key in keys]
        self._fingerprint = zlib.crc32(",".join(map(str, self.columns)).encode())

    def encode(self, values: Sequence[Any]) -> str:
        """Build the cursor of a row from the values of its sort keys."""
        parts = [_to_json(value) for value in values]
        return base64.urlsafe_b64encode(orjson.dumps([self._fingerprint, *parts])).decode().rstrip("=")

    def decode(self, cursor: str) -> list[Any]:
        """Return the values of the sort keys in a cursor, with the types of their columns.

        raises: ValidationFailed for every text that `encode` does not return
        """
        try:
            _, *parts = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            values = [_from_json(part, column) for part, column in zip(parts, self.columns, strict=True)]
            is_canonical = self.encode(values) == cursor
        except (ValueError, TypeError, OverflowError):
            is_canonical = False
        if not is_canonical:
            raise ValidationFailed.at_field("cursor", "Not a cursor of this list.")
        return values

    def sort(self, statement: Statement) -> Statement:
        """Add the ORDER BY of the list to a statement."""
        return statement.order_by(*(column.desc() if self.is_descending else column for column in self.columns))

    def after(self, cursor: str) -> sa.ColumnElement[bool]:
        """Return the condition of the rows that follow a cursor.

        raises: ValidationFailed
        """
        values = zip(self.decode(cursor), self.columns, strict=True)
        keys, position = sa.tuple_(*self.columns), sa.tuple_(*(sa.literal(value, key.type) for value, key in values))
        return keys < position if self.is_descending else keys > position

    def page(
        self, rows: Sequence[Any], request: PageRequest, read_keys: Callable[[Any], Sequence[Any]] = lambda row: row
    ) -> Page:
        """Build a page from up to `request.limit + 1` rows, in the order of the list.

        read_keys: returns the values of a row's sort keys
        """
        has_more = len(rows) > request.limit
        cursor = self.encode(read_keys(rows[request.limit - 1])) if has_more else None
        return Page(rows[: request.limit], cursor, request.limit)


def paginate(
    session: Session,
    statement: sa.Select[*tuple[Any, ...]],
    *keys: SortKey,
    request: PageRequest,
    convert: Callable[[Any], Any] | None = None,
) -> Page:
    """Read one page of a statement that has neither ORDER BY nor LIMIT.

    keys: sort keys as of `Keyset`
    convert: turns an entity, or the row of a statement that selects several, into an item of the page
    raises: ValidationFailed for a cursor of another list
    """
    keyset, width = Keyset(*keys), len(statement.column_descriptions)
    if request.cursor:
        statement = statement.where(keyset.after(request.cursor))
    statement = keyset.sort(statement).add_columns(*keyset.columns).limit(request.limit + 1)
    result = session.execute(statement).freeze()
    keys_of_rows = result().columns(*range(width, width + len(keys))).all()
    items = result().scalars().all() if width == 1 else result().columns(*range(width)).all()
    page = keyset.page(keys_of_rows, request)
    items = items[: request.limit]
    return replace(page, items=[convert(item) for item in items] if convert else items)


def _column(key: SortKey) -> sa.ColumnElement[Any]:
    return key.element if isinstance(key, sa.UnaryExpression) else key.expression


def _is_descending(key: SortKey) -> bool:
    return isinstance(key, sa.UnaryExpression) and key.modifier is operators.desc_op


def _to_json(value: Any) -> str | int:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.hex if isinstance(value, UUID) else value


def _from_json(part: Any, column: sa.ColumnElement[Any]) -> Any:
    kind = column.type.python_type
    if kind is int and type(part) is int and -(1 << 63) <= part < 1 << 63:
        return part
    if kind is not int and isinstance(part, str) and "\0" not in part:
        return _FROM_TEXT[kind](part)
    raise ValueError("not a value of this column")
