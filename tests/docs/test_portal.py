"""The documentation portal: its pages, their links, and what its code samples do."""

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.docs import guides, markdown, openapi, pages, reference, samples
from saas_api.docs.pages import Portal
from saas_api.docs.search import Entry, Index
from tests.support.accounts import User, create_key
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
    yield from ("/docs/", "/docs/changelog", "/docs/reference", "/docs/explorer")
    yield from (f"/docs/reference/{slug}" for slug in portal.topics)
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


def test_search_finds_guides_operations_and_codes_without_a_script(client: FlaskClient) -> None:
    for query, href in [
        ("rate limit headers", "/docs/rate-limits"),
        ("spend_cap_reached", "/docs/errors/SPEND_CAP_REACHED"),
        ("send_message", "/docs/reference/messages#send_message"),
        ("/webhooks/endpoints", "/docs/reference/webhooks#create_endpoint"),
        ("grace_seconds", "/docs/api-keys#rotate-a-key"),
    ]:
        assert href in Page(client.get("/docs/search", query_string={"q": query}).text).links, query
    assert "Nothing found for" in client.get("/docs/search?q=zeppelin").text
    assert "Type a word" in client.get("/docs/search").text


def test_search_as_one_types_gets_the_list_alone(client: FlaskClient) -> None:
    fragment = client.get("/docs/search?q=idempot", headers={"HX-Request": "true"}).text
    assert "/docs/idempotency" in Page(fragment).links
    assert "<h1" not in fragment


def test_query_is_text_in_the_page(client: FlaskClient) -> None:
    for query in ("<script>alert(1)</script>", "\\d+(", "a" * 5000, "%00", "{{ 7*7 }}"):
        response = client.get("/docs/search", query_string={"q": query})
        assert response.status_code == 200
        assert not POLICY_BREAKERS.search(response.text)
        assert "<mark><" not in response.text


def test_exact_title_comes_first_and_words_are_marked_and_escaped() -> None:
    entries = [Entry("/a", "Keys of members", "Guide", "All <keys>."), Entry("/b", "Keys", "Guide", "")]
    found = Index(entries).search("keys")
    assert [result.entry.href for result in found] == ["/b", "/a"]
    assert found[1].excerpt == "All &lt;<mark>keys</mark>&gt;."
    assert not Index(entries).search("eys")


def test_reference_has_every_operation_with_its_samples_and_codes(client: FlaskClient, portal: Portal) -> None:
    document = client.get("/api/v1/openapi.json").json
    ids = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}
    operations = [operation for topic in portal.topics.values() for operation in topic.operations]
    assert {operation.id for operation in operations} == ids
    assert len(operations) == len(ids)
    assert [topic.title for topic in portal.topics.values()] == list(reference.TITLES.values())
    for operation in operations:
        assert operation.answers
        assert operation.errors
        assert (len(operation.samples) == len(samples.LANGUAGES)) or operation.id.startswith("receive_")


def test_reference_shows_parameters_bodies_and_bounds(client: FlaskClient) -> None:
    page = client.get("/docs/reference/messages")
    text = page.text
    assert text.index('id="send_message"') < text.index('id="list_messages"') < text.index('id="cancel_message"')
    for part in ("1 to 50,000 characters.", "<code>email</code>", "Default <code>20</code>.", "202 Accepted"):
        assert part in text
    assert {"/docs/errors/SPEND_CAP_REACHED", "#get_message"} <= Page(text).links


def test_topic_of_a_service_that_is_added_comes_last_under_its_own_name() -> None:
    answer = {"200": {"content": {"text/csv": {"example": "a,b"}}}}
    spec = {"operationId": "find", "tags": ["late_weather"], "summary": "Find it", "parameters": [], "security": []}
    paths = {"/api/v1/weather": {"get": {**spec, "responses": answer}}}
    listed = {"/api/v1/messages": {"get": {**spec, "operationId": "list", "tags": ["messages"], "responses": answer}}}
    document = {"paths": paths | listed, "tags": [], "servers": [{"url": "https://api.example"}], "components": {}}
    topics = reference.list_topics(document)
    assert [(topic.slug, topic.title) for topic in topics] == [
        ("messages", "Messages"),
        ("late-weather", "Late weather"),
    ]


def test_samples_name_the_test_key_of_their_reader(app: Flask, client: FlaskClient, alice: User, carol: User) -> None:
    assert "YOUR_API_KEY" in client.get("/docs/quickstart").text
    browser = Browser(app, alice)
    assert "You have no test key yet." in browser.open("/docs/quickstart").text
    key_id, headers = create_key(client, alice, mode="test", name="mine")
    create_key(client, carol, mode="test")
    secret = headers["X-API-Key"]
    for path in ("/docs/quickstart", "/docs/reference/messages"):
        text = browser.open(path).text
        assert "YOUR_API_KEY" not in text
        assert f"X-API-Key: {secret[:12]}...{secret[-4:]}" in text
        assert secret not in text
    client.delete(f"/api/v1/keys/{key_id}", headers=alice.headers)
    assert "You have no test key yet." in browser.open("/docs/quickstart").text
