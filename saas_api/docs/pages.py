"""Pages of the documentation portal: its home, the guides, error codes and the changelog."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, current_app, g, request
from markupsafe import Markup, escape

from saas_api.api_keys import keys
from saas_api.api_keys.models import KeyStatus
from saas_api.core import access
from saas_api.core.access import KeyMode, Principal, public_page
from saas_api.core.db import tenancy
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import NotFound
from saas_api.core.settings import ROOT, setting
from saas_api.core.web import pages
from saas_api.docs import error_codes, guides, markdown, reference, samples
from saas_api.docs.error_codes import ErrorCode
from saas_api.docs.markdown import Document
from saas_api.docs.reference import ReferenceOperation, Topic
from saas_api.docs.search import Entry, Index

bp = Blueprint("portal", __name__)
bp.add_app_template_filter(markdown.inline, "inline_code")

_DOCUMENTS, _CHANGELOG = ROOT / "docs", ROOT / "CHANGELOG.md"


@dataclass(frozen=True)
class Portal:
    """What the portal shows, made once.

    guides, codes, topics: by slug and by code
    """

    guides: dict[str, Document]
    topics: dict[str, Topic]
    codes: dict[str, ErrorCode]
    changelog: Document
    index: Index


def get_portal() -> Portal:
    """The texts of the portal, made at its first request."""
    portal: Portal = current_app.extensions.get("docs_portal") or _build_portal()
    current_app.extensions["docs_portal"] = portal
    return portal


def _build_portal() -> Portal:
    document = current_app.swag.get_apispecs("openapi")  # type: ignore[attr-defined]  # set by flasgger
    macros: Any = current_app.jinja_env.get_template("docs/_code.html").module
    documents = guides.render_guides(_DOCUMENTS, setting("APP_URL"), macros.figure)
    topics, codes = reference.list_topics(document), error_codes.list_error_codes(document)
    return Portal(
        guides=documents,
        topics={topic.slug: topic for topic in topics},
        codes=codes,
        changelog=markdown.render(
            _CHANGELOG.read_text(encoding="utf-8"),
            resolve=lambda target: guides.resolve_link("../CHANGELOG.md", target),
            render_code=lambda code, _info: str(Markup("<pre><code>{}</code></pre>").format(code)),
        ),
        index=Index(_iter_entries(documents, topics, codes)),
    )


def _iter_entries(
    documents: Mapping[str, Document], topics: Sequence[Topic], codes: Mapping[str, ErrorCode]
) -> Iterator[Entry]:
    for slug, document in documents.items():
        for section in document.sections:
            title = section.title or document.title
            kind = f"Guide: {document.title}" if section.title else "Guide"
            yield Entry(f"/docs/{slug}" + (f"#{section.anchor}" if section.anchor else ""), title, kind, section.text)
    for topic in topics:
        for operation in topic.operations:
            text = f"{operation.method} {operation.path} {operation.id} {operation.description}"
            yield Entry(operation_href(topic, operation), operation.summary, f"API: {topic.title}", text)
    for code in codes.values():
        text = " ".join(reason for refusal in code.refusals for reason in (refusal.status_line, *refusal.reasons))
        yield Entry(f"/docs/errors/{code.code}", code.code, "Error code", text)


def operation_href(topic: Topic, operation: ReferenceOperation) -> str:
    """Where the reference shows an operation."""
    return f"/docs/reference/{topic.slug}#{operation.id}"


@bp.get("/docs/")
@public_page
def show_home() -> Any:
    """Show what the documentation has."""
    return _render("home.html")


@bp.get("/docs/search")
@public_page
def search() -> Any:
    """Show what has the words of the query `q`; HTMX gets the list alone."""
    query = request.args.get("q", "").strip()
    return _render("search.html", block="results", query=query, results=get_portal().index.search(query))


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
    hrefs = {
        operation.id: operation_href(topic, operation)
        for topic in get_portal().topics.values()
        for operation in topic.operations
    }
    return _render("error_code.html", error=found, guides=guides.GUIDES, operation_hrefs=hrefs)


@bp.get("/docs/reference")
@public_page
def show_reference() -> Any:
    """Show every operation with its path."""
    return _render("reference.html")


@bp.get("/docs/reference/<topic>")
@public_page
def show_topic(topic: str) -> Any:
    """Show the operations of a topic."""
    found = get_portal().topics.get(topic)
    if found is None:
        raise NotFound
    return _render("topic.html", topic=found)


@bp.get("/docs/changelog")
@public_page
def show_changelog() -> Any:
    """Show what has changed."""
    return _render("guide.html", document=get_portal().changelog, slug="changelog", codes=())


def _render(template: str, *, block: str | None = None, **context: Any) -> Any:
    """A page, whose samples name a test key of its reader."""
    reader: Principal | None = g.get("visitor")
    key = _find_test_key(reader) if reader and reader.has_organization else ""
    response = pages.render_page(
        f"docs/{template}",
        block=block,
        sections=guides.SECTIONS,
        topics=get_portal().topics.values(),
        reader=reader,
        shown_key=key,
        **context,
    )
    if key:
        response.set_data(response.get_data(as_text=True).replace(samples.KEY, str(escape(key))))
    return response


def _find_test_key(reader: Principal) -> str:
    """What can be shown of the newest test key of the reader's organization; "" without one."""
    if not access.has_permission(reader, "keys:read"):
        return ""
    newest, active_test = PageRequest(limit=1), {"mode": KeyMode.TEST, "status": KeyStatus.ACTIVE}
    with tenancy.tenant_session(reader.organization_id) as session:
        page = keys.list_keys(session, reader.organization_id, newest, **active_test)
    return page.items[0].masked if page.items else ""
