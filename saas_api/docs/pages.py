"""Pages of the documentation portal: its home, the guides, error codes and the changelog."""

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, current_app, g
from markupsafe import Markup

from saas_api.core.access import public_page
from saas_api.core.errors import NotFound
from saas_api.core.settings import ROOT, setting
from saas_api.core.web import pages
from saas_api.docs import error_codes, guides, markdown
from saas_api.docs.error_codes import ErrorCode
from saas_api.docs.markdown import Document

bp = Blueprint("portal", __name__)
bp.add_app_template_filter(markdown.inline, "inline_code")

_DOCUMENTS, _CHANGELOG = ROOT / "docs", ROOT / "CHANGELOG.md"


@dataclass(frozen=True)
class Portal:
    """What the portal shows, made once.

    guides, codes: by slug and by code
    """

    guides: dict[str, Document]
    codes: dict[str, ErrorCode]
    changelog: Document


def get_portal() -> Portal:
    """The texts of the portal, made at its first request."""
    portal: Portal = current_app.extensions.get("docs_portal") or _build_portal()
    current_app.extensions["docs_portal"] = portal
    return portal


def _build_portal() -> Portal:
    document = current_app.swag.get_apispecs("openapi")  # type: ignore[attr-defined]  # set by flasgger
    macros: Any = current_app.jinja_env.get_template("docs/_code.html").module
    return Portal(
        guides=guides.render_guides(_DOCUMENTS, setting("APP_URL"), macros.figure),
        codes=error_codes.list_error_codes(document),
        changelog=markdown.render(
            _CHANGELOG.read_text(encoding="utf-8"),
            resolve=lambda target: guides.resolve_link("../CHANGELOG.md", target),
            render_code=lambda code, _info: str(Markup("<pre><code>{}</code></pre>").format(code)),
        ),
    )


@bp.get("/docs/")
@public_page
def show_home() -> Any:
    """Show what the documentation has."""
    return _render("home.html")


@bp.get("/docs/<slug>")
@public_page
def show_guide(slug: str) -> Any:
    """Show a guide."""
    portal = get_portal()
    if slug not in portal.guides:
        raise NotFound
    codes = portal.codes.values() if slug == "errors" else ()
    return _render("guide.html", document=portal.guides[slug], slug=slug, codes=codes)


@bp.get("/docs/errors/<error_code>")
@public_page
def show_error_code(error_code: str) -> Any:
    """Show what an error code means and what to do about it."""
    found = get_portal().codes.get(error_code)
    if found is None:
        raise NotFound
    return _render("error_code.html", error=found, guides=guides.GUIDES)


@bp.get("/docs/changelog")
@public_page
def show_changelog() -> Any:
    """Show what has changed."""
    return _render("guide.html", document=get_portal().changelog, slug="changelog", codes=())


def _render(template: str, **context: Any) -> Any:
    return pages.render_page(f"docs/{template}", sections=guides.SECTIONS, reader=g.get("visitor"), **context)
