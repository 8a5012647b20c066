"""Markdown as HTML of the portal: headings with anchors, tables that scroll, links and code as a caller says. Pure."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mistune
from markupsafe import Markup, escape

_TAGS = re.compile(r"<[^>]+>")
_BETWEEN_WORDS = frozenset(("softbreak", "paragraph", "block_text", "table_cell"))
"""Tokens at whose end a word ends."""

LinkResolver = Callable[[str], str | None]
"""The address in the portal of what a page links to; None for what the portal does not have."""
CodeRenderer = Callable[[str, str], str]
"""HTML of a code block, given its text and the words after the fence."""


@dataclass
class Section:
    """Part of a page below a heading of the second level; the first has no heading.

    text: without markup and code
    """

    anchor: str
    title: str
    text: str = ""


@dataclass(frozen=True)
class Document:
    """A page.

    title: the heading of the first level, which `body` lacks
    body: HTML
    """

    title: str
    body: str
    sections: Sequence[Section]


def slugify(title: str) -> str:
    """The anchor of a heading, as GitHub writes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def render(text: str, *, resolve: LinkResolver, render_code: CodeRenderer) -> Document:
    """Render a page. HTML in it is shown as text."""
    renderer = _Renderer(resolve, render_code)
    convert = mistune.create_markdown(renderer=renderer, plugins=["table"])
    renderer.register("table", _table)
    body = str(convert(text))
    for section in renderer.sections:
        section.text = " ".join(section.text.split())
    return Document(renderer.title, body, renderer.sections)


def inline(text: str) -> Markup:
    """A line as HTML, with what stands between backquotes as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it is escaped


def _table(_renderer: Any, rows: str) -> str:
    return f'<div class="scroll" tabindex="0"><table class="doc-table">\n{rows}</table></div>\n'


def _plain(markup: str) -> str:
    return html.unescape(_TAGS.sub("", markup))


class _Renderer(mistune.HTMLRenderer):
    def __init__(self, resolve: LinkResolver, render_code: CodeRenderer) -> None:
        super().__init__(escape=True)
        self._resolve, self._render_code = resolve, render_code
        self.title = ""
        self.sections = [Section("", "")]

    def heading(self, text: str, level: int, **_attributes: Any) -> str:
        title = _plain(text)
        self.sections[-1].text = self.sections[-1].text.removesuffix(title)
        if level == 1:
            self.title = title
            return ""
        anchor = slugify(title)
        if level == 2:
            self.sections.append(Section(anchor, title))
        link = f'<a class="anchor" href="#{anchor}" aria-label="Link to {html.escape(title)}">#</a>'
        return f'<h{level} id="{anchor}">{text}{link}</h{level}>\n'

    def text(self, text: str) -> str:
        self.sections[-1].text += text
        return super().text(text)

    def codespan(self, text: str) -> str:
        self.sections[-1].text += text
        return super().codespan(text)

    def render_token(self, token: dict[str, Any], state: mistune.BlockState) -> str:
        rendered = super().render_token(token, state)
        if token["type"] in _BETWEEN_WORDS:
            self.sections[-1].text += " "
        return rendered

    def link(self, text: str, url: str, title: str | None = None) -> str:
        address = url if "://" in url else self._resolve(url)
        return text if address is None else super().link(text, address, title)

    def block_code(self, code: str, info: str | None = None) -> str:
        return self._render_code(code.rstrip("\n"), (info or "").strip())
