"""Lists of the console: their queries, their pages, and the same list as a CSV file."""

import functools
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import marshmallow as ma
import sqlalchemy as sa
from flask import Response, g, request
from marshmallow import fields, validate

from saas_api.admin.context import MIN_REASON_LENGTH
from saas_api.core import access, clock, money
from saas_api.core.access import Access
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page, PageRequest, SortKey
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import MinorAmount, QueryInteger, StrictSchema, Text
from saas_api.core.web import http, pages
from saas_api.core.web.pages import MAX_EXPORT_ROWS, PAGE_SIZE

MAX_COUNTED = 1000
"""Up to which number tabs count exactly."""

Columns = Mapping[str, Callable[[Any], Any]]
"""Columns of a CSV file: their names, and what each holds of an item of the page."""


class ListQuery(StrictSchema):
    """Query of every list; `format=csv` asks for the whole list as a file, which requires a reason."""

    limit = QueryInteger(minimum=1, maximum=100, load_default=PAGE_SIZE)
    cursor = fields.String(load_default=None, validate=validate.Length(max=500))
    format = fields.String(load_default=None, validate=validate.OneOf(["csv"]))
    reason = Text(load_default=None, maximum=500)

    @ma.validates_schema
    def _has_reason(self, values: dict[str, Any], **_: Any) -> None:
        if values["format"] == "csv" and len((values["reason"] or "").strip()) < MIN_REASON_LENGTH:
            raise ma.ValidationError(f"Enter a reason of at least {MIN_REASON_LENGTH} characters.", "reason")


def parse_query(schema: StrictSchema) -> dict[str, Any]:
    """The query of the request without its empty values.

    raises: ValidationFailed
    """
    return http.load_schema(schema, {name: value for name, value in request.args.items() if value.strip()})


def paginate_or_export(
    session: SystemSession,
    statement: sa.Select[*tuple[Any, ...]],
    *keys: SortKey,
    query: Mapping[str, Any],
    convert: Callable[[Any], Any] | None = None,
) -> Page:
    """One page of a list, or the whole list when the query asks for a file.

    keys, convert: as of `pagination.paginate`
    raises: ValidationFailed for a cursor of another list, and for more than MAX_EXPORT_ROWS rows
    """
    is_file = query["format"] == "csv"
    page_request = PageRequest(MAX_EXPORT_ROWS) if is_file else PageRequest(query["limit"], query["cursor"])
    page = pagination.paginate(session, statement, *keys, request=page_request, convert=convert)
    if is_file and page.next_cursor:
        raise ValidationFailed.at_field("format", f"More than {MAX_EXPORT_ROWS:,} rows; narrow the filters first.")
    return page


def count_each(
    session: SystemSession, statement: sa.Select[*tuple[Any, ...]], conditions: Mapping[str, sa.ColumnElement[bool]]
) -> dict[str, int]:
    """Number of rows of a list under each condition, for tabs above it; at most MAX_COUNTED + 1.

    statement: the list with its other filters
    """
    counts = [
        sa.select(
            sa.literal(name),
            sa.select(sa.func.count())
            .select_from(statement.where(condition).limit(MAX_COUNTED + 1).subquery())
            .scalar_subquery(),
        )
        for name, condition in conditions.items()
    ]
    return {name: int(count) for name, count in session.execute(sa.union_all(*counts))}


def csv_export(name: str, columns: Columns, page: Page) -> Response:
    """A list as a file of that name; the console records it with the reason.

    raises: NotFound for an operator without the role admin
    """
    access.authorize(g.principal, Access(operator_role="admin"))
    rows = ([read(item) for read in columns.values()] for item in page.items)
    return pages.csv_response(f"{name}.csv", list(columns), rows)


def resource_columns(schema: StrictSchema, *names: str, read: Callable[[Any], Any] = lambda item: item) -> Columns:
    """Columns with the names and values of the API's resource.

    read: returns the resource from an item of the page, which it is itself by default
    """
    return {name: functools.partial(_read_field, schema, name, read) for name in names}


def csv_time(instant: datetime | None) -> str:
    """RFC 3339, or nothing."""
    return clock.format_rfc3339(instant) if instant else ""


def csv_money(minor: int, currency: str) -> Decimal:
    """Major units, which a spreadsheet takes for a number."""
    return Decimal(money.format_minor(minor, currency))


def _read_field(schema: StrictSchema, name: str, read: Callable[[Any], Any], item: Any) -> Any:
    field = schema.fields[name]
    value = field.serialize(name, read(item), accessor=schema.get_attribute)
    return Decimal(value) if value is not None and isinstance(field, MinorAmount) else value
