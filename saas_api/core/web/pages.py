"""Render_page, HTMX fragments, redirects, pagination links, CSV download."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flask import Response, current_app, flash, redirect, render_template, request, stream_with_context, url_for

PAGE_SIZE = 25


def pagination_links(next_cursor: str | None) -> dict[str, Any]:
    """The addresses of the older rows of this list and of its newest, the filters kept; empty where there are none."""
    kept: dict[str, Any] = {name: value for name, value in request.args.items() if value and name != "cursor"}
    here, kept = request.endpoint or "", {**kept, **(request.view_args or {})}
    return {
        "older": url_for(here, **kept, cursor=next_cursor) if next_cursor else "",
        "newer": url_for(here, **kept) if request.args.get("cursor") else "",
    }


class PageResponse(Response):
    """A page.

    is_secret: it shows a secret that is not shown again
    """

    is_secret = False


def is_htmx_fragment() -> bool:
    """Whether HTMX asks for a part of the page that is open."""
    headers = request.headers
    return headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in headers


def render_page(
    template: str, *, status: int = 200, block: str | None = None, is_secret: bool = False, **shown: Any
) -> PageResponse:
    """A page, or only one block of it where HTMX asks.

    block: what HTMX gets; None for a page without parts
    is_secret: it shows a secret that is not shown again; it is kept encrypted for a repeated submit
    """
    text = _render_block(template, block, shown) if block and is_htmx_fragment() else render_template(template, **shown)
    answer = PageResponse(text, status, mimetype="text/html")
    answer.is_secret = is_secret
    answer.vary.update(("HX-Request", "Cookie"))
    return answer


def _render_block(template: str, block: str, shown: dict[str, Any]) -> str:
    found = current_app.jinja_env.get_template(template)
    current_app.update_template_context(shown)
    return "".join(found.blocks[block](found.new_context(shown)))


def redirect_to(endpoint: str, *, _notice: str = "", **values: Any) -> Any:
    """Lead to the page that shows the result of a form.

    endpoint: of that page, or its path
    _notice: shown there once
    """
    if _notice:
        flash(_notice)
    return redirect(endpoint if endpoint.startswith("/") else url_for(endpoint, **values), 303)


_CHUNK = 65_536
_SPREADSHEET_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


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
    return f"'{value}" if isinstance(value, str) and value.startswith(_SPREADSHEET_FORMULA_PREFIXES) else value
