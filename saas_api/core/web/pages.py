"""Responses of HTML pages: whole pages, HTMX fragments, redirects, pagination links and CSV downloads."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from flask import Response, current_app, flash, redirect, render_template, request, stream_with_context, url_for

from saas_api.core import clock
from saas_api.core.db.pagination import Page
from saas_api.core.fields import StrictSchema, Timestamp

PAGE_SIZE = 25
MAX_EXPORT_ROWS = 50_000
HTMX_STOP_POLLING = 286
_CSV_CHUNK_SIZE = 65_536
_SPREADSHEET_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


class PageResponse(Response):
    """A page.

    is_secret: it shows a secret that is shown only once
    """

    is_secret = False


def filter_url(**changes: Any) -> str:
    """URL of the first page of this list with other filters.

    changes: parameters of the query; an empty value leaves one out
    """
    parameters = {**request.args, "cursor": None, **changes}
    path = url_for(request.endpoint or "", **(request.view_args or {}))  # not with names that a query chose
    query = urlencode({name: value for name, value in parameters.items() if value})
    return f"{path}?{query}" if query else path


def pagination_links(next_cursor: str | None) -> dict[str, Any]:
    """URLs of the next page ("older") and of the first page ("newer") with the filters; empty without such a page."""
    return {
        "older": filter_url(cursor=next_cursor) if next_cursor else "",
        "newer": filter_url() if request.args.get("cursor") else "",
    }


def first_rows(rows: Sequence[Any]) -> Sequence[Any]:
    """The first rows of a list without pages; all of them when the query asks for `all`, as `ui.show_all` does."""
    return rows if request.args.get("all") else rows[:PAGE_SIZE]


def newer_url(page: Page | None, instant_of: Callable[[Any], datetime]) -> str:
    """The URL that counts the rows which came after a page; empty for other pages than the first.

    instant_of: returns the instant by which the list is sorted, newest first
    """
    if page is None or request.args.get("cursor"):
        return ""
    newest = instant_of(page.items[0]) if page.items else clock.now()
    return filter_url(after=newest.isoformat())


def newer_rows(count: int, most: int, noun: str, nouns: str = "") -> PageResponse:
    """The fragment that says how many rows came after the open page, and leads to them.

    most: counts are exact below it
    noun: of a row, such as "message"
    nouns: of several; with an "s" by default
    """
    poll, reload = filter_url(), filter_url(after=None)
    nouns = nouns or f"{noun}s"
    return render_page("_newer.html", count=count, most=most, noun=noun, nouns=nouns, poll=poll, reload=reload)


def is_htmx_fragment() -> bool:
    """Whether HTMX requests a fragment of the open page."""
    headers = request.headers
    return headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in headers


def render_page(
    template: str, *, status: int = 200, block: str | None = None, is_secret: bool = False, **context: Any
) -> PageResponse:
    """A page, or one block of its template when HTMX requests a fragment.

    block: the block for HTMX; None for a page without fragments
    is_secret: it shows a secret that is shown only once; the response is stored encrypted for a repeated submit
    """
    is_fragment = block and is_htmx_fragment()
    text = _render_block(template, str(block), context) if is_fragment else render_template(template, **context)
    response = PageResponse(text, status, mimetype="text/html")
    response.is_secret = is_secret
    response.vary.update(("HX-Request", "Cookie"))
    return response


def _render_block(name: str, block: str, context: dict[str, Any]) -> str:
    template = current_app.jinja_env.get_template(name)
    current_app.update_template_context(context)
    return "".join(template.blocks[block](template.new_context(context)))


def redirect_to(endpoint: str, *, _notice: str = "", **values: Any) -> Any:
    """Redirect to the page that shows the result of a form.

    endpoint: of that page, or its path
    _notice: message that the page shows once
    """
    if _notice:
        flash(_notice)
    return redirect(endpoint if endpoint.startswith("/") else url_for(endpoint, **values), 303)


def csv_response(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Response:
    """A CSV file to download, streamed row by row.

    name: of the file, ASCII
    rows: read after the request's transaction has ended; numbers as Decimal or int, everything else as text
    """
    response = Response(stream_with_context(iter_csv(columns, rows)), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def dump_csv_fields(schema: StrictSchema, item: Any, zone: str) -> dict[str, Any]:
    """The fields of a resource as the API shows them, but with its times in a time zone, for people."""
    return {
        name: clock.format_rfc3339(datetime.fromisoformat(value), zone)
        if value and isinstance(schema.fields[name], Timestamp)
        else value
        for name, value in schema.dump(item).items()
    }


def iter_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The text of a CSV file, in pieces."""
    buffer = io.StringIO()
    buffer.write("\ufeff")  # spreadsheets recognize UTF-8 by it
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        if buffer.tell() > _CSV_CHUNK_SIZE:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """A value for a spreadsheet: text that would be a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_SPREADSHEET_FORMULA_PREFIXES) else value
