"""How errors and tables look: an error as JSON envelope under /api or as a page, a table as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flask import Response, g, render_template, request, stream_with_context

from saas_api.core.errors import ApiError
from saas_api.core.http import json_response


def render_error(error: ApiError) -> Response:
    """Answer with an error, in the form its reader expects."""
    headers = _headers(error)
    if request.path.startswith("/api/"):
        body = {
            "code": error.code,
            "message": error.message,
            "details": error.details,
            "request_id": g.get("request_id"),
        }
        return json_response({"success": False, "error": body}, error.status, headers)
    page = render_template("errors/error.html", error=error, request_id=g.get("request_id"))
    response = Response(page, error.status, mimetype="text/html")
    response.headers.extend(headers)
    return response


def _headers(error: ApiError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif error.status == 503:
        headers["Retry-After"] = "5"
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="api"'
    return headers


_CHUNK = 65_536
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_response(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Response:
    """A table to download, written while it is read, so that its length does not matter.

    name: of the file, ASCII
    rows: read after the request's transaction has ended; numbers as Decimal or int, everything else as text
    """
    response = Response(stream_with_context(_csv(columns, rows)), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    buffer = io.StringIO()
    buffer.write("\ufeff")  # a spreadsheet takes the file for UTF-8 then
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        if buffer.tell() > _CHUNK:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """A value as a spreadsheet may see it: text that it would take for a formula is marked as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
