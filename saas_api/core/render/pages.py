"""Pages: one address and one template; HTMX gets only the block it asks for."""

from typing import Any

from flask import Response, current_app, flash, redirect, render_template, request, url_for


class Page(Response):
    """A page.

    is_secret: it shows a secret that is not shown again
    """

    is_secret = False


def is_fragment() -> bool:
    """Whether HTMX asks for a part of the page that is open."""
    headers = request.headers
    return headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in headers


def page(template: str, *, status: int = 200, block: str | None = None, is_secret: bool = False, **shown: Any) -> Page:
    """A page, or only one block of it where HTMX asks.

    block: what HTMX gets; None for a page without parts
    is_secret: it shows a secret that is not shown again; it is kept encrypted for a repeated submit
    """
    text = _block(template, block, shown) if block and is_fragment() else render_template(template, **shown)
    answer = Page(text, status, mimetype="text/html")
    answer.is_secret = is_secret
    answer.vary.update(("HX-Request", "Cookie"))
    return answer


def _block(template: str, block: str, shown: dict[str, Any]) -> str:
    found = current_app.jinja_env.get_template(template)
    current_app.update_template_context(shown)
    return "".join(found.blocks[block](found.new_context(shown)))


def see_other(endpoint: str, *, _notice: str = "", **values: Any) -> Any:
    """Lead to the page that shows the result of a form.

    endpoint: of that page, or its path
    _notice: shown there once
    """
    if _notice:
        flash(_notice)
    return redirect(endpoint if endpoint.startswith("/") else url_for(endpoint, **values), 303)
