"""Code with a class for each kind of token, made once by Pygments, so that no page needs a script for it. Pure."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from saas_api.docs import samples
from saas_api.docs.samples import Request

_FORMATTER = HtmlFormatter(nowrap=True)
_LEXERS = {"curl": "bash", "sh": "bash", "": "text"}
_TITLES = {
    **samples.LANGUAGES,
    "bash": "Shell",
    "go": "Go",
    "http": "HTTP",
    "json": "JSON",
    "sh": "Shell",
    "typescript": "TypeScript",
}


@dataclass(frozen=True)
class Sample:
    """Code as a page shows it.

    title: name of its language, or of what it is
    """

    language: str
    title: str
    text: str
    html: Markup


def make_sample(text: str, language: str, title: str = "") -> Sample:
    """A text with its tokens.

    language: a name of Pygments, "curl", or "" for none
    title: instead of the name of the language
    raises: pygments.util.ClassNotFound
    """
    html = Markup(highlight(text, _lexer(_LEXERS.get(language, language)), _FORMATTER))  # noqa: S704 - Pygments escapes
    return Sample(language, title or _TITLES.get(language, "Text"), text, html)


def make_request_samples(request: Request) -> Sequence[Sample]:
    """A request in each language."""
    return [make_sample(samples.render(request, language), language) for language in samples.LANGUAGES]


@functools.cache
def _lexer(name: str) -> object:
    return get_lexer_by_name(name, stripnl=False, ensurenl=False)
