"""ListQuery, paginate_or_export, CSV columns."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Response, request
from marshmallow import fields, validate
from sqlalchemy.orm import InstrumentedAttribute, Session

from saas_api.core import clock, money
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import QueryInteger, StrictSchema
from saas_api.core.web import http, pages

MAX_EXPORT_ROWS = 50_000
Column = sa.ColumnElement[Any] | InstrumentedAttribute[Any]


def paginate_or_export(
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
        return Page(_all(session, statement), None, MAX_EXPORT_ROWS)
    if query["cursor"]:
        statement = statement.where(sa.tuple_(*columns) < sa.tuple_(*_position(query["cursor"], columns)))
    rows = session.execute(statement.limit(query["limit"] + 1)).all()
    following = None
    if len(rows) > query["limit"]:
        following = pagination.encode_cursor(*(_text(value) for value in rows[query["limit"] - 1][-len(columns) :]))
    return Page(rows[: query["limit"]], following, query["limit"])


def _all(session: Session, statement: sa.Select[*tuple[Any, ...]]) -> Sequence[Any]:
    rows = session.execute(statement.limit(MAX_EXPORT_ROWS + 1)).all()
    if len(rows) > MAX_EXPORT_ROWS:
        raise ValidationFailed.at_field("format", f"More than {MAX_EXPORT_ROWS:,} rows; narrow the filters first.")
    return rows


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _position(cursor: str, columns: Sequence[Column]) -> list[Any]:
    values = pagination.decode_cursor(cursor)
    try:
        return [sa.literal(_read(text, column), column.type) for text, column in zip(values, columns, strict=True)]
    except ValueError as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause


def _read(text: str, column: Column) -> Any:
    if isinstance(column.type, sa.DateTime):
        return datetime.fromisoformat(text)
    if isinstance(column.type, sa.Integer):
        return int(text)
    return UUID(text) if isinstance(column.type, sa.Uuid) else text


Columns = Mapping[str, Callable[[Any], Any]]


def csv_export(name: str, columns: Columns, found: Page) -> Response:
    """A list as a file.

    name: of the file, without its ending
    """
    rows = ([read(item) for read in columns.values()] for item in found.items)
    return pages.csv_response(f"{name}.csv", list(columns), rows)


def csv_time(instant: datetime | None) -> str:
    return clock.format_rfc3339(instant) if instant else ""


def csv_money(minor: int | None, currency: str) -> Any:
    return "" if minor is None else Decimal(money.format_minor(minor, currency))


PAGE_SIZE = 25


def parse_query(schema: StrictSchema) -> dict[str, Any]:
    """What the address of a list asks for; what is empty is left out.

    raises: Invalid
    """
    return http.load_schema(schema, {name: value for name, value in request.args.items() if value.strip()})


class ListQuery(StrictSchema):
    """Of every list."""

    limit = QueryInteger(minimum=1, maximum=100, load_default=PAGE_SIZE)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))
    format = fields.String(load_default=None, validate=validate.OneOf(["csv"]))
