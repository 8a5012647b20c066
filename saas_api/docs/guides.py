"""The guides of the portal: which there are, and their texts as HTML."""

import functools
import itertools
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saas_api.docs import highlighting, markdown, samples
from saas_api.docs.highlighting import Sample
from saas_api.docs.markdown import Document

FigureRenderer = Callable[[Sequence[Sample], str], str]
"""HTML of one code, or of the same in several languages, and an id for it that is unique on the page."""
_LOCAL_ADDRESS = re.compile(r"http://localhost:(?:\$\{API_PORT:-8080\}|8080)")
"""The platform in the guides, whose texts are run in a checkout."""


@dataclass(frozen=True)
class Guide:
    """A guide.

    slug: its path below /docs
    title, summary: in lists of pages
    file: Markdown, relative to the folder of documents
    """

    slug: str
    title: str
    summary: str
    file: str


SECTIONS: Sequence[tuple[str, Sequence[Guide]]] = (
    (
        "Get started",
        (
            Guide("quickstart", "Quick start", "Create a test key and send a first message.", "guides/quickstart.md"),
            Guide("api-keys", "API keys", "Test and live, scopes, limits, rotation.", "guides/api-keys.md"),
            Guide(
                "requests",
                "Requests and responses",
                "Authentication, the envelope, values and lists.",
                "guides/requests.md",
            ),
        ),
    ),
    (
        "In production",
        (
            Guide("errors", "Errors", "What can fail, every code, and what to do.", "guides/errors.md"),
            Guide(
                "rate-limits",
                "Rate limits and quotas",
                "Headers, waiting, quotas and the spend cap.",
                "guides/rate-limits.md",
            ),
            Guide("idempotency", "Idempotency", "Repeat a request without doing it twice.", "guides/idempotency.md"),
            Guide(
                "account-security",
                "Account security",
                "Two-factor sign-in, sessions, your email address, data export.",
                "guides/account-security.md",
            ),
            Guide("webhooks", "Webhooks", "Receive events: signatures, retries, recovery.", "webhooks.md"),
            Guide(
                "billing", "How invoices are calculated", "How every number on an invoice comes about.", "billing.md"
            ),
        ),
    ),
    (
        "Your own API",
        (
            Guide(
                "services",
                "Put your API on the platform",
                "Keys, limits, metering and invoices for your own API.",
                "services.md",
            ),
            Guide("usage-events", "Usage events", "Report usage after the fact, in batches.", "usage-events.md"),
            Guide("portal", "Customer portal", "Keys, usage, invoices and webhooks in your own product.", "portal.md"),
        ),
    ),
)
"""Guides by the heading of the portal's menu that they stand under."""
GUIDES = {guide.slug: guide for _, guides in SECTIONS for guide in guides}
_SLUGS_BY_FILE = {guide.file: guide.slug for guide in GUIDES.values()} | {"errors.md": "errors"}


def render_guides(folder: Path, app_url: str, render_figure: FigureRenderer) -> dict[str, Document]:
    """Every guide, by slug.

    folder: of documents
    app_url: address of the platform, which samples call
    """
    numbers = itertools.count()

    def render_code(code: str, info: str) -> str:
        return render_figure(_make_samples(code, info, app_url), f"code-{next(numbers)}")

    return {
        guide.slug: markdown.render(
            (folder / guide.file).read_text(encoding="utf-8"),
            resolve=functools.partial(resolve_link, guide.file),
            render_code=render_code,
        )
        for guide in GUIDES.values()
    }


def resolve_link(file: str, target: str) -> str | None:
    """The address in the portal of a link in a file; None for one to a file that the portal does not have.

    file, target: the target is relative to the file, as in the repository, or absolute on the platform
    """
    if target.startswith(("/", "#")):
        return target
    path, _, anchor = target.partition("#")
    slug = _SLUGS_BY_FILE.get(posixpath.normpath(posixpath.join(posixpath.dirname(file), path)))
    return slug and f"/docs/{slug}" + (f"#{anchor}" if anchor else "")


def _make_samples(code: str, info: str, app_url: str) -> Sequence[Sample]:
    language = info.partition(" ")[0]
    variables = {"API": f"{app_url}/api/v1", "KEY": samples.KEY, "TOKEN": samples.TOKEN}
    request = samples.parse_curl(code, variables) if language == "bash" else None
    if request is not None:
        return highlighting.make_request_samples(request)
    return [highlighting.make_sample(_LOCAL_ADDRESS.sub(app_url, code), language)]
