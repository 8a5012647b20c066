"""The documentation portal: its pages, their links, and what its code samples do."""

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.docs import guides, markdown, openapi, pages
from saas_api.docs.pages import Portal
from tests.support.accounts import User
from tests.support.pages import Browser

POLICY_BREAKERS = re.compile(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=")
MAX_COMPRESSED_BYTES = 100_000


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "a" and values.get("href"):
            self.links.add(str(values["href"]))
        self.anchors.add(values.get("id") or "")


@pytest.fixture
def portal(app: Flask) -> Portal:
    with app.test_request_context():
        return pages.get_portal()


def paths(portal: Portal) -> Iterator[str]:
    yield from ("/docs/", "/docs/changelog")
    yield from (f"/docs/{slug}" for slug in guides.GUIDES)
    yield from (f"/docs/errors/{code}" for code in portal.codes)


def test_pages_follow_the_strict_policy_and_are_small(client: FlaskClient, portal: Portal) -> None:
    for path in paths(portal):
        response = client.get(path)
        assert response.status_code == 200, path
        assert not POLICY_BREAKERS.search(response.text), path
        assert len(gzip.compress(response.data)) < MAX_COMPRESSED_BYTES, path
        assert response.text.count("<h1") == 1, path


def test_every_link_leads_to_a_page_and_a_heading_that_exist(client: FlaskClient, portal: Portal) -> None:
    opened: dict[str, Page | None] = {path: Page(client.get(path).text) for path in paths(portal)}
    for path, page in list(opened.items()):
        assert page is not None
        for link in page.links:
            target = urlsplit(urljoin(path, link))
            if target.scheme:
                assert target.scheme == "https", link
                continue
            if target.path not in opened:
                response = client.get(target.path)
                assert response.status_code in (200, 303), (path, link)
                opened[target.path] = Page(response.text) if response.status_code == 200 else None
            there = opened[target.path]
            assert there is None or target.fragment in there.anchors, (path, link)


def test_every_error_code_has_a_page_that_says_what_to_do(client: FlaskClient, portal: Portal) -> None:
    listed = Page(client.get("/docs/errors").text).links
    for kind in openapi.list_error_types():
        assert f"/docs/errors/{kind.code}" in listed
    text = client.get("/docs/errors/RATE_LIMIT_EXCEEDED").text
    assert "429 Too Many Requests" in text
    assert "<code>Retry-After</code>" in text
    assert 'href="/docs/rate-limits"' in text
    assert "send_message" in text


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/errors/NOTHING", "/docs/errors/not_found"])
def test_unknown_guide_or_code_is_not_found(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_reader_who_is_signed_in_finds_the_way_back(app: Flask, alice: User) -> None:
    assert 'href="/dashboard"' in Browser(app, alice).open("/docs/quickstart").text
    assert 'href="/login"' in Browser(app).open("/docs/quickstart").text


def test_html_in_a_text_is_shown_and_not_run() -> None:
    text = "# A\n\n<script>alert(1)</script> and [a link](javascript:alert(1))\n\n## <b>B</b>\n"
    document = markdown.render(text, resolve=lambda target: target, render_code=lambda code, _: code)
    assert "<script" not in document.body
    assert 'href="javascript' not in document.body
    assert "<b>" not in document.body


def test_link_to_a_file_that_the_portal_does_not_have_is_text() -> None:
    assert guides.resolve_link("services.md", "../clients/python/README.md") is None
    assert guides.resolve_link("services.md", "usage-events.md#what-to-send") == "/docs/usage-events#what-to-send"
    assert guides.resolve_link("guides/errors.md", "../webhooks.md") == "/docs/webhooks"
