"""Pages of the log of requests: list, filters, search by ID, CSV, the number of new requests, and one request.

Every role has `usage:read`.
"""

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from saas_api.dashboard import requests
from tests.support.accounts import User, create_key
from tests.support.message_pages import parse_csv
from tests.support.pages import Browser, check_access
from tests.support.request_log import ROUTE, record_request
from tests.support.statements import MAX_PAGE_STATEMENTS, count_statements

LOGS = "/dashboard/logs"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def browser(app: Flask, alice: User) -> Browser:
    return Browser(app, alice)


def listed(browser: Browser, query: str = "") -> list[str]:
    """IDs of the requests on the page."""
    response = browser.open(f"{LOGS}?{query}")
    assert response.status_code == 200
    return re.findall(rf'row-link" href="{LOGS}/([\w-]+)"', response.text)


def test_pages_require_their_permission(app: Flask, client: FlaskClient, alice: User) -> None:
    request_id = record_request(alice, 422)
    check_access(
        app,
        client,
        alice,
        {f"GET {path}": "usage:read" for path in (LOGS, f"{LOGS}?format=csv", f"{LOGS}/{request_id}")},
    )


def test_list_shows_requests_of_one_mode_with_their_key_and_error(
    client: FlaskClient, alice: User, browser: Browser
) -> None:
    key_id, _ = create_key(client, alice, name="Checkout <b>")
    live = record_request(alice, 422, key=key_id, error_code="VALIDATION_ERROR")
    test = record_request(alice, 429, mode="test")
    assert listed(browser, "status=4xx") == [live]
    assert listed(browser, "mode=test") == [test]
    page = browser.open(f"{LOGS}?mode=live&_external=1&_method=POST&_anchor=here").text
    assert f'href="{LOGS}?mode=live&amp;_external=1' in page  # parameters as others, no options of links
    assert "Checkout &lt;b&gt;" in page
    assert "VALIDATION_ERROR" in page


@pytest.mark.parametrize(
    ("query", "statuses"),
    [
        ("status=4xx", [429, 422]),
        ("status=429", [429]),
        ("status=5xx", [500]),
        ("error_code=SLOW", [429]),
        (f"route=POST+{ROUTE}", [500, 429, 422]),
        (f"route=GET+{ROUTE}", []),
        ("route=lookups", []),
        ("since=2026-04-01T10:00:01Z&until=2026-04-01T10:00:02Z", [429]),
        ("start_date=2026-04-01&end_date=2026-04-01", [500, 429, 422]),
        ("start_date=2026-04-02", []),
    ],
)
def test_list_is_filtered(alice: User, browser: Browser, query: str, statuses: list[int]) -> None:
    at, recorded = datetime(2026, 4, 1, 10, tzinfo=UTC), {}
    for second, (status, code) in enumerate([(422, "BAD"), (429, "SLOW"), (500, None)]):
        clock.freeze_time(at + timedelta(seconds=second))
        recorded[record_request(alice, status, error_code=code)] = status
    clock.freeze_time(None)
    assert [recorded[request_id] for request_id in listed(browser, query)] == statuses


def test_wrong_filters_are_said_beside_their_fields(browser: Browser) -> None:
    for query in ("start_date=2026-04-02&end_date=2026-04-01", "status=9xx", "since=now"):
        response = browser.open(f"{LOGS}?{query}")
        assert response.status_code == 422
        assert "error-summary" in response.text


def test_search_by_id_opens_a_request_of_either_mode(alice: User, browser: Browser) -> None:
    request_id = record_request(alice, 422, mode="test")
    response = browser.open(f"{LOGS}?request_id={request_id}")
    assert (response.status_code, response.location) == (303, f"{LOGS}/{request_id}")
    assert listed(browser, "request_id=req_000000000000000000000000") == []


def test_search_by_an_id_that_was_used_twice_lists_both(alice: User, browser: Browser) -> None:
    for _ in range(2):
        record_request(alice, 422, request_id="my-request")
    assert listed(browser, "request_id=my-request") == ["my-request"] * 2
    assert "sent this ID more than once" in browser.open(f"{LOGS}/my-request").text


def test_request_shows_its_caller_error_and_message(client: FlaskClient, alice: User, browser: Browser) -> None:
    key_id, headers = create_key(client, alice, name="Checkout")
    refused = client.post("/api/v1/messages/send", json={}, headers=headers)
    sent = client.post(
        "/api/v1/messages/send", json={"type": "sms", "to": "+14155550123", "message": "Hello"}, headers=headers
    )
    message_id = sent.json["data"]["message_id"]
    record_request(alice, 404)  # writes the log
    page = browser.open(f"{LOGS}/{refused.headers['X-Request-Id']}").text
    for text in (refused.json["error"]["code"], refused.json["error"]["message"], "127.0.0.1", key_id, "422"):
        assert text in page
    page = browser.open(f"{LOGS}/{sent.headers['X-Request-Id']}").text
    assert f'href="/dashboard/messages/{message_id}"' in page
    assert f'href="{LOGS}/{sent.headers["X-Request-Id"]}"' in browser.open(f"/dashboard/messages/{message_id}").text


def test_request_of_a_user_shows_their_name(alice: User, browser: Browser) -> None:
    response = alice.client.get("/api/v1/messages/no-id", headers=alice.headers)
    record_request(alice, 404)
    page = browser.open(f"{LOGS}/{response.headers['X-Request-Id']}").text
    assert alice.email in page


def test_requests_of_another_organization_are_not_found(app: Flask, alice: User, carol: User) -> None:
    request_id, browser = record_request(alice, 422), Browser(app, carol)
    assert browser.open(f"{LOGS}/{request_id}").status_code == 404
    assert listed(browser, f"request_id={request_id}") == listed(browser) == []
    assert request_id not in browser.open(f"{LOGS}?format=csv").text


def test_open_page_counts_newer_requests(alice: User, browser: Browser) -> None:
    record_request(alice, 422)
    poll = re.search(r'id="newer".*?hx-get="([^"]+)"', browser.open(f"{LOGS}?status=4xx").text)
    assert poll is not None
    path = poll[1].replace("&amp;", "&")
    assert "new request" not in browser.open(path, **HTMX).text
    record_request(alice, 404)
    record_request(alice, 500)
    fragment = browser.open(path, **HTMX).text
    assert "Show 1 new request<" in fragment
    assert f'href="{LOGS}?status=4xx"' in fragment


def test_csv_has_the_fields_of_the_api_and_is_limited(
    alice: User, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_request(alice, 422, error_code="=HYPERLINK()", path="/api/v1/messages/send")
    rows = parse_csv(browser.open(f"{LOGS}?format=csv").text)
    _, data = alice.call("GET", "/requests?status=422")
    assert [list(row) for row in rows] == [list(data["requests"][0])]
    assert rows[0]["error_code"] == "'=HYPERLINK()"
    monkeypatch.setattr(requests, "MAX_EXPORT_ROWS", 0)
    assert browser.open(f"{LOGS}?format=csv").status_code == 422


def test_figures_of_usage_lead_to_their_requests(alice: User, client: FlaskClient, browser: Browser) -> None:
    key_id, _ = create_key(client, alice)
    ids = {status: record_request(alice, status, key=key_id) for status in (202, 422, 429, 500)}
    expected = {
        "Rejected": {ids[422]},
        "Rate limited": {ids[429]},
        "Error rate": {ids[422], ids[429], ids[500]},
    }
    for path in ("/dashboard/usage", "/dashboard/usage?range=24h", f"/dashboard/api-keys/{key_id}"):
        page = browser.open(path).text
        links = {label: href for href, label in re.findall(r'stat-label"><a href="([^"]+)">([^<]+)</a>', page)}
        for label, requests_of_label in expected.items():
            assert set(follow(browser, links[label])) == requests_of_label, (path, label)
        assert re.search(r'<td data-th="Rejected" class="num"><a href="[^"]+">1</a>', page), path
    page = browser.open("/dashboard").text
    found = re.search(r'<a href="([^"]+)">Error rate</a></p><p class="stat-value">75%<', page)
    assert found is not None
    assert set(follow(browser, found[1])) == expected["Error rate"]


def test_bars_of_usage_lead_to_the_requests_of_their_time(alice: User, browser: Browser) -> None:
    request_id = record_request(alice, 422)
    for path in ("/dashboard/usage", "/dashboard/usage?range=24h", "/dashboard"):
        links = re.findall(r'<a class="bucket" href="([^"]+)"', browser.open(path).text)
        assert any(request_id in follow(browser, link) for link in links[-2:]), path  # an hour or a day may begin
        assert request_id not in follow(browser, links[0]), path


def test_latency_and_errors_are_shown_where_calls_are(client: FlaskClient, alice: User, browser: Browser) -> None:
    key_id, _ = create_key(client, alice)
    for status in (202, 202, 202, 500):
        record_request(alice, status, key=key_id)  # each takes 1.5 ms
    for path in ("/dashboard/usage", f"/dashboard/api-keys/{key_id}"):
        page = browser.open(path).text
        figures = re.findall(r'stat-label">(?:<a[^>]*>)?([^<]+)(?:</a>)?</p><p class="stat-value">([^<]+)<', page)
        assert {("Error rate", "25%"), ("Median latency", "2 ms"), ("p95 latency", "2 ms")} <= set(figures)
    assert "95th percentile of latency per day" in browser.open("/dashboard/usage").text


def test_figures_of_the_home_page_update_by_themselves(alice: User, browser: Browser) -> None:
    assert 'hx-get="/dashboard/figures"' in browser.open("/dashboard").text
    record_request(alice, 500)
    fragment = browser.open("/dashboard/figures", **HTMX).text
    assert "1 of 1 request" in fragment
    assert "<html" not in fragment


def test_key_page_lists_the_latest_requests_of_the_key(client: FlaskClient, alice: User, browser: Browser) -> None:
    key_id, _ = create_key(client, alice)
    own, other = record_request(alice, 422, key=key_id), record_request(alice, 422)
    page = browser.open(f"/dashboard/api-keys/{key_id}").text
    assert f"{LOGS}/{own}" in page
    assert f"{LOGS}/{other}" not in page


def follow(browser: Browser, href: str) -> list[str]:
    """IDs of the requests on the page of a link."""
    return listed(browser, href.replace("&amp;", "&").partition("?")[2])


def test_list_needs_few_statements(app: Flask, alice: User, browser: Browser) -> None:
    for _ in range(3):
        record_request(alice, 422)
    with count_statements(app) as statements:
        listed(browser)
    assert len(statements) <= MAX_PAGE_STATEMENTS
